"""Files to snapshots, splits to Arrow tables. Local Parquet."""
