"""How fast the training loop is, beside a plain one, and whether both learn alike. Run by `coopnet bench`."""

SIDES = ("ours", "reference")
"""The loops that are compared."""
