"""A report as a table of columns, for a terminal."""

from __future__ import annotations

from preprocessor_server.report.facts import distinct_text, percent, run_length, short, size
from preprocessor_server.report.gather import Report

_HEADINGS = ("column", "type", "null", "distinct", "run")


def report_text(report: Report) -> str:
    """One line a column: name, type, share of nulls, distinct values, mean run length."""
    rows = [_HEADINGS]
    for facts in report.columns:
        run = run_length(facts)
        rows.append(
            (
                facts.name,
                str(facts.arrow),
                percent(facts.nulls / max(1, facts.rows)),
                distinct_text(facts),
                "-" if run is None else short(run),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
    held = f"{report.rows:,} rows in {len(report.row_group_rows):,} row groups"
    lines = [
        f"{report.files:,} files, {size(report.file_bytes)}, {held}",
        read_text(report),
        "",
    ]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def read_text(report: Report) -> str:
    """Which rows the report is of."""
    if report.rows_read == report.rows:
        return f"all {report.rows:,} rows were read"
    return (
        f"{report.rows_read:,} rows were read ({percent(report.share_read)}): the first ones of "
        f"{report.parts:,} row groups, evenly spread"
    )
