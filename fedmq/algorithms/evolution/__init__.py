"""Federated evolution: every trainer scores every candidate and evolves offspring of its own with PyGAD."""
