"""The life of one run: its record, the store, resuming, failures, GPUs, paths and provenance."""
