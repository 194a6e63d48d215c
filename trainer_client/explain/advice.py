"""What would help, in words: as specific as the counters are."""

from __future__ import annotations

from collections import defaultdict

from trainer_client.explain.bounds import BOUND_BY_STAGE, Bound
from trainer_client.explain.figures import Situation
from trainer_client.explain.verdict import POOL_BUSY, Verdict

# Parts below this share of their stage are not worth a word; and no more of them than these.
NOTED, MOST_NOTED = 0.1, 3
# A stage that takes so much of what the first one takes is worth a word.
NEARLY = 0.6
# Worker threads that wait for a core for this share of their time are worth a word.
QUEUED = 0.3
# Worker threads that have a core and do not use it, while they encode, for this share of it.
LOCKED = 0.3
# The same of reading threads, of which each batch needs the GIL a few times; and the share of the
# trainer's cores above which it may be for want of a core.
HELD_UP, CORES_BUSY = 0.6, 0.8

_WHAT_HELPS: dict[Bound, str] = {
    Bound.STEP: "Nothing on this side: batches are there when the trainer asks for them.",
    Bound.COPY: (
        "pin_memory=True with device=, so that copies run beside the step; fewer features; "
        "sparse features as they were sent (batch.sparse.deduplicated)."
    ),
    Bound.RANKS: (
        "This rank has its batches and waits for another one: ask there (stream.explain() on "
        "every rank)."
    ),
    Bound.HANDOVER: "Larger batches: handing one over takes longer than making it.",
    Bound.WIRE: (
        "A faster network, or fewer bytes: shorter lists (ops.Tail), fewer features, files "
        "clustered by what repeats (docs/sparse_features.md); --zstd-level=3, if servers have idle "
        "cores."
    ),
    Bound.LATENCY: "More streams at once (interleave), larger batches, servers that are nearer.",
    Bound.OPENING: "Fewer, longer shards (num_shards).",
    Bound.MEMORY: (
        "More --read-ahead-bytes, or more servers; smaller row groups, or a smaller "
        "max_split_bytes."
    ),
    Bound.ENCODE: (
        "More servers or cores; shorter lists (ops.Tail), fewer features; files clustered by what "
        "repeats; --zstd-level=-1, if lists are long and seldom repeat."
    ),
    Bound.ORDER: "More servers or cores; fewer shuffle_window_splits.",
    Bound.TRANSFORM: "More servers or cores; fewer or cheaper operations; ops.Tail first.",
    Bound.DECODE: (
        "More servers or cores; fewer columns; files rewritten with ZSTD or Snappy, in row groups "
        "of 50,000 to 200,000 rows."
    ),
    Bound.STORAGE: (
        "Faster or nearer storage; fewer columns. If the storage is slow to answer rather than "
        "short of bandwidth: more reads at once (more --cpu-threads than cores, more interleave)."
    ),
    Bound.FAILURES: "The servers' logs and the warnings of this client say what fails.",
}


def advice(verdict: Verdict, situation: Situation) -> tuple[str, ...]:
    """Sentences, the most useful first; none where nothing is known."""
    lines = [_WHAT_HELPS[verdict.bound]] if verdict.bound in _WHAT_HELPS else []
    match verdict.bound:
        case Bound.STEP:
            lines += _held_up(situation)
        case Bound.CLIENT:
            lines += [*_held_up(situation), _client(situation)]
        case Bound.LANES:
            lines.append(_lanes(verdict, situation))
        case Bound.UNKNOWN if verdict.reason:
            lines.append(verdict.reason + ".")
        case Bound.FAILURES:
            lines.insert(0, f"{situation.retries:,} streams had to go on elsewhere.")
    if verdict.bound in BOUND_BY_STAGE.values():
        lines[:0] = _stages(verdict, situation)
        lines += _parts(verdict, situation)
        lines[:0] = [*_cores(verdict, situation), *_locks(verdict, situation)]
    if verdict.server:
        lines.insert(
            0,
            f"{verdict.server} is far slower than the other servers: compare its machine, its "
            "storage and its load with theirs.",
        )
    if verdict.bound is not Bound.UNKNOWN:
        lines += [
            f"Not known of {name}: {why}."
            for name, why in situation.servers.items()
            if isinstance(why, str)
        ]
    return tuple(lines)


def _client(situation: Situation) -> str:
    return (
        f"More cores for the trainer (decoding has {situation.cores:g}), or more interleave, which "
        "decodes more at once; batches as they were sent (expand=False); shorter lists (ops.Tail)."
    )


