"""MACE: Mass Concept Erasure (Lu et al., CVPR 2024)."""
