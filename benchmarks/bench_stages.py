"""What each stage of a batch's way costs, against decoding the same Parquet and nothing else.

    python benchmarks/bench_stages.py [--quick] [--json FILE]

homefeed in every layout, batch 4096, shuffled, on one thread: CPU seconds a million examples, and
bytes an example after the stage. The server's stages run in this process, without a network
(benchmarks/hot_path.py): read, transform (Arrow to features, runs, operations), cut (order, slices,
bookkeeping), encode (into the arena, checksums, message), compress. Send and receive are gRPC
alone: another process sends the same messages over a socket, and nothing is done with them here.
The client's stages: decompress (and verify), decode (all else until tensors are there), expand
(sparse features to rows).
"""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import xxhash

from benchmarks.delivery import as_sent, expanded
from benchmarks.harness import (
    arguments,
    homefeed,
    measured,
    report,
    runs_of,
    spread,
    table,
)
from benchmarks.hot_path import (
    InlineServer,
    decode_files_cpu_s,
    decoded,
    needed_columns,
)
from benchmarks.workloads import LAYOUTS
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.encode.compress import Compression
from trainer_client import Dataset
from trainer_client.decode import Decoder
from trainer_client.header import HeaderReader
from trainer_client.payload import unwrap
from trainer_client.transport.wire import read_response

BATCH_SIZE = 4096
MAX_MESSAGE_BYTES = 512 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
METHOD = "/bench/Send"
SERVER_STAGES = ("read", "transform", "cut", "encode", "compress", "send")
CLIENT_STAGES = ("receive", "decompress", "decode", "expand")

Stages = dict[str, float]


def server_stages(dataset: Dataset) -> Stages:
    """CPU seconds of an epoch by stage."""
    inline = InlineServer()
    with clocked_compression() as compress:
        began_s = time.thread_time()
        for _ in inline.messages(dataset.to_proto(), BATCH_SIZE):
            pass
        took_s = time.thread_time() - began_s
    stages = dict(inline.clock.cpu_s)
    stages["cut"] = took_s - sum(stages.values())
    stages["compress"] = sum(compress)
    stages["encode"] -= stages["compress"]
    inline.close()
    return stages


@contextmanager
def clocked_compression() -> Iterator[list[float]]:
    """The CPU seconds of each payload that is compressed meanwhile."""
    found: list[float] = []
    compress = Compression.compress

    def clocked(*given: Any) -> list[bytes]:
        began_s = time.thread_time()
        frames = compress(*given)
        found.append(time.thread_time() - began_s)
        return frames

    Compression.compress = clocked  # type: ignore[assignment, method-assign]
    try:
        yield found
    finally:
        Compression.compress = compress  # type: ignore[method-assign]


def compressed(dataset: Dataset) -> list[bytes]:
    """Every message of an epoch as a server sends it by default."""
    inline = InlineServer()
    try:
        return list(inline.messages(dataset.to_proto(), BATCH_SIZE))
    finally:
        inline.close()


def client_stages(messages: list[bytes]) -> tuple[Stages, dict[str, int]]:
    """CPU seconds of an epoch by stage, with nothing received over a socket; bytes of tensors."""
    stages: Stages = defaultdict(float)
    size: dict[str, int] = defaultdict(int)
    schema = pb.StreamBatchesResponse.FromString(messages[0]).schema
    decoder = Decoder(schema)
    reader = HeaderReader(sum(len(block.features) for block in schema.blocks))
    for data in messages:
        message = read_response(data).batch
        if message is None:
            continue
        header = reader.read(message)
        began_s = time.thread_time()
        wire = unwrap(header)
        xxhash.xxh64_intdigest(wire.data)
        decompressed_s = time.thread_time()
        batch = decoded(decoder, data)
        as_sent(batch)
        decoded_s = time.thread_time()
        tensors = expanded(batch)
        expanded_s = time.thread_time()
        stages["decompress"] += decompressed_s - began_s
        # Decoding decompresses too.
        stages["decode"] += (decoded_s - decompressed_s) - (decompressed_s - began_s)
        stages["expand"] += expanded_s - decoded_s
        size["arena"] += len(wire)
        size["decoded"] += batch.arena.nbytes
        size["expanded"] += sum(tensor.nbytes for tensor in tensors)
    return dict(stages), size


