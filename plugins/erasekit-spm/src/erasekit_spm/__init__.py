"""One-dimensional adapters (SPM, Lyu et al., CVPR 2024) as a method of erasekit."""
