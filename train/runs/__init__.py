"""What a run keeps in its directory, and how it is written and read."""
