"""A report as one HTML page that needs nothing else: no script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from preprocessor_server.report.column import ColumnFacts, Numbers
from preprocessor_server.report.facts import (
    SHARES,
    TOP,
    Histogram,
    cut_text,
    distinct_text,
    histogram,
    measure,
    percent,
    run_length,
    short,
    size,
    value_text,
)
from preprocessor_server.report.gather import Report, Stored
from preprocessor_server.report.style import STYLE
from preprocessor_server.report.text import read_text

_WIDTH, _HEIGHT = 320, 72


def report_html(report: Report) -> str:
    """The page."""
    title = escape(report.title)
    columns = list(zip(report.columns, report.sources, strict=True))
    total = sum(stored.compressed_bytes for stored in report.stored.values())
    overview = "".join(
        _overview_row(i, facts, report.stored.get(source), total)
        for i, (facts, source) in enumerate(columns)
    )
    cards = "".join(
        _card(i, facts, report.stored.get(source)) for i, (facts, source) in enumerate(columns)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{title}</h1>{_file_facts(report)}<p>{escape(_what_was_read(report))}</p>"
        "</header><main><section><h2>Columns</h2><div class=scroll><table class=overview><thead>"
        "<tr><th>column<th>type<th class=n>null<th class=n>distinct<th class=n>mean run"
        "<th class=n>bytes, compressed</tr></thead>"
        f"<tbody>{overview}</tbody></table></div></section>"
        f"<section class=cards>{cards}</section></main></body></html>\n"
    )


def _what_was_read(report: Report) -> str:
    text = read_text(report)
    text = f"{text[0].upper()}{text[1:]}."
    if report.rows_read < report.rows:
        text += " All below is about these: what only others hold is not in it."
    return text + " A run is a stretch of adjacent rows with equal values."


def _file_facts(report: Report) -> str:
    counts = sorted(report.row_group_rows)
    spread = f"{counts[0]:,} / {counts[len(counts) // 2]:,} / {counts[-1]:,}"
    facts = [
        ("rows", f"{report.rows:,}"),
        ("columns", f"{len(report.columns):,}"),
        ("files", f"{report.files:,}"),
        ("size", size(report.file_bytes)),
        ("row groups", f"{len(counts):,}"),
        ("rows a row group: least / median / most", spread),
        ("written by", ", ".join(map(cut_text, report.created_by))),
    ]
    return f"<dl class=files>{_pairs(facts)}</dl>"


def _pairs(facts: Sequence[tuple[str, str]]) -> str:
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts
    )


def _overview_row(i: int, facts: ColumnFacts, stored: Stored | None, total: int) -> str:
    nulls = facts.nulls / max(1, facts.rows)
    run = run_length(facts)
    share = stored.compressed_bytes / total if stored and total else 0.0
    taken = f"{size(stored.compressed_bytes)}{_bar(share)}" if stored else "-"
    return (
        f'<tr><td class=name><a href="#c{i}">{escape(facts.name)}</a>'
        f"<td class=type>{escape(cut_text(str(facts.arrow)))}"
        f"<td class=n>{_percent(nulls)}{_bar(nulls)}"
        f"<td class=n>{escape(distinct_text(facts))}"
        f"<td class=n>{'-' if run is None else short(run)}"
        f"<td class=n>{taken}</tr>"
    )


def _percent(share: float) -> str:
    return escape(percent(share))


def _bar(share: float) -> str:
    return f'<span class=bar><i style="width:{100 * share:.1f}%"></i></span>'


def _card(i: int, facts: ColumnFacts, stored: Stored | None) -> str:
    parts = [
        f"<article id=c{i}><h3>{escape(facts.name)}</h3>",
        f"<p class=type>{escape(str(facts.arrow))}</p>",
        f"<dl>{_pairs(_column_facts(facts, stored))}</dl>",
    ]
    if facts.numbers is not None:
        what = "values of elements" if facts.lengths is not None else "values"
        parts.append(_distribution(what, facts.numbers, facts))
    if facts.sizes is not None:
        parts.append(_distribution("bytes of strings", facts.sizes, None))
    if facts.lengths is not None:
        parts.append(_distribution("lengths of lists", facts.lengths, None))
    parts.append(_top(facts))
    return "".join(parts) + "</article>"


def _column_facts(facts: ColumnFacts, stored: Stored | None) -> list[tuple[str, str]]:
    rows = max(1, facts.rows)
    found = [("null", f"{facts.nulls:,} ({percent(facts.nulls / rows)})")]
    if facts.lengths is not None:
        elements = facts.values + facts.null_elements
        share = facts.null_elements / max(1, elements)
        found.append(("elements", f"{elements:,}"))
        found.append(("null elements", f"{facts.null_elements:,} ({percent(share)})"))
    if facts.nan or facts.infinite:
        found.append(("NaN, infinite", f"{facts.nan:,}, {facts.infinite:,}"))
    if facts.kind is not None:
        error = facts.distinct.error
        note = f" ± {100 * error:.1f} % (standard error)" if error else ""
        found.append(("distinct", distinct_text(facts) + note))
    run = run_length(facts)
    if run is not None:
        found.append(("mean run", f"{short(run)} rows"))
    if facts.numbers is not None and facts.numbers.moments.count:
        moments = facts.numbers.moments
        found.append(("mean", measure(moments.mean, facts)))
        if facts.kind is not None and facts.kind.dtype is not None:
            found.append(("std", short(moments.std)))
    if stored is not None:
        ratio = stored.uncompressed_bytes / max(1, stored.compressed_bytes)
        found.append(("stored", f"{size(stored.compressed_bytes)}, {ratio:.2g} : 1"))
        found.append(("codec", ", ".join(sorted(stored.codecs))))
        found.append(("encodings", ", ".join(sorted(stored.encodings))))
    return found


def _distribution(title: str, numbers: Numbers, times: ColumnFacts | None) -> str:
    moments = numbers.moments
    if not moments.count:
        return ""

    def show(number: float) -> str:
        return short(number) if times is None else measure(number, times)

    quantiles = numbers.quantiles.at(SHARES).tolist()
    names = ["min", *(f"{100 * share:g} %" for share in SHARES), "max"]
    cells = [moments.min, *quantiles, moments.max]
    error = numbers.quantiles.rank_error
    note = f" <small>rank ± {_percent(error)}</small>" if error else ""
    drawn = histogram(numbers)
    return (
        f"<h4>{escape(title)}{note}</h4>"
        f"{'' if drawn is None else _picture(drawn, show(drawn.low), show(drawn.high))}"
        f"<dl class=quantiles>{_pairs(list(zip(names, map(show, cells), strict=True)))}</dl>"
    )


def _picture(drawn: Histogram, low: str, high: str) -> str:
    most = max(drawn.shares) or 1.0
    step = _WIDTH / len(drawn.shares)
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{_HEIGHT * (1 - share / most):.1f}" '
        f'width="{step - 1:.1f}" height="{_HEIGHT * share / most:.1f}">'
        f"<title>{_percent(share)}</title></rect>"
        for i, share in enumerate(drawn.shares)
    )
    left_out = " (1 % on either side left out)" if drawn.cut else ""
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="histogram">{bars}</svg>'
        f"<p class=axis><span>{escape(low)}</span><span>{escape(high)}{left_out}</span></p>"
    )


def _top(facts: ColumnFacts) -> str:
    top = facts.frequent.top(TOP)
    if not top or (top[0][1] <= 1 and facts.values > len(top)):
        return ""
    error = facts.frequent.error
    note = f" <small>counts up to {error:,} too low</small>" if error else ""
    rows = "".join(
        f"<tr><td>{escape(value_text(value))}<td class=n>{count:,}"
        f"<td class=n>{_percent(count / facts.values)}<td>{_bar(count / facts.values)}</tr>"
        for value, count in top
    )
    return f"<h4>most frequent{note}</h4><div class=scroll><table class=top>{rows}</table></div>"
