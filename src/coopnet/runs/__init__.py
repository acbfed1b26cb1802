"""One run's life: its record, the store, resuming, failures, GPUs, paths and provenance."""
