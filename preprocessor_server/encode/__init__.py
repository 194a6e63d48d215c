"""Features to compact batches, as docs/compact_batch.md specifies them."""
