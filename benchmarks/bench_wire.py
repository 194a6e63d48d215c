"""Bytes an example, and CPU to write and read them, against the formats that people send.

    python benchmarks/bench_wire.py [--quick] [--json FILE]

Batches of 4096 rows of homefeed, in every layout, on one thread. Headrace writes from its decoded
features (the cost of its encode stage: gather, arena, checksums, ZSTD, message) and reads to
tensors, as sent and expanded to rows; the others write from, and read to, a dict of per-feature
tensors of the same rows (benchmarks/wire_formats.py), each plain and at the ZSTD levels of which
servers choose one for each plane of bytes. tf.train.Example is written and read by Python's
protobuf: its bytes are TensorFlow's, its CPU is not. What each reads is checked equal to what was
written before anything is timed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from benchmarks.delivery import MODES
from benchmarks.harness import arguments, measured, report, runs_of, shown, table
from benchmarks.hot_path import (
    RIVAL_ZSTD_LEVELS,
    InlineServer,
    decoded,
    layout_batches,
    parse,
)
from benchmarks.wire_formats import Features, Format, features_of, formats, same
from benchmarks.workloads import LAYOUTS
from trainer_client import Dataset

BATCH_SIZE = 4096
# A format that takes longer than this for a batch is timed on one batch, and in one run.
SLOW_S = 0.2


def per_million(seconds: float, batches: int) -> float:
    """Seconds for some batches as seconds a million examples."""
    return seconds / (batches * BATCH_SIZE) * 1e6


def time_format(form: Format, batches: list[Features]) -> dict[str, float]:
    """CPU seconds a million examples to write and to read, and bytes an example."""
    encoded: list[bytes] = []
    began_s = time.thread_time()
    for batch in batches:
        encoded.append(form.encode(batch))
        if time.thread_time() - began_s > SLOW_S * len(encoded):
            break
    encoded_s = time.thread_time()
    for data in encoded:
        form.decode(data)
    decoded_s = time.thread_time()
    return {
        "encode": per_million(encoded_s - began_s, len(encoded)),
        "decode": per_million(decoded_s - encoded_s, len(encoded)),
        "bytes": sum(map(len, encoded)) / len(encoded) / BATCH_SIZE,
    }


def time_encode(dataset: Dataset) -> float:
    """CPU seconds a million examples of the server's encode stage, ZSTD and message included."""
    inline = InlineServer()
    rows = 0
    try:
        for data in inline.messages(dataset.to_proto(), BATCH_SIZE):
            rows += parse(data).row_count
        return inline.clock.cpu_s["encode"] / rows * 1e6
    finally:
        inline.close()


def measure(layout: str, rows: int, count: int, runs: int) -> list[dict[str, Any]]:
    """Every format on the batches of a layout, taking turns."""
    dataset, decoder, sent = layout_batches(layout, rows, BATCH_SIZE, count)
    batches = [features_of(decoded(decoder, data)) for data in sent]
    rivals = formats(RIVAL_ZSTD_LEVELS)
    for form in rivals:
        if not same(form.decode(form.encode(batches[0])), batches[0]):
            raise RuntimeError(f"{form.name} reads other tensors than were written")
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    size = sum(map(len, sent))
    for _ in range(runs):
        encode = time_encode(dataset)
        for mode, take in MODES.items():
            began_s = time.thread_time()
            for data in sent:
                take(decoded(decoder, data))
            own = figures[f"headrace, {mode}"]
            own["decode"].append(per_million(time.thread_time() - began_s, len(sent)))
            own["encode"].append(encode)
            own["bytes"].append(size / len(sent) / BATCH_SIZE)
        for form in rivals:
            encoded = figures[form.name]["encode"]
            if encoded and encoded[0] > per_million(SLOW_S, 1):
                continue
            for name, value in time_format(form, batches).items():
                figures[form.name][name].append(value)
    return [
        {
            "layout": layout,
            "format": name,
            "bytes_per_example": measured(figure["bytes"], "bytes"),
            "encode_cpu_s_per_million": measured(figure["encode"], "s/million examples"),
            "decode_cpu_s_per_million": measured(figure["decode"], "s/million examples"),
        }
        for name, figure in figures.items()
    ]


def main() -> None:
    """Measures and reports."""
    options = arguments("Bytes and CPU of wire formats").parse_args()
    rows, count = (100_000, 6) if options.quick else (1_000_000, 48)
    results = []
    for layout in LAYOUTS:
        found = measure(layout, rows, count, runs_of(options))
        results += found
        table(
            f"homefeed {layout}, batch {BATCH_SIZE}",
            ("format", "B/example", "encode CPU s/M", "decode CPU s/M"),
            [
                (
                    result["format"],
                    f"{result['bytes_per_example']['median']:,.0f}",
                    shown(result["encode_cpu_s_per_million"], 2),
                    shown(result["decode_cpu_s_per_million"], 2),
                )
                for result in found
            ],
        )
    report(options, "bench_wire", results)


if __name__ == "__main__":
    main()
