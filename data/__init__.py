"""Puzzle datasets in NumPy: building, reading and sampling them, without JAX."""