@contextmanager
def sender(messages: list[bytes]) -> Iterator[tuple[str, Callable[[], float]]]:
    """A process that sends messages to whoever calls: its address, and its CPU seconds so far."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_send, args=(messages, there))
    process.start()

    def cpu_s() -> float:
        here.send("cpu")
        return float(here.recv())

    try:
        yield here.recv(), cpu_s
    finally:
        here.send("end")
        process.join()


def _send(messages: list[bytes], pipe: Any) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1), options=OPTIONS)
    service, method = METHOD.removeprefix("/").split("/")
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(
        lambda _request, _context: iter(messages)
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(f"127.0.0.1:{port}")
    while pipe.recv() == "cpu":
        pipe.send(time.process_time())
    server.stop(None).wait()


def transport_stages(messages: list[bytes], runs: int) -> list[Stages]:
    """CPU seconds of sending and of receiving an epoch, both sides apart."""
    found = []
    with (
        sender(messages) as (address, sender_cpu_s),
        grpc.insecure_channel(address, options=OPTIONS) as channel,
    ):
        call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(METHOD)
        for run in range(runs + 1):
            sent_s, received_s = sender_cpu_s(), time.process_time()
            for _ in call(b""):
                pass
            received_s, sent_s = time.process_time() - received_s, sender_cpu_s() - sent_s
            if run:
                found.append({"send": sent_s, "receive": received_s})
    return found


def measure(layout: str, rows: int, runs: int) -> dict[str, Any]:
    """Every stage of a layout, in CPU seconds a million examples, and bytes an example."""
    folder = homefeed(layout, rows)
    dataset = Dataset.from_yaml(folder / "dataset.yaml")
    columns = needed_columns(dataset)
    messages = compressed(dataset)
    times: dict[str, list[float]] = defaultdict(list)
    for transport in transport_stages(messages, runs):
        decode_s, arrow_bytes, file_bytes = decode_files_cpu_s(folder, columns)
        of_client, size = client_stages(messages)
        stages = server_stages(dataset) | of_client | transport
        stages["parquet decode alone"] = decode_s
        for name, seconds in stages.items():
            times[name].append(seconds / rows * 1e6)
    return {
        "layout": layout,
        "rows": rows,
        "cpu_s_per_million": {
            name: measured(values, "s/million examples") for name, values in times.items()
        },
        "bytes_per_example": {
            "file": file_bytes / rows,
            "arrow": arrow_bytes / rows,
            "wire": sum(map(len, messages)) / rows,
        }
        | {name: total / rows for name, total in size.items()},
    }


def show(result: dict[str, Any]) -> None:
    """The table of a layout."""
    times = {name: each["runs"] for name, each in result["cpu_s_per_million"].items()}
    size = result["bytes_per_example"]
    after = {
        "read": size["arrow"],
        "encode": size["arena"],
        "compress": size["wire"],
        "receive": size["wire"],
        "decompress": size["arena"],
        "decode": size["decoded"],
        "expand": size["expanded"],
        "parquet decode alone": size["arrow"],
    }
    alone = "parquet decode alone"
    sums = {
        "server": [sum(run) for run in zip(*(times[name] for name in SERVER_STAGES), strict=True)],
        "client, as sent": [
            sum(run) for run in zip(*(times[name] for name in CLIENT_STAGES[:-1]), strict=True)
        ],
        "client, expanded": [
            sum(run) for run in zip(*(times[name] for name in CLIENT_STAGES), strict=True)
        ],
    }
    lines = [
        (name, times.get(name) or sums[name], after.get(name))
        for name in (alone, *SERVER_STAGES, "server", *CLIENT_STAGES, *list(sums)[1:])
    ]
    base = sorted(times[alone])[len(times[alone]) // 2]
    table(
        f"homefeed {result['layout']}, batch {BATCH_SIZE}, {size['file']:.0f} B/example in files",
        ("stage", "CPU s/M", "of the decode", "B/example after it"),
        [
            (
                name,
                spread(seconds, 3),
                f"{sorted(seconds)[len(seconds) // 2] / base:.0%}",
                "" if bytes_after is None else f"{bytes_after:,.0f}",
            )
            for name, seconds, bytes_after in lines
        ],
    )


def main() -> None:
    """Measures and reports."""
    options = arguments("CPU and bytes of every stage").parse_args()
    rows = 400_000 if options.quick else 1_000_000
    results = []
    for layout in LAYOUTS:
        result = measure(layout, rows, runs_of(options))
        results.append(result)
        show(result)
    report(options, "bench_stages", results)


if __name__ == "__main__":
    main()
