"""One training step on UNets of the real size, to see what it takes."""
