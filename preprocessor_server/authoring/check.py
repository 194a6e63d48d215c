"""Every mistake in a dataset's file at once: its structure, and how it fits the data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from headrace.v1 import dataset_pb2
from preprocessor_server import catalog
from preprocessor_server.authoring.mistake import Mistake
from preprocessor_server.authoring.reading import DatasetFile
from preprocessor_server.errors import DatasetError, ServerError, errors_in
from preprocessor_server.fit.inputs import Inputs
from preprocessor_server.settings import Settings
from preprocessor_server.source.footer import FooterCache
from preprocessor_server.source.paths import NamedFile, Roots
from preprocessor_server.transform.filter_syntax import WHERE, FilterError, syntax_faults
from preprocessor_server.transform.ops.fit import UnfittedError
from preprocessor_server.transform.sampling import WHEN
from preprocessor_server.transform.validate import find_faults
from preprocessor_server.udf.declared import DeclaredUdf, declaration_errors

_PATHS = "dataset.source.parquet.paths"
_ROWS = "dataset.source.parquet.rows"
# Files that are no Parquet, until one is that shows the columns.
_FILES_TRIED = 20
_OPS = re.compile(r"dataset\.features\[(\d+)\](?:\.\w+)?\.ops(?:\[(\d+)\])?")


class CannotLookError(Exception):
    """What a check needs is not there; the message says what, and the way out."""


@dataclass(frozen=True, slots=True)
class Data:
    """Where a dataset's files are: below roots, or at instead, in place of the paths it names."""

    roots: tuple[Path, ...]
    instead: Path | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, by place, what it looked at, and what it could not look at."""

    name: str
    mistakes: tuple[Mistake, ...]
    checked: tuple[str, ...]
    not_checked: tuple[str, ...]


def check(file: DatasetFile, data: Data | None) -> Report:
    """Checks the dataset of a file, against its data unless that is None.

    A mistake is told once: what only follows from one is left out. Raises CannotLookError where
    Data.instead holds no Parquet file.
    """
    return _Check(file).run(data)


class _Check:
    def __init__(self, file: DatasetFile) -> None:
        self._file = file
        self._mistakes = list(file.mistakes)
        self._told = {mistake.field for mistake in file.mistakes}
        # Fields that validate_spec refuses, also where that follows from a mistake.
        self._faulty: set[str] = set()
        self._checked = ["the structure"]
        self._not_checked: list[str] = []
        self._unfitted = 0

    def run(self, data: Data | None) -> Report:
        if self._file.left_out:
            self._not_checked.append("what stands in lines that are not YAML")
        found = [*find_faults(self._file.spec), *declaration_errors(self._file.spec)]
        faults = [fault for fault in found if not isinstance(fault, UnfittedError)]
        self._unfitted = len(found) - len(faults)
        self._faulty = {fault.field for fault in faults}
        self._add(faults)
        if data is None:
            self._add(self._syntax_faults())
            self._checked.append("the syntax of the filter")
            self._not_checked.append("paths, columns and types: without data")
        else:
            self._check_data(data)
        if self._unfitted:
            each = "1 operation" if self._unfitted == 1 else f"{self._unfitted} operations"
            self._not_checked.append(
                f"the constants of {each}, still to be fitted: run `preprocessor-server fit "
                f"{self._file.name} -o FOLDER`, and use the dataset.yaml that it writes"
            )
        return Report(
            self._file.name,
            tuple(sorted(self._mistakes, key=lambda mistake: mistake.place)),
            tuple(self._checked),
            tuple(self._not_checked),
        )

    def _add(self, errors: Iterable[ServerError]) -> None:
        """Takes the errors of a pass, but those of fields that are known to be at fault."""
        file, told = self._file, frozenset(self._told)
        for error in errors:
            field = error.field or _PATHS
            if field in told or file.follows(field):
                continue
            if error.reason == "FEATURE_UNMATCHED" and self._names_unknown():
                continue
            self._told.add(field)
            place = file.place(field)
            if isinstance(error, FilterError) and error.character is not None:
                text = self._texts()[field]
                place = file.place_in_text(field, text, error.character)
            self._mistakes.append(Mistake(place, field, error.message, error.reason))

    def _names_unknown(self) -> bool:
        """Whether a derived column may have any name, so that none is known to be wrong."""
        file = self._file
        lost = "dataset.derive" in file.damaged | file.lost
        return lost or any(not derived.name for derived in file.spec.derive)

    def _texts(self) -> dict[str, str]:
        """The conditions of the dataset, by their fields."""
        spec = self._file.spec
        return {WHERE.field: spec.where, WHEN.field: spec.sampling.when}

    def _syntax_faults(self) -> Iterator[ServerError]:
        for site in (WHERE, WHEN):
            yield from syntax_faults(self._texts()[site.field], site)

    def _check_data(self, data: Data) -> None:
        if self._file.follows(_ROWS) and self._file.places.get(_ROWS):
            self._not_checked.append("columns and types: source.parquet.rows cannot be read")
            return
        files = self._files(data)
        if not files:
            self._add(self._syntax_faults())
            self._not_checked.append("columns and types: no file is found")
            return
        for file in files[:_FILES_TRIED]:
            try:
                schema = FooterCache().read(file).schema
                break
            except ServerError as error:
                self._add([error])
        else:
            self._not_checked.append(f"columns and types: {files[0].name} cannot be read")
            return
        found = catalog.find_faults(self._file.spec, schema, self._unsound(), Roots(data.roots))
        self._add(_one_a_place(found))
        self._checked.append(
            f"features, filter and group_by against the {len(schema.names)} columns of {file.name}"
        )
        if self._mistakes:
            others = "the other files" if len(files) > 1 else "what its row groups hold"
            self._not_checked.append(f"{others}: mend the mistakes first")
            return
        if self._file.spec.udfs:
            self._not_checked.append("the code of functions: servers run it")
        binding = Inputs().binding if self._unfitted else catalog.SERVED
        self._add(_describe_faults(self._file.spec, data, binding))
        if not self._mistakes:
            self._checked.append(f"the footers of all its files: {len(files):,}")
        elif len(files) > 1:
            self._not_checked.append("the files after the one at fault")

    def _files(self, data: Data) -> list[NamedFile]:
        if data.instead is None:
            found = list(Roots(data.roots).look_up([*filter(None, self._paths())]))
            # Places count the paths that are left out, too.
            self._add(self._at_own_place(errors_in(found)))
        else:
            path = data.instead.resolve()
            found = list(Roots((Path("/"),)).look_up([str(path)]))
            for error in errors_in(found):
                raise CannotLookError(f"{error.message}; name Parquet files, or a folder of them")
            self._not_checked.append(f"the paths of the source: {data.instead} stands in for them")
        return [each for each in found if isinstance(each, NamedFile)]

    def _paths(self) -> Sequence[str]:
        return self._file.spec.source.parquet.paths

    def _at_own_place(self, errors: Iterable[ServerError]) -> Iterator[ServerError]:
        own = [index for index, path in enumerate(self._paths()) if path]
        for error in errors:
            if not error.field:
                yield error
                continue
            index = int(error.field.rpartition("[")[2].rstrip("]"))
            yield DatasetError(error.reason, error.message, field=f"{_PATHS}[{own[index]}]")

    def _unsound(self) -> dict[int, int]:
        """For each feature with an operation at fault, the first such operation."""
        first: dict[int, int] = {}
        for field in self._faulty | self._told | self._file.damaged | self._file.lost:
            found = _OPS.match(field)
            if found is not None:
                feature, op = int(found[1]), int(found[2] or 0)
                first[feature] = min(op, first.get(feature, op))
        return first


def _one_a_place(errors: Iterable[ServerError]) -> Iterator[ServerError]:
    """One error for all columns that a glob selects, of each reason; filters may have several."""
    alike: dict[tuple[str, str], list[ServerError]] = {}
    for error in errors:
        key = error.field, error.message if error.reason == "FILTER_INVALID" else error.reason
        alike.setdefault(key, []).append(error)
    for same in alike.values():
        first, more = same[0], len(same) - 1
        if more:
            columns = f" (and {more} more column{'s' if more > 1 else ''} likewise)"
            first = DatasetError(first.reason, first.message + columns, field=first.field)
        yield first


def _describe_faults(
    spec: dataset_pb2.DatasetSpec, data: Data, binding: catalog.Binding
) -> Iterator[ServerError]:
    """What a server, or a fit, would refuse that has looked at every file."""
    whole = dataset_pb2.DatasetSpec()
    whole.CopyFrom(spec)
    roots = data.roots
    if data.instead is not None:
        # Vocabularies lie where they would.
        roots = (*roots, Path("/"))
        whole.source.parquet.paths[:] = [str(data.instead.resolve())]
    server = catalog.Catalog(Settings(data_root=roots), _NotRun(), binding)
    try:
        server.describe(whole)
    except ServerError as error:
        yield error
    finally:
        server.close()


class _NotRun:
    """Functions of which only the declarations are looked at."""

    def check_allowed(self, udf: DeclaredUdf) -> None:
        """Servers say what they allow."""

    def fingerprint(self, udf: DeclaredUdf) -> str:
        """None."""
        del udf
        return ""

    def run(
        self, udf: DeclaredUdf, fingerprint: str, batch: pa.RecordBatch, seed: Sequence[int] | None
    ) -> pa.RecordBatch:
        """No row is looked at."""
        del fingerprint, batch, seed
        raise AssertionError(f"a check ran {udf.function}")

    def close(self) -> None:
        """There is nothing to end."""
