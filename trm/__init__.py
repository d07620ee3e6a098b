"""Tiny Recursive Models and their relatives. Knows no mesh, no optimizer, no files."""
