"""Datasets of puzzles and of text in NumPy: building and sampling, without JAX."""
