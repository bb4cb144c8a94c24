"""CrossBench: every architecture of the space ``bench`` trained, so that searches can be replayed in seconds."""
