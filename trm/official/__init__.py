"""Checkpoints of the official code: names, shapes, options and files."""
