"""The numbers of a run while it trains: trackers, terminal, speed, traces."""
