"""What a run says while it goes on: metrics, speed, progress, traces."""
