"""Unified Concept Editing (Gandikota et al., WACV 2024)."""
