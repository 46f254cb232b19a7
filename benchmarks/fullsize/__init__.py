"""What training takes on UNets of the real size: measured here, and reckoned for GPUs."""
