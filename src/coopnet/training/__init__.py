"""Training: one step, one run, and what it leaves behind."""
