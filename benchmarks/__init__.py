"""Speed of the training loop compared with a plain one, and whether both learn alike. Run by `coopnet bench`."""

SIDES = ("ours", "reference")
"""The loops that are compared."""
