"""What a step costs and how fast it can be at best, from its compiled program."""
