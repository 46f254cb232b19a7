"""Preservation strategies, one per file."""
