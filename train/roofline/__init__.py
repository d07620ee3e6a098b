"""Memory, collectives and least time of a train step, from its compiled program."""
