"""Which nodes of a cluster may have replicas, and what to say when they have no room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# What ray.nodes() calls the accelerators that Ray knows.
ACCELERATORS = frozenset(
    {"GPU", "TPU", "HPU", "NPU", "TTNPU", "neuron_cores", "RBLN", "FURIOSA", "MBLT"}
)
# Every node has it, of its own id.
NODE_LABEL = "ray.io/node-id"
SHOWN_NODES = 8

Node = Mapping[str, Any]


def has_accelerator(node: Node) -> bool:
    """Whether a node has GPUs, or what else trainings pay for."""
    return any(
        amount > 0 and (name in ACCELERATORS or name.startswith("accelerator_type:"))
        for name, amount in node["Resources"].items()
    )


def kept_free(nodes: Sequence[Node], *, allow_gpu_nodes: bool) -> frozenset[str]:
    """The ids of the nodes that replicas stay away from."""
    if allow_gpu_nodes:
        return frozenset()
    return frozenset(n["NodeID"] for n in nodes if n["Alive"] and has_accelerator(n))


def selector(kept: frozenset[str]) -> dict[str, str]:
    """The label selector that keeps an actor away from nodes, wherever Ray restarts it."""
    return {NODE_LABEL: f"!in({','.join(sorted(kept))})"} if kept else {}


def lack_of_room(
    nodes: Sequence[Node], free_cpus: float, cpus: float, *, allow_gpu_nodes: bool
) -> str:
    """What replicas that Ray has not placed ask for, what there is, and the way out."""
    kept = kept_free(nodes, allow_gpu_nodes=allow_gpu_nodes)
    alive = [n for n in nodes if n["Alive"]]
    usable = [n for n in alive if n["NodeID"] not in kept]
    lines = [_line(n, n["NodeID"] in kept) for n in alive]
    if len(lines) > SHOWN_NODES:
        lines[SHOWN_NODES:] = [f"and {len(lines) - SHOWN_NODES} more"]
    where = "" if allow_gpu_nodes else " on a node without GPU"
    ways = ["fewer replicas", "fewer CPUs a replica (cpus)", "more nodes"]
    if kept:
        ways.append("allow_gpu_nodes")
    enough = any(n["Resources"].get("CPU", 0) >= cpus for n in usable)
    problem = "all of those are taken" if enough else "no node has that many"
    return (
        f"a replica asks for {cpus:g} CPU{where}, and {problem}; the cluster has "
        f"{', '.join(lines) or 'no node'}; {free_cpus:g} CPU of all are free. "
        f"What helps: {', '.join(ways)}"
    )


def _line(node: Node, is_kept: bool) -> str:
    cpus = f"{node['NodeManagerAddress']} with {node['Resources'].get('CPU', 0):g} CPU"
    return f"{cpus} (has a GPU, kept free)" if is_kept else cpus
