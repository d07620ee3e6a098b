"""The Abstraction and Reasoning Corpus (ARC)."""
