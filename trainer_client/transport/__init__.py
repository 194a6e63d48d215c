"""How the client reaches a fleet: targets, channels, retries, calls and streams of batches."""
