"""Training: one step, one run, and its result."""
