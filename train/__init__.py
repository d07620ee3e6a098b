"""Training of every model: the only place with devices, files and clocks."""
