"""A verdict with its figures and advice, as a table for people and as JSON for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from trainer_client.explain.advice import advice
from trainer_client.explain.bounds import BOUND_BY_STAGE, Bound
from trainer_client.explain.figures import Situation
from trainer_client.explain.verdict import Verdict, judge

WIDTH = 79
LEAST_SHOWN_S = 0.005

_HEADLINES = {
    Bound.STEP: "The training step bounds the rate",
    Bound.COPY: "Copying batches to the device bounds the rate",
    Bound.RANKS: "Another rank bounds the rate",
    Bound.HANDOVER: "Handing batches over in this trainer bounds the rate",
    Bound.CLIENT: "Decoding in this trainer bounds the rate",
    Bound.WIRE: "The wire bounds the rate",
    Bound.LATENCY: "The latency between trainer and servers bounds the rate",
    Bound.LANES: "Too few streams at once bound the rate",
    Bound.OPENING: "Opening streams bounds the rate",
    Bound.MEMORY: "The servers' memory for rows bounds the rate",
    Bound.ENCODE: "Encoding on the servers bounds the rate",
    Bound.ORDER: "Putting shuffle windows in order on the servers bounds the rate",
    Bound.TRANSFORM: "Transforming on the servers bounds the rate",
    Bound.DECODE: "Decoding Parquet on the servers bounds the rate",
    Bound.STORAGE: "The servers' storage bounds the rate",
    Bound.FAILURES: "Streams that fail bound the rate",
    Bound.UNKNOWN: "Cannot tell what bounds the rate",
}
_WAITS = set(Bound) - {Bound.STEP, Bound.COPY}
_STREAMS = {
    "wait": "waiting for workers",
    "send": "blocked in sending",
    "memory": "waiting for memory",
    "open": "being opened",
}


@dataclass(frozen=True)
class Explanation:
    """What bounds the rate of a stream over an interval. str() is a table of at most 79 columns."""

    verdict: Verdict
    advice: tuple[str, ...]
    situation: Situation

    @property
    def bound(self) -> Bound:
        """What bounds the rate; its value is a name for people."""
        return self.verdict.bound

    def to_dict(self) -> dict[str, object]:
        """All of it as JSON has it; seconds, bytes and counts."""
        situation, verdict = self.situation, self.verdict
        loop = asdict(situation.loop)
        return {
            "bound": verdict.bound.value,
            "share": round(verdict.share, 4),
            "server": verdict.server,
            "headline": self.headline,
            "advice": list(self.advice),
            "seconds": {bound.value: round(s, 4) for bound, s in verdict.seconds.items()},
            "loop": {name: dict(v) if isinstance(v, dict) else v for name, v in loop.items()},
            "retries": situation.retries,
            "servers": {
                name: {"failure": each} if isinstance(each, str) else asdict(each)
                for name, each in situation.servers.items()
            },
        }

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        verdict, loop = self.verdict, self.situation.loop
        words = _HEADLINES[verdict.bound]
        if verdict.server:
            words = words.replace("on the servers", "on one server")
            words = words.replace("The servers'", "One server's")
        if not verdict.seconds:
            return words + "."
        waits = _percent(loop.next_s, self.situation.total_s)
        if verdict.bound is Bound.STEP:
            return f"{words}: the trainer waits {waits} of its time."
        return f"{words}: the trainer waits {waits} of its time, {verdict.share:.0%} for this."

    def __str__(self) -> str:
        lines = [*textwrap.wrap(self.headline, WIDTH)]
        if self.verdict.seconds:
            lines += ["", *self._loop_lines(), "", *self._server_lines()]
        if self.advice:
            lines += ["", "What would help" if self.bound is not Bound.UNKNOWN else "Why"]
            for sentence in self.advice:
                lines += textwrap.wrap(sentence, WIDTH, initial_indent="  ", subsequent_indent="  ")
        return "\n".join(lines)

    def _loop_lines(self) -> Iterator[str]:
        situation, loop, total_s = self.situation, self.situation.loop, self.situation.total_s
        yield _row(f"trainer, {total_s:.1f} s", "seconds", "share")
        for bound in Bound:
            seconds = self.verdict.seconds.get(bound, 0.0)
            if seconds >= LEAST_SHOWN_S or bound is Bound.STEP:
                name = f"waits: {bound.value}" if bound in _WAITS else bound.value
                yield _row(name, _seconds(seconds), _percent(seconds, total_s), self._mark(bound))
        receiving_s = sum(loop.receiving_s.values())
        lanes_s = total_s * situation.interleave
        for what, seconds, cpu in (
            ("waiting for messages", receiving_s, ""),
            ("decoding", loop.decoding_s, _seconds(loop.decoding_cpu_s)),
        ):
            share = _percent(seconds, lanes_s)
            yield _row(f"lanes: {what}", _seconds(seconds), share, cpu=cpu)
        rows, sent = sum(loop.rows.values()), sum(loop.wire_bytes.values())
        cores = loop.cpu_s / loop.at_s if loop.at_s else 0.0
        yield (
            f"  {rows / total_s:,.0f} examples/s, {sent / total_s / 1e6:,.1f} MB/s on the wire; "
            f"CPU {cores:.1f} of {situation.cores:g} cores"
        )

    def _server_lines(self) -> Iterator[str]:
        times = list(self.situation.known_servers.values())
        if not times:
            yield "  servers: no counters"
            return
        threads_s = sum(each.elapsed_s * each.cpu_threads for each in times)
        idle_s = max(0.0, threads_s - sum(each.busy_s for each in times))
        threads = sum(each.cpu_threads for each in times)
        servers = "1 server" if len(times) == 1 else f"{len(times)} servers"
        yield _row(f"{servers}, {threads} worker threads", "seconds", "share", "", "CPU s", "MB")
        for name, bound in BOUND_BY_STAGE.items():
            stages = [each.stage(name) for each in times]
            seconds = sum(stage.wall_s for stage in stages)
            size = sum(stage.size_bytes for stage in stages)
            yield _row(
                "read (storage)" if name == "read" else name,
                _seconds(seconds),
                _percent(seconds, threads_s),
                self._mark(bound),
                _seconds(sum(stage.cpu_s for stage in stages)),
                f"{size / 1e6:,.1f}" if size else "",
            )
        yield _row("idle", _seconds(idle_s), _percent(idle_s, threads_s))
        for name, words in _STREAMS.items():
            seconds = sum(each.stage(name).wall_s for each in times)
            yield _row(f"streams: {words}", _seconds(seconds))
        cpu_s = sum(each.cpu_s for each in times)
        cores_s = sum(each.elapsed_s * each.cores for each in times)
        yield f"  CPU {_percent(cpu_s, cores_s)} of {sum(each.cores for each in times):g} cores"

    def _mark(self, bound: Bound) -> str:
        return ">" if bound is self.verdict.bound else ""


def explain(situation: Situation) -> Explanation:
    """Judges a situation."""
    verdict = judge(situation)
    return Explanation(verdict, advice(verdict, situation), situation)


def _row(
    name: str, seconds: str, share: str = "", mark: str = "", cpu: str = "", megabytes: str = ""
) -> str:
    line = f"{mark or ' ':1} {name:<34}{seconds:>10}{share:>8}{cpu:>10}{megabytes:>12}"
    return line.rstrip()


def _seconds(seconds: float) -> str:
    return f"{seconds:,.2f}"


def _percent(part: float, whole: float) -> str:
    return f"{min(1.0, max(0.0, part / whole)):.0%}" if whole > 0 else "-"
