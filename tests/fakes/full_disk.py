"""Programs whose caches lie on a disk that is full to the last byte."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

# The exit status where no file system can be mounted.
UNMOUNTABLE = 99
_FULL = f"""
mount -t tmpfs -o size=16k tmpfs "$0" || exit {UNMOUNTABLE}
head -c 100000 /dev/zero > "$0/filler" 2> /dev/null
exec "$@"
"""


def beside(folder: Path) -> list[str]:
    """What runs a program that sees a full file system of its own in a folder."""
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", _FULL, str(folder)]


def can_fill(folder: Path) -> bool:
    """Whether a file system can be mounted there."""
    if shutil.which("unshare") is None:
        return False
    command = [*beside(folder), "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
