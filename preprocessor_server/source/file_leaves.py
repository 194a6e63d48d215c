"""The leaves of columns in files, found once for files that have the same schema."""

from __future__ import annotations

from typing import NamedTuple

from preprocessor_server.lru_cache import LruCache
from preprocessor_server.source.chunk_form import LeafForm, leaf_form
from preprocessor_server.source.footer import Footer
from preprocessor_server.source.leaves import Leaf, leaves_of
from preprocessor_server.source.nesting import RowSchema, check_columns

# As many datasets as a server may serve at a time.
_CAPACITY = 16


class FileLeaves(NamedTuple):
    """The leaves of columns in a file, and how each is decoded here; None where Arrow does it."""

    leaves: list[Leaf]
    forms: list[LeafForm | None]


class _Known(NamedTuple):
    columns: RowSchema
    footer: Footer
    found: FileLeaves

    def holds_in(self, other: Footer) -> bool:
        """Whether the leaves are the same in another file."""
        if other is self.footer:
            return True
        parquet = other.metadata.schema
        # Neither says what a writer calls the lists of a column.
        return (
            other.schema.equals(self.footer.schema)
            and parquet.equals(self.footer.metadata.schema)
            and all(parquet.column(leaf.index).path == leaf.path for leaf in self.found.leaves)
        )


class LeavesCache:
    """The leaves of datasets' columns, each in files of the schema that was last read for it."""

    def __init__(self) -> None:
        # By the identity of the columns: telling whether others are equal takes longer than this
        # saves.
        self._known: LruCache[int, _Known] = LruCache(_CAPACITY, lambda _: 1)

    def find(self, name: str, footer: Footer, columns: RowSchema, first: str) -> FileLeaves:
        """The leaves of columns in a file, in the order of the columns.

        first names the file whose types are expected. Raises DataError unless the file has every
        column, with the very same type.
        """
        known = self._known.get(id(columns))
        if known is not None and known.holds_in(footer):
            return known.found
        check_columns(name, footer.schema, columns, first)
        leaves = leaves_of(name, footer.schema, footer.metadata, columns)
        forms = [leaf_form(footer.schema, footer.metadata, leaf) for leaf in leaves]
        found = FileLeaves(leaves, forms)
        self._known.put(id(columns), _Known(columns, footer, found))
        return found
