"""Fits a dataset: passes over its rows until every operation has its constants."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from headrace.v1 import dataset_pb2
from headrace.v1 import preprocessor_service_pb2 as pb
from preprocessor_server.catalog import BoundDataset, Catalog
from preprocessor_server.errors import DataError, DatasetError
from preprocessor_server.fit.artefacts import Folder, Vocabulary, dataset_yaml, writing_to
from preprocessor_server.fit.counts import Counted, Counts
from preprocessor_server.fit.inputs import Inputs, Target
from preprocessor_server.fit.read import Found, Limits, read_rows
from preprocessor_server.fit.results import Result, fitted_numbers, fitted_vocabulary
from preprocessor_server.settings import Settings
from preprocessor_server.transform.blocks import body
from preprocessor_server.transform.ops.fit import is_unfitted

MIB = 1 << 20
DATASET, SUMMARY = "dataset.yaml", "summary.json"

# Begins to show the progress of a pass, given its title and its rows; is told rows that are done.
Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How a fit works; none of it changes what it finds.

    memory_bytes bounds what rows and counts take up at once, in bytes: a quarter is for rows, a
    quarter for counts, and half for adding these up at the end. A split that takes more is read
    alone.
    """

    memory_bytes: int = 2048 * MIB
    progress: Progress | None = None


def fit(
    spec: dataset_pb2.DatasetSpec,
    name: str,
    out: Path,
    settings: Settings,
    options: FitOptions,
) -> dict[str, Any]:
    """Writes the fitted dataset, its vocabularies and a summary to a folder; returns the summary.

    name is the dataset's, for the summary. Raises ServerError; then, as after Ctrl-C, the folder is
    as it was.
    """
    if not any(
        is_unfitted(op) for f in spec.features if f.WhichOneof("kind") for op in body(f).ops
    ):
        raise DatasetError(
            "DATASET_INVALID",
            "there is nothing to fit: no feature has one of the operations fit_fill_null, "
            "fit_normalize, fit_min_max, fit_bucketize and fit_vocabulary",
            field="dataset.features",
        )
    with writing_to(out, settings.data_root[0]) as folder:
        fitting = _Fitting(settings, options, folder)
        fitted = fitting.run(spec)
        summary = fitting.summary(name)
        folder.put_text(SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        # Last: who finds it finds all that it names.
        folder.put_text(DATASET, dataset_yaml(fitted))
    return summary


class _Fitting:
    def __init__(self, settings: Settings, options: FitOptions, folder: Folder) -> None:
        self._settings = settings
        self._options = options
        self._folder = folder
        self._results: list[Result] = []
        self._first: BoundDataset | None = None
        self._rows = 0
        self._passes = 0
        self._fingerprint = ""

    def run(self, spec: dataset_pb2.DatasetSpec) -> dataset_pb2.DatasetSpec:
        """The fitted dataset."""
        inputs = Inputs()
        catalog = Catalog(self._settings, None, inputs.binding)
        try:
            while any(is_unfitted(op) for feature in spec.features for op in body(feature).ops):
                dataset = catalog.describe(spec)
                self._check_unchanged(dataset)
                spec = self._pass(catalog, dataset, inputs)
        finally:
            catalog.close()
        self._fingerprint = self._check(spec)
        return spec

    def _pass(
        self, catalog: Catalog, dataset: BoundDataset, inputs: Inputs
    ) -> dataset_pb2.DatasetSpec:
        """The dataset once what comes first in each feature is fitted."""
        self._passes += 1
        memory, threads = self._options.memory_bytes, self._settings.cpu_threads
        counts = self._folder.temporary / f"counts-{self._passes}"
        counts.mkdir()
        limits = Limits(threads, memory // 4, memory // 4)

        def read(report: Callable[[int], None]) -> list[Found]:
            founds, self._rows = read_rows(
                catalog.reader, dataset, inputs.targets, counts, limits, report
            )
            return founds

        if self._options.progress is None:
            founds = read(lambda _: None)
        else:
            total = int(dataset.snapshot.row_groups.parquet_rows.sum())
            with self._options.progress(f"pass {self._passes}", total) as report:
                founds = read(report)
        spec = dataset_pb2.DatasetSpec()
        spec.CopyFrom(inputs.spec)
        listed: dict[int, tuple[Counted, Vocabulary]] = {}
        for found in founds:
            if found.counts is None:
                result = fitted_numbers(found)
            else:
                key = id(found.counts)
                if key not in listed:
                    listed[key] = self._list(found.target, found.counts, memory // 2)
                result = fitted_vocabulary(found, *listed[key])
            found.target.replace(spec, result.op)
            self._results.append(result)
        return spec

    def _list(
        self, target: Target, counts: Counts, memory_bytes: int
    ) -> tuple[Counted, Vocabulary]:
        """Writes what was counted to a vocabulary's file."""
        asked = target.op.fit_vocabulary
        counted, batches = counts.finish(
            memory_bytes, self._settings.cpu_threads, asked.min_count, asked.max_size
        )
        return counted, self._folder.put_vocabulary(target, batches)

    def _check_unchanged(self, dataset: BoundDataset) -> None:
        """Raises DataError if files have changed since the first pass."""
        self._first = self._first or dataset
        files: Sequence[pb.SnapshotFile] = self._first.snapshot.message.files
        if list(files) != list(dataset.snapshot.message.files):
            raise DataError(
                "SNAPSHOT_CHANGED",
                f"files of the dataset have changed since pass 1 of the fit, which was of snapshot "
                f"{self._first.snapshot.id[:19]}…; fit again",
            )

    def _check(self, spec: dataset_pb2.DatasetSpec) -> str:
        """The fingerprint of the dataset, once a server would take it."""
        catalog = Catalog(self._settings)
        try:
            return catalog.describe(spec).fingerprint
        finally:
            catalog.close()

    def summary(self, name: str) -> dict[str, Any]:
        """What was read and found, for people and as JSON."""
        assert self._first is not None
        return {
            "dataset": name,
            "fitted_dataset": self._fingerprint,
            "files": len(self._first.snapshot.message.files),
            "rows_in_files": int(self._first.snapshot.row_groups.rows.sum()),
            "rows": self._rows,
            "passes": self._passes,
            "fitted": [_entry(result) for result in self._results],
        }


def _entry(result: Result) -> dict[str, Any]:
    return {
        "column": result.target.column,
        "operation": result.target.op.WhichOneof("op"),
        "became": result.shown,
        **result.facts,
    }
