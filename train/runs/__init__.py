"""The directory of a run: configuration, lock, checkpoints, metrics."""
