"""What a stream handed to its trainer, written down step by step, and read back as a run."""
