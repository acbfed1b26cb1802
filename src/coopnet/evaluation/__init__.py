"""Evaluation: every number about a trained network, computed from its saved logits."""
