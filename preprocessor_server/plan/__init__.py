"""From a snapshot to splits to shards: pure functions of the snapshot and the batch identity."""
