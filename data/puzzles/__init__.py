"""Puzzles: datasets on disk, their batches, and the builders of each kind."""
