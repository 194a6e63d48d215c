"""Row groups that are not read, since their footer proves that none of their rows passes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from preprocessor_server.frame import Mask
from preprocessor_server.plan.identity import Split
from preprocessor_server.source.nesting import RowColumn
from preprocessor_server.source.reader import SplitReader
from preprocessor_server.source.snapshot import Snapshot
from preprocessor_server.transform.pushdown import Pushdown

# Files whose row groups were judged, a bit each.
_FILES_KEPT = 4096


class RowGroupSkips:
    """Which row groups of a snapshot's files may hold a row that passes; safe from any thread.

    What a file's footer says is asked once for all its row groups, and remembered.
    """

    def __init__(
        self, snapshot: Snapshot, pushdown: Pushdown, columns: Sequence[RowColumn]
    ) -> None:
        self._snapshot = snapshot
        self._pushdown = pushdown
        self._columns = columns
        self._judged: OrderedDict[int, Mask] = OrderedDict()
        self._lock = threading.Lock()

    def may_pass(self, reader: SplitReader, split: Split) -> bool:
        """Whether a row of a split may pass. Raises DataError if its file has changed."""
        if self.of_file(reader, split.file)[split.row_group]:
            return True
        # As if it had been read.
        reader.check_unchanged(self._snapshot, split.file)
        return False

    def of_file(self, reader: SplitReader, file: int) -> Mask:
        """Of which row groups of a file some row may pass, bool [row groups]."""
        with self._lock:
            mask = self._judged.get(file)
            if mask is not None:
                self._judged.move_to_end(file)
                return mask
        mask = self._pushdown.may_pass(reader.bounds(self._snapshot, file, self._columns))
        with self._lock:
            self._judged[file] = mask
            while len(self._judged) > _FILES_KEPT:
                self._judged.popitem(last=False)
        return mask

    def count(self, reader: SplitReader) -> int:
        """How many row groups of the snapshot are skipped. Raises DataError as may_pass()."""
        files = range(len(self._snapshot.message.files))
        return sum(int((~self.of_file(reader, file)).sum()) for file in files)
