"""From text to YAML nodes, past what is not YAML."""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from preprocessor_server.authoring.mistake import Mistake, Place

# The tag of a value that stands where the text could not be read.
UNREADABLE = "!unreadable"
# A file with more is no dataset.
MAX_SYNTAX_ERRORS = 50

# The beginning of a line: its indentation with the dashes of list items, and a key, perhaps behind
# a quote or a bracket that does not belong there.
_LINE = re.compile(r"(?P<lead> *(?:- +)*)(?:[\"'\[{]*(?P<key>[A-Za-z_]\w*)[\"']? *:(?= |$))?")
# Contexts whose beginning is nearer to the mistake than where the scanner gave up.
_BLAMED_CONTEXTS = (
    "while scanning a quoted",
    "while scanning a simple key",
    "while parsing a flow",
)
# PyYAML has no codes for its errors; these are its words, and the way out of each.
_WAYS_OUT = (
    ("'\\t'", "indent with spaces, not with tabs"),
    ("mapping values are not allowed", "quote the value if it holds ': ', or mend the indentation"),
    ("unexpected end of stream", "close the quote"),
    ("expected ',' or", "close the bracket, or put a comma"),
    ("could not find expected ':'", "write it as key: value"),
    ("expected <block end>", "indent the line like its neighbours"),
    ("undefined alias", "define it with & before, or quote the text"),
    ("unknown escape character", "use single quotes"),
    ("cannot start any token", "quote the text"),
)


@dataclass(frozen=True, slots=True)
class Syntax:
    """The nodes of a text (None: there is none), and what is wrong in it.

    Values that could not be read are scalars with the tag UNREADABLE. complete says that nothing
    else is missing.
    """

    root: yaml.Node | None
    mistakes: tuple[Mistake, ...]
    complete: bool


def read(text: str) -> Syntax:
    """Composes YAML. A line that is not YAML is noted and left out, and the rest read."""
    lines = text.replace("\r\n", "\n").split("\n")
    mistakes: list[Mistake] = []
    tried: set[int] = set()
    complete = True
    while len(mistakes) < MAX_SYNTAX_ERRORS:
        try:
            root = yaml.compose("\n".join(lines), Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = _blamed(error)
            at = min(mark.line, len(lines) - 1)
            if at not in tried:
                mistakes.append(_mistake(error, mark))
            if "single document" in str(error.context):
                del lines[at:]
                continue
            if not lines[at]:
                # What is left of the text gives no place to go on from.
                break
            complete &= _leave_out(lines, at, again=at in tried)
            tried.add(at)
        except yaml.reader.ReaderError as error:
            mistakes.append(_unprintable(text, error))
            return Syntax(None, tuple(mistakes), complete=False)
        except RecursionError:
            place = Place(1, 1, 1, 1)
            told = "not YAML of a dataset: it is nested too deeply; write less in one another"
            return Syntax(None, (*mistakes, Mistake(place, "dataset", told)), complete=False)
        else:
            return Syntax(root, tuple(mistakes), complete)
    return Syntax(None, tuple(mistakes), complete=False)


def place_of(node: yaml.Node) -> Place:
    """Where a node stands; of a collection only where it begins."""
    start, end = node.start_mark, node.end_mark
    if not isinstance(node, yaml.ScalarNode):
        end = start
    return Place(start.line + 1, start.column + 1, end.line + 1, end.column + 1)


def _blamed(error: yaml.MarkedYAMLError) -> yaml.Mark:
    context = str(error.context or "")
    if error.context_mark is not None and context.startswith(_BLAMED_CONTEXTS):
        return error.context_mark
    mark = error.problem_mark or error.context_mark
    assert mark is not None
    return mark


def _mistake(error: yaml.MarkedYAMLError, mark: yaml.Mark) -> Mistake:
    what = " ".join(str(part) for part in (error.context, error.problem) if part)
    way_out = next((way for words, way in _WAYS_OUT if words in what), None)
    if "single document" in what:
        what, way_out = "a second document begins", "write each dataset to a file of its own"
    line, column = mark.line + 1, mark.column + 1
    return Mistake(
        Place(line, column, line, column + 1),
        "dataset",
        f"not YAML: {what}; {way_out or 'mend it, or quote the text'}",
    )


def _unprintable(text: str, error: yaml.reader.ReaderError) -> Mistake:
    before = text[: error.position]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return Mistake(
        Place(line, column, line, column + 1),
        "dataset",
        f"not YAML: character {text[error.position]!r} may not stand in it; remove it, or escape "
        "it in double quotes",
    )


def _leave_out(lines: list[str], at: int, *, again: bool) -> bool:
    """Puts an unreadable value in the place of a line and of those indented below it.

    Returns whether it is known what is missing now.
    """
    text = lines[at].lstrip()
    if not again and "\t" in lines[at][: -len(text)]:
        # The lines around it show what was meant.
        nearby = [line for line in (*lines[at + 1 :], *lines[:at][::-1]) if line.strip("\t ")]
        near = next((line for line in nearby if not line.startswith("\t")), "")
        lines[at] = near[: len(near) - len(near.lstrip(" "))] + text
        return True
    found = _LINE.match(lines[at])
    assert found is not None
    lead, key = found["lead"], found["key"]
    if again or not (key or "-" in lead):
        lines[at] = ""
        return False
    if key and not lines[at][found.end() :].strip():
        # Its value is below, and may be sound.
        lines[at] = f"{lead}{key}:"
        return True
    lines[at] = f"{lead}{key}: {UNREADABLE} x" if key else f"{lead}{UNREADABLE} x"
    depth = len(lead) if key else lead.rindex("-")
    for below in range(at + 1, len(lines)):
        line = lines[below]
        if line.strip() and len(line) - len(line.lstrip(" ")) <= depth:
            break
        lines[below] = ""
    return True
