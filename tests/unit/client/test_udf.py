from __future__ import annotations

from typing import Any

import pytest

from trainer_client import Dataset, Dense, InvalidDatasetError, Udf, parquet

GOOD: dict[str, Any] = {"inputs": ["a"], "outputs": {"b": "float32", "c": "list<int64>"}}


@pytest.mark.parametrize(
    ("function", "changes", "words"),
    [
        ("module", {}, "package.module:function"),
        (3, {}, "package.module:function"),
        ("m:f", {"inputs": "a"}, "inputs is 'a': give a list"),
        ("m:f", {"inputs": []}, "inputs: at least one is needed"),
        ("m:f", {"inputs": [""]}, "inputs: '' is no name"),
        ("m:f", {"outputs": ["b"]}, "give a mapping of names to types"),
        ("m:f", {"outputs": {}}, "outputs: at least one is needed"),
        ("m:f", {"outputs": {"b": "double"}}, "'double': it must be one of bool, int8"),
        ("m:f", {"random": 1}, "random is 1"),
    ],
)
def test_what_is_wrong_is_named(function: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidDatasetError) as caught:
        Udf(function, **(GOOD | changes))
    assert words in caught.value.message


def dataset(**changes: Any) -> Dataset:
    fields: dict[str, Any] = {"source": parquet("x"), "features": [Dense("b")]}
    return Dataset(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"udfs": [len]}, "udfs[0] is <built-in function len>"),
        ({"udf_block_rows": -1}, "udf_block_rows is -1"),
        ({"udf_block_rows": 1 << 25}, "16,777,216"),
    ],
)
def test_what_is_wrong_in_a_dataset_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidDatasetError) as caught:
        dataset(**changes)
    assert words in caught.value.message


def test_it_comes_back_from_yaml() -> None:
    udfs = [Udf("own.udfs:f", random=True, **GOOD), Udf("m:f", inputs=["b"], outputs={"d": "bool"})]
    given = dataset(udfs=udfs, udf_block_rows=1000)
    assert Dataset.from_yaml(given.to_yaml()) == given
    assert given.fingerprint != dataset(udfs=udfs).fingerprint
    text = given.to_yaml().replace("float32", "float31")
    with pytest.raises(InvalidDatasetError, match=r"udfs\[0\].*'float31'"):
        Dataset.from_yaml(text)
    text = given.to_yaml().replace("name: c", "name: b")
    with pytest.raises(InvalidDatasetError, match=r"udfs\[0\].*twice"):
        Dataset.from_yaml(text)
