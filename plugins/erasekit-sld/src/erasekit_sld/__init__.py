"""Safe latent guidance (Schramowski et al., CVPR 2023) as a method of erasekit."""
