"""Decoding a compact batch against unpickling the same tensors.

    python benchmarks/bench_decode.py [--quick] [--json FILE]

Batches of 4096 rows of homefeed, in every layout, on one thread, in CPU seconds a million examples.
The rival is a pickle (protocol 5) of a dict of per-feature torch tensors, compressed at ZSTD level
1; beside it the same at level -1 (servers choose between the two for each plane of bytes), and
uncompressed, of torch tensors and of numpy arrays. A compact batch, as servers send it by default,
is parsed, verified (both checksums) and decompressed, and every tensor is taken: as it was sent,
and expanded to rows.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.delivery import MODES, Take
from benchmarks.harness import arguments, measured, report, runs_of, shown, table
from benchmarks.hot_path import RIVAL_ZSTD_LEVELS, decoded, layout_batches
from benchmarks.wire_formats import Format, NumpyPickle, TorchPickle, Zstd, features_of
from benchmarks.workloads import LAYOUTS
from trainer_client.decode import Decoder

BATCH_SIZE = 4096
RIVAL = f"pickle of torch tensors + zstd {RIVAL_ZSTD_LEVELS[0]}"

Decode = Callable[[bytes], object]


def decode_compact(decoder: Decoder, take: Take, data: bytes) -> object:
    """The tensors of a message."""
    return take(decoded(decoder, data))


def contestants(layout: str, rows: int, count: int) -> dict[str, tuple[Decode, list[bytes]]]:
    """How each form is decoded, and the same batches in it."""
    _, decoder, messages = layout_batches(layout, rows, BATCH_SIZE, count)
    features = [features_of(decoded(decoder, data)) for data in messages]
    found: dict[str, tuple[Decode, list[bytes]]] = {
        f"compact batch, {mode}": (partial(decode_compact, decoder, take), messages)
        for mode, take in MODES.items()
    }
    forms: list[Format] = [Zstd(TorchPickle(), level) for level in RIVAL_ZSTD_LEVELS]
    forms += [TorchPickle(), NumpyPickle()]
    for form in forms:
        found[form.name] = (form.decode, [form.encode(batch) for batch in features])
    return found


def measure(layout: str, rows: int, count: int, runs: int) -> list[dict[str, Any]]:
    """Every form on the batches of a layout, taking turns."""
    forms = contestants(layout, rows, count)
    times: dict[str, list[float]] = defaultdict(list)
    for run in range(runs + 1):
        for name, (function, encoded) in forms.items():
            began_s = time.thread_time()
            for data in encoded:
                function(data)
            took_s = time.thread_time() - began_s
            if run:
                times[name].append(took_s / (len(encoded) * BATCH_SIZE) * 1e6)
    ratios = {
        name: [rival / own for rival, own in zip(times[RIVAL], times[name], strict=True)]
        for name in forms
    }
    return [
        {
            "layout": layout,
            "form": name,
            "cpu_s_per_million": measured(times[name], "s/million examples"),
            "cheaper_than_rival": measured(ratios[name], "times"),
            "bytes_per_example": statistics.fmean(map(len, encoded)) / BATCH_SIZE,
        }
        for name, (_, encoded) in forms.items()
    ]


def main() -> None:
    """Measures and reports."""
    options = arguments("Compact batches against pickles").parse_args()
    rows, count = (100_000, 16) if options.quick else (1_000_000, 64)
    results = []
    for layout in LAYOUTS:
        found = measure(layout, rows, count, runs_of(options))
        results += found
        table(
            f"homefeed {layout}, batch {BATCH_SIZE}",
            ("form", "decode CPU s/M", "times cheaper", "B/example"),
            [
                (
                    result["form"],
                    shown(result["cpu_s_per_million"], 3),
                    shown(result["cheaper_than_rival"], 1),
                    f"{result['bytes_per_example']:,.0f}",
                )
                for result in found
            ],
        )
    report(options, "bench_decode", results)


if __name__ == "__main__":
    main()
