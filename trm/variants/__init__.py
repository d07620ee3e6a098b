"""What a TRM refines, and how: one final class a file."""
