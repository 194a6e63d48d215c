"""Where the lists of a column chunk begin: told by its levels, or by those of a column before it.

Columns with one element a row have lists of the same lengths, and so the very same levels of
repetition; most have the same levels altogether. What these say is found out once.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from preprocessor_server.kernels import LEVEL_ROOM, ListLevels, read_levels, read_valid
from preprocessor_server.source.chunk_bytes import Octets

Offsets: TypeAlias = npt.NDArray[np.int32]


class Levels(NamedTuple):
    """The levels of a page: how many, and from where to where in it each kind is written."""

    num_values: int
    page: Octets
    reps: slice
    defs: slice


class PageLists(NamedTuple):
    """What begins in a page: so many lists, elements, and elements that are not null.

    valid uint8 [elements] is 1 for the latter, None if all are; valid_lists bool [lists] says which
    lists are not null, None if all are.
    """

    lists: int
    elements: int
    values: int
    valid: Octets | None = None
    valid_lists: npt.NDArray[np.bool_] | None = None


class _Page(NamedTuple):
    """A page that was read: its levels, what is in it, and whether its last list may go on."""

    num_values: int
    reps: bytes
    defs: bytes
    found: PageLists
    is_open: bool


class ListShape:
    """The lists of a column chunk, page by page.

    lists is how many there should be, element the definition level from which a list has an
    element, top that of one that is not null. like is the shape of a column that has as many lists
    and the same levels, as far as is known.
    """

    def __init__(self, lists: int, element: int, top: int, like: ListShape | None) -> None:
        self._promised, self._element, self._top = lists, element, top
        self._like = like
        self._own: ListLevels | None = None
        self._pages: list[_Page] = []
        self._offsets: Offsets | None = None
        # So far.
        self.lists = self.elements = 0

    def add(self, levels: Levels) -> PageLists:
        """Takes the next page. Raises ValueError for levels of no lists, or of too many."""
        reps, defs = levels.page[levels.reps].tobytes(), levels.page[levels.defs].tobytes()
        page = self._as_before(levels, reps, defs)
        if page is None:
            found, is_open = self._read(levels)
            page = _Page(levels.num_values, reps, defs, found, is_open)
        self._pages.append(page)
        self.lists += page.found.lists
        self.elements += page.found.elements
        return page.found

    def finish(self) -> Offsets:
        """Where lists begin, int32 [lists + 1]. Raises ValueError if they are too few."""
        if self._offsets is None:
            like = self._like
            alike = like is not None and len(self._pages) == len(like._pages)
            self._offsets = like.finish() if like and alike else self._own_levels().finish()
            # Else each column would hold on to the one before it.
            self._like = None
        return self._offsets

    def _as_before(self, levels: Levels, reps: bytes, defs: bytes) -> _Page | None:
        """A page whose lists are those of the same page of the other column; None if not."""
        number = len(self._pages)
        if self._like is None or number == len(self._like._pages):
            return None
        before = self._like._pages[number]
        if (before.num_values, before.reps) != (levels.num_values, reps):
            return None
        if before.defs == defs:
            return before
        # In a list without elements there is a level for none.
        if before.found.elements < levels.num_values or not levels.num_values:
            return None
        count = levels.num_values
        valid = np.empty(count + LEVEL_ROOM, np.uint8)
        where = levels.defs.start, levels.defs.stop
        values = read_valid(levels.page, *where, self._element, self._top, valid)
        if values is None:
            return None
        there = valid[:count] if values < count else None
        found = PageLists(before.found.lists, count, values, there)
        return _Page(count, reps, defs, found, before.is_open)

    def _read(self, levels: Levels) -> tuple[PageLists, bool]:
        """What is in a page, and whether its last list may go on."""
        own = self._own_levels()
        lists, elements, values = own.lists, own.elements, own.values
        reps, depths = _read_levels(levels, levels.reps, 1), self._depths(levels)
        own.add(reps, depths)
        lists, elements, values = own.lists - lists, own.elements - elements, own.values - values
        valid = valid_lists = None
        if values < elements:
            valid = np.empty(elements, np.uint8)
            own.mask(depths, valid)
        nullable = self._element > 1
        if nullable and elements < levels.num_values and not depths.all():
            valid_lists = depths[reps == 0] > 0
        return PageLists(lists, elements, values, valid, valid_lists), own.is_open

    def _own_levels(self) -> ListLevels:
        """What reads this column's levels, from where it has parted from the other column."""
        if self._own is None:
            self._own = ListLevels(self._promised, self._element, self._top)
            if self._like is not None and self._pages:
                is_open = self._pages[-1].is_open
                self._own.resume(self._like.finish(), self.lists, self.elements, is_open)
            self._like = None
        return self._own

    def _depths(self, levels: Levels) -> Octets:
        return _read_levels(levels, levels.defs, self._top.bit_length())


def _read_levels(levels: Levels, where: slice, width: int) -> Octets:
    found = np.empty(levels.num_values + LEVEL_ROOM, np.uint8)
    read_levels(levels.page, where.start, where.stop, width, found)
    return found[: levels.num_values]
