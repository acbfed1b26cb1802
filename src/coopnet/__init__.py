"""Cooperative networks: on-the-fly native ensembles, their growth and their merging, as one reproducible study."""

__version__ = "0.1.0"
