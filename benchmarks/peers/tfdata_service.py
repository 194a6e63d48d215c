"""One process of a tf.data service: the dispatcher, or a worker. Prints its address."""

from __future__ import annotations

import argparse
import json

import tensorflow as tf  # type: ignore[import-untyped]

service = tf.data.experimental.service


def main() -> None:
    """Serves until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dispatcher", help="its address: be a worker of it")
    dispatcher = parser.parse_args().dispatcher
    if dispatcher is None:
        server = service.DispatchServer(service.DispatcherConfig(port=0))
        address = server.target.partition("://")[2]
    else:
        server = service.WorkerServer(service.WorkerConfig(dispatcher_address=dispatcher, port=0))
        address = ""
    print(json.dumps({"address": address}), flush=True)
    server.join()


if __name__ == "__main__":
    main()
