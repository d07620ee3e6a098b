"""Measurements of this project's code against other code: run them as modules."""
