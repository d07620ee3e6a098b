"""Variants of the recursion: one final class in each file."""
