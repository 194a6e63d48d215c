"""What verify found, for people on 80 columns."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence

from trainer_client.ledger.run import Run
from trainer_client.verify import compare, complete
from trainer_client.verify.compare import Comparison, EpochResult
from trainer_client.verify.complete import EpochReport, Fault
from trainer_client.verify.table import Place

WIDTH = 80
_HOW = {
    "order": "step by step",
    "batch": "batch by batch, since the ranks were dealt other ones",
    "gap": "batch by batch, since a ledger has a gap",
}


def run_lines(name: str, run: Run) -> Iterator[str]:
    """What a folder holds."""
    ranks = max(session.world_size for session in run.final)
    yield from _wrapped(
        f"{name}{run.directory}: {_count(run.steps, 'step')}, {_count(len(run.epochs), 'epoch')}, "
        f"{_count(ranks, 'rank')}, {_count(len(run.sessions), 'session')}"
        + (f"; {_count(run.rolled_back, 'step')} rolled back" if run.rolled_back else ""),
        "",
    )


def comparison_lines(a: Run, b: Run, found: Comparison) -> Iterator[str]:
    """The whole of a comparison."""
    yield from run_lines("A: ", a)
    yield from run_lines("B: ", b)
    for problem in found.problems:
        yield from _wrapped(f"gap: {problem}", "  ")
    for each in found.differences:
        yield from _wrapped(
            f"from epoch {each.epoch} on {each.name} differs: {each.a} in A, {each.b} in B", "  "
        )
    for result in found.epochs:
        yield from _epoch_lines(result, a, b)
    for number, where in found.only_in.items():
        yield f"epoch {number}: only in {where}"
    yield {
        compare.SAME: "SAME: both runs trained on the same bytes",
        compare.DIFFERENT: "DIFFERENT: the runs did not train on the same bytes",
        compare.UNKNOWN: "CANNOT TELL: what both hold is the same, but one holds less or has a gap",
    }[found.verdict]


def _epoch_lines(result: EpochResult, a: Run, b: Run) -> Iterator[str]:
    steps = _count(result.steps_a, "step")
    if result.steps_a != result.steps_b:
        steps = f"{steps} in A, {result.steps_b:,} in B"
    words = {
        compare.SAME: "the same",
        compare.DIFFERENT: "they part",
        compare.UNKNOWN: "the same as far as both go",
    }[result.verdict]
    yield from _wrapped(f"epoch {result.epoch}: {steps}, compared {_HOW[result.by]}: {words}", "  ")
    counts = {
        "only in A": result.only_a,
        "only in B": result.only_b,
        "with other values or another use": result.changed,
        "handed out more often in one run": result.repeated,
        "left out by one run on purpose (uneven=, drop_last)": result.left_out,
    }
    if any(counts.values()):
        parts = [f"{_count(result.same, 'batch')} the same"]
        parts += [f"{count:,} {what}" for what, count in counts.items() if count]
        yield from _wrapped(f"  {', '.join(parts)}", "    ")
    if result.first is None:
        return
    first = result.first
    place = first.a or first.b
    assert place is not None
    yield from _wrapped(f"  first at {place}: {first.what}", "    ")
    for name, at in (("A", first.a), ("B", first.b)):
        yield from _place_lines(name, at)
    commands = [show_command(run, at) for run, at in ((a, first.a), (b, first.b)) if at is not None]
    yield "  look at them:"
    yield from (f"    {command}" for command in commands)


def _place_lines(name: str, place: Place | None) -> Iterator[str]:
    if place is None:
        yield f"    {name}: nothing there"
        return
    split, row, offset, batch = place.cursor
    yield from _wrapped(
        f"    {name}: {place}, batch {place.index:,} of shard {place.shard}, {place.rows:,} rows, "
        f"content {place.content}, {place.kind}",
        "       ",
    )
    yield (f"       cursor: split {split}, Parquet row {row:,}, offset {offset}, batch {batch:,}")


def show_command(run: Run, place: Place) -> str:
    """What prints a batch."""
    folder = shlex.quote(str(run.directory))
    where = f"--epoch {place.epoch} --shard {place.shard} --index {place.index}"
    return f"trainer-client show {folder} {where}"


def complete_lines(run: Run, reports: Sequence[EpochReport]) -> Iterator[str]:
    """The whole of a check against the plans."""
    yield from run_lines("", run)
    for problem in run.problems:
        yield from _wrapped(f"gap: {problem}", "  ")
    for report in reports:
        yield from _report_lines(report)
    yield {
        complete.COMPLETE: "COMPLETE: every row of every finished epoch arrived exactly once",
        complete.FAULTY: "FAULTY: rows are missing or arrived more than once",
        complete.UNKNOWN: "CANNOT TELL: see above",
    }[complete.verdict_of(reports, run)]


def _report_lines(report: EpochReport) -> Iterator[str]:
    words = {
        complete.COMPLETE: "every row once",
        complete.FAULTY: "FAULTY",
        complete.UNFINISHED: "unfinished, nothing twice so far",
        complete.UNKNOWN: "cannot tell",
    }[report.verdict]
    of_batches = of_rows = ""
    if report.planned_batches is not None:
        of_batches, of_rows = f" of {report.planned_batches:,}", f" of {report.planned_rows:,}"
    deals = " then ".join(f"{deal}" for deal in report.deals)
    yield from _wrapped(
        f"epoch {report.epoch}: {words}: {report.batches:,}{of_batches} batches, "
        f"{report.rows:,}{of_rows} rows in {_count(report.steps, 'step')} of {deals} "
        f"{'rank' if report.deals == [1] else 'ranks'}",
        "  ",
    )
    for count, what in (
        (report.left_out, "left out to keep ranks in step (uneven=)"),
        (report.dropped, "left out as short (drop_last)"),
        (report.skipped, f"left out by skip(), with {report.skipped_rows:,} rows"),
        (report.padded, "repeated as padding, and counted once"),
        (report.missing, "missing" if report.verdict != complete.UNFINISHED else "not yet there"),
        (report.doubled, "more often than once, or not in the plan"),
    ):
        if count:
            yield from _wrapped(f"  {_count(count, 'batch')} {what}", "    ")
    for fault in report.faults:
        yield from _wrapped(f"  {_fault(fault)}", "    ")
    for problem in report.problems:
        yield from _wrapped(f"  gap: {problem}", "    ")


def _fault(fault: Fault) -> str:
    places = ", ".join(map(str, fault.places[:4]))
    more = f" and {len(fault.places) - 4} more" if len(fault.places) > 4 else ""
    at = f": {places}{more}" if places else ""
    return f"batch {fault.index:,} of shard {fault.shard} {fault.what}{at}"


def _count(count: int, what: str) -> str:
    if count == 1:
        return f"1 {what}"
    return f"{count:,} {what}{'es' if what.endswith('ch') and what != 'epoch' else 's'}"


def _wrapped(text: str, indent: str) -> Iterator[str]:
    lead = text[: len(text) - len(text.lstrip())]
    yield from textwrap.wrap(
        text.lstrip(),
        WIDTH,
        initial_indent=lead,
        subsequent_indent=lead + indent if not lead else indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
