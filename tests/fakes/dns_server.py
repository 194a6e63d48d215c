"""A DNS server for one name, on 127.0.0.1:53 of a network namespace of its own.

    unshare --map-root-user --net --mount python -m tests.fakes.dns_server SCRIPT ARGUMENTS...

Inside the namespace the system's resolver asks this server; SCRIPT is a module whose main(server)
runs there, and its exit status is this program's.
"""

from __future__ import annotations

import importlib
import socket
import struct
import subprocess
import sys
import tempfile
import threading

NAME = "fleet.test"
A, IN = 1, 1


class DnsServer:
    """Answers queries for NAME with addresses, which may be changed at any time."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.fails = False
        self.queries = 0
        self.changed = threading.Condition()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def wait_for_queries(self, count: int) -> None:
        """Returns once so many more queries were answered."""
        with self.changed:
            wanted = self.queries + count
            assert self.changed.wait_for(lambda: self.queries >= wanted, 20)

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            end = query.index(b"\0", 12) + 5
            (kind,) = struct.unpack_from(">H", query, end - 4)
            # The records of the additional section (EDNS) are not repeated.
            records = self.addresses if kind == A and not self.fails else []
            flags = 0x8182 if self.fails else 0x8180
            answer = query[:2] + struct.pack(">5H", flags, 1, len(records), 0, 0) + query[12:end]
            for address in records:
                answer += struct.pack(">HHHIH", 0xC00C, A, IN, 0, 4) + socket.inet_aton(address)
            self._socket.sendto(answer, client)
            if kind == A:
                with self.changed:
                    self.queries += 1
                    self.changed.notify_all()


def main() -> None:
    """Makes the namespace's resolver ask a server of ours, and runs the script."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.NamedTemporaryFile("w") as resolv:
        resolv.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        resolv.flush()
        subprocess.run(["mount", "--bind", resolv.name, "/etc/resolv.conf"], check=True)
        importlib.import_module(sys.argv[1]).main(DnsServer())


if __name__ == "__main__":
    main()
