"""A feature in the making: change make_feature, run this again; the servers stay as they are.

    preprocessor-server serve --data-root demo/data --udf=upload
    python examples/iterate_udf.py rows age --target static:///127.0.0.1:50051

FILES are Parquet files or folders as the servers see them, COLUMN is one of numbers in them. It
prints what the first batch has of the feature. --target local://1 does without a server.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pyarrow as pa

from trainer_client import BatchStream, Dataset, Dense, Udf, parquet


def make_feature(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Half the distance of each value from the mean of its block; a null is at the mean."""
    values = batch.column(0).to_numpy(zero_copy_only=False).astype(np.float64)
    feature = (values - np.nanmean(values)) / 2
    return pa.RecordBatch.from_pydict({"feature": np.nan_to_num(feature).astype(np.float32)})


def main() -> None:
    """Streams the first batch, and says what is in it."""
    options = arguments()
    dataset = Dataset(
        source=parquet(options.files),
        udfs=[Udf(make_feature, inputs=[options.column], outputs={"feature": "float32"})],
        features=[Dense("feature")],
    )
    began_s = time.monotonic()
    with BatchStream(dataset, target=options.target, batch_size=4096, seed=1) as stream:
        batch = next(iter(stream))
        took_s = time.monotonic() - began_s
        assert batch.dense is not None
        found = {"rows": batch.batch_size, "std": batch.dense.std().item(), "stream_s": took_s}
        print(json.dumps(found), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", metavar="FILES")
    parser.add_argument("column", metavar="COLUMN")
    parser.add_argument("--target", default="local://1")
    return parser.parse_args()


if __name__ == "__main__":
    main()
