"""SPEED (Li et al., 2025): null-space constrained closed form."""
