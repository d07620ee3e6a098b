"""Measurements of this project's code against other code; each is run as a module."""