def _held_up(situation: Situation) -> list[str]:
    """Whether the training step keeps reading threads from running, and they it."""
    loop = situation.loop
    waits_s = loop.decoding_s - loop.decoding_cpu_s
    busy = loop.cpu_s > CORES_BUSY * situation.cores * loop.at_s
    if situation.beside or busy or waits_s <= HELD_UP * loop.decoding_s:
        return []
    waits = f"Reading threads wait for {waits_s / loop.decoding_s:.0%} of the time in which they "
    return [
        waits + "decode, though there are idle cores: the training step holds the GIL, and each "
        "batch interrupts it several times. reader_process=True reads beside it (docs/tuning.md)."
    ]


def _lanes(verdict: Verdict, situation: Situation) -> str:
    return (
        f"More streams at once (interleave is {situation.interleave}), or more prefetch_factor: "
        "the servers have idle threads while this trainer waits. Longer shards (a smaller "
        "num_shards) start less often."
        + (f" Of what they do, {verdict.stage} takes most." if verdict.stage else "")
    )


def _stages(verdict: Verdict, situation: Situation) -> list[str]:
    """How much of the workers' time goes into the stage that bounds, and into the next one."""
    times = [each for name, each in situation.known_servers.items() if verdict.server in {"", name}]
    own_s = {name: sum(each.stage(name).own_s for each in times) for name in BOUND_BY_STAGE}
    total_s = sum(own_s.values())
    first, second = sorted(own_s, key=lambda name: -own_s[name])[:2]
    if BOUND_BY_STAGE[first] is not verdict.bound or not total_s:
        return []
    words = f"{first.capitalize()} takes {own_s[first] / total_s:.0%} of what the workers do"
    if own_s[second] >= NEARLY * own_s[first]:
        words += f", {second} nearly as much: {own_s[second] / total_s:.0%}"
    return [words + "."]


def _parts(verdict: Verdict, situation: Situation) -> list[str]:
    """The columns or features that take most of the stage that bounds."""
    stage = next(name for name, bound in BOUND_BY_STAGE.items() if bound is verdict.bound)
    # Storage is read by column too, and counted with its decoding.
    named = "decode" if stage == "read" else stage
    sums: dict[str, float] = defaultdict(float)
    for name, times in situation.known_servers.items():
        if verdict.server in {"", name}:
            for part, seconds in times.stage(named).parts.items():
                sums[part] += seconds
    total_s = sum(sums.values())
    noted = sorted(sums, key=lambda part: -sums[part])[:MOST_NOTED]
    words = [f"{part} {sums[part] / total_s:.0%}" for part in noted if sums[part] > NOTED * total_s]
    if len(sums) < 2 or not words:
        return []
    doing = {"read": "reading and decoding", "decode": "reading and decoding"}
    return [f"Of the time for {doing.get(stage, stage)}: {', '.join(words)}."]


def _cores(verdict: Verdict, situation: Situation) -> list[str]:
    """Whether threads could run and have no core."""
    times = [
        each
        for name, each in situation.known_servers.items()
        if verdict.server in {"", name} and each.busy_share >= POOL_BUSY
    ]
    busy_s = sum(each.busy_s for each in times)
    queued_s = sum(each.stage(name).queued_s for each in times for name in BOUND_BY_STAGE)
    if queued_s <= QUEUED * busy_s:
        return []
    waits = f"Worker threads wait for a core for {queued_s / busy_s:.0%} of their time: "
    return [
        waits + "other programs use the servers' machines, or --cpu-threads is above their cores."
    ]


def _locks(verdict: Verdict, situation: Situation) -> list[str]:
    """Whether threads keep one another from running: encoding waits for nothing else.

    Nothing is said of servers whose kernel does not tell how long threads wait for a core.
    """
    times = [
        each.stage("encode")
        for name, each in situation.known_servers.items()
        if verdict.server in {"", name}
        and each.cpu_threads > 1
        and each.busy_share >= POOL_BUSY
        and any(stage.queued_s for stage in each.stages.values())
    ]
    own_s = sum(each.own_s for each in times)
    locked_s = own_s - sum(each.cpu_s for each in times)
    if locked_s <= LOCKED * own_s:
        return []
    waits = f"Worker threads wait for one another (the GIL) for {locked_s / own_s:.0%} of the time "
    return [
        waits + "in which they encode: run more servers with fewer --cpu-threads each "
        "(docs/tuning.md)."
    ]
