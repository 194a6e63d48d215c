"""A machine of its own at the end of a cable that can be cut: a network namespace behind a veth.

For a program that runs in a network and mount namespace of its own (UNSHARE starts it there).
"""

from __future__ import annotations

import shutil
import subprocess

UNSHARE = ("unshare", "--map-root-user", "--net", "--mount")
NEAR, FAR = "10.77.0.1", "10.77.0.2"
PEER = "far"
# What runs a program on the far machine.
THERE = ("nsenter", f"--net=/run/netns/{PEER}")


def can_unshare() -> bool:
    """Whether a program may have namespaces of its own here."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


def lay() -> None:
    """Makes the far machine and the cable; both end with the last process of their namespaces."""
    for command in (
        "mount -t tmpfs tmpfs /run",
        f"ip netns add {PEER}",
        "ip link set lo up",
        f"ip link add cable type veth peer name cable netns {PEER}",
        f"ip addr add {NEAR}/24 dev cable",
        "ip link set cable up",
        f"ip -n {PEER} addr add {FAR}/24 dev cable",
        f"ip -n {PEER} link set lo up",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    mend()


def cut() -> None:
    """No packet passes, and nobody is told."""
    subprocess.run(f"ip -n {PEER} link set cable down".split(), check=True, capture_output=True)


def mend() -> None:
    """Packets pass."""
    subprocess.run(f"ip -n {PEER} link set cable up".split(), check=True, capture_output=True)
