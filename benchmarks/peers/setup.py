"""Makes one virtual environment a peer, under benchmarks/peers/.venvs (make bench-setup).

    python benchmarks/peers/setup.py [name ...]

A peer's packages are pinned here and, where Headrace uses them too, by constraints.txt, so that all
read Parquet with the same pyarrow. An environment that has what is asked for is left as it is.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENTS = HERE / ".venvs"

PACKAGES: dict[str, tuple[str, ...]] = {
    "tfdata": ("tensorflow-cpu==2.21.*", "pyarrow", "numpy"),
    # Without aiohttp an optional import of Ray's fails in one thread while another is at it;
    # iter_torch_batches needs pydantic.
    # Headrace is for raydata_stream.py, which is that pipeline behind a fleet.
    "raydata": (
        *("ray[data]==2.60.*", "aiohttp", "pydantic", "torch", "pyarrow", "numpy"),
        *("--editable", f"{ROOT}[server,trainer]"),
    ),
    "flight": ("pyarrow", "numpy"),
    "dataloader": ("torch", "pyarrow", "numpy"),
    "decode_only": ("pyarrow", "numpy"),
}


def interpreter(name: str) -> Path:
    """The Python of a peer's environment, whether it is there or not."""
    return ENVIRONMENTS / name / "bin" / "python"


def wanted(name: str) -> str:
    """What an environment's stamp says when it is complete."""
    constraints = (ROOT / "constraints.txt").read_text()
    return "\n".join([sys.version, str(ENVIRONMENTS / name), *PACKAGES[name], constraints])


def is_ready(name: str) -> bool:
    """Whether the environment has what this file asks for."""
    stamp = ENVIRONMENTS / name / "stamp"
    return stamp.exists() and stamp.read_text() == wanted(name)


def install(name: str) -> None:
    """Makes one environment anew. Raises CalledProcessError, with pip's own words printed."""
    venv.create(ENVIRONMENTS / name, clear=True, with_pip=True)
    pip = [str(interpreter(name)), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *constraints, *PACKAGES[name]], check=True)
    # Last, so that an install that was cut short leaves none.
    (ENVIRONMENTS / name / "stamp").write_text(wanted(name))


def main() -> int:
    """Makes the environments that are named, or all."""
    names = sys.argv[1:] or list(PACKAGES)
    if unknown := set(names) - set(PACKAGES):
        print(f"no peer {sorted(unknown)}; there are {', '.join(PACKAGES)}", file=sys.stderr)
        return 2
    for name in names:
        if is_ready(name):
            continue
        print(f"Setting up {ENVIRONMENTS / name}", flush=True)
        try:
            install(name)
        except subprocess.CalledProcessError as error:
            print(f"peers: pip could not install {name} (exit {error.returncode})", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
