"""Erasure methods and preservation strategies."""
