"""Families of models: what each does its own way, behind one interface."""

from erasekit.models.families.base import FamilyAdapter
from erasekit.models.families.recognise import adapter_for, families_of

__all__ = ["FamilyAdapter", "adapter_for", "families_of"]
