"""Trained networks outside the study: exported, described by a model card, applied to images, and compared."""
