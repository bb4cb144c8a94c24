"""Which architecture to try next, and getting it tried on this machine or on a Ray cluster."""
