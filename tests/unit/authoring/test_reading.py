"""Datasets in YAML: what is read, where it stands, and every mistake in what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1 import dataset_pb2
from preprocessor_server.authoring.reading import DatasetFile, load_dataset, read_file, read_text
from preprocessor_server.errors import DatasetError

SOUND = """\
source: {parquet: {paths: [data], groupBy: [user]}}
where: 'x > 1'
max_split_bytes: "1048576"
features:
- dense:
    columns: [x]
    ops:
    - fill_null: {value: {number: "NaN"}}
    - clip:
        min: {integer: -1}
    - log1p: {}
    - cast: {to: SCALAR_TYPE_FLOAT32}
- label: {columns: [y]}
"""


def mistakes(text: str) -> list[str]:
    return sorted(map(str, read_text(text, "x.yaml").mistakes))


def test_a_sound_file_is_the_canonical_json_form() -> None:
    import yaml

    file = read_text(SOUND, "x.yaml")
    assert not file.mistakes
    assert file.spec == json_format.ParseDict(yaml.safe_load(SOUND), dataset_pb2.DatasetSpec())
    assert file.place("dataset.features[0].ops[1].clip.min")[:2] == (10, 14)
    # Errors of a dataset leave out the kind of a feature; what is not there is where it would be.
    assert file.place("dataset.features[0].columns[0]")[:2] == (6, 15)
    assert file.place("dataset.features[0].ops[1].clip.max.number")[:2] == (10, 9)


@pytest.mark.parametrize(
    ("old", "new", "place", "field", "message"),
    [
        ("where: 'x", "were: 'x", "2:1", "dataset", "'were' is no field of DatasetSpec; did you"),
        ("- dense:", "- dens:", "5:3", "features[0]", "'dens' is no field of Feature; did you"),
        ("log1p", "exp", "11:7", "features[0].ops[2]", "'exp' is no field of Op; there is fill"),
        ("1048576", "1 MiB", "3:18", "max_split_bytes", "it is '1 MiB'; give an integer from 0 to"),
        ('"1048576"', "[1]", "3:18", "max_split_bytes", "it is [1]; give an integer from 0 to"),
        ("'x > 1'", "1", "2:8", "where", "it is '1', an integer; write it as the string \"1\""),
        ("'x > 1'", "", "2:1", "where", "it is empty; give a value, or leave the line out"),
        ("log1p: {}", "log1p:", "11:7", "features[0].ops[2].log1p", "it is empty; write log1p: {}"),
        (
            "parquet: {paths: [data], groupBy: [user]}",
            "parquet: ",
            "1:10",
            "source.parquet",
            "it is",
        ),
        (
            "log1p: {}",
            "log1p: 1",
            "11:14",
            "features[0].ops[2].log1p",
            "an empty mapping is wanted",
        ),
        ("[y]", "y", "13:20", "features[1].columns", 'a list is wanted; write ["y"]'),
        ("[y]", "[y, on]", "13:24", "features[1].columns[1]", "it is 'on', a truth value; write"),
        ("{integer: -1}", "-1", "10:14", "features[0].ops[1].clip.min", "a mapping of number, "),
        ("_FLOAT32", "_FLOAT", "12:18", "features[0].ops[3].cast.to", "it is 'SCALAR_TYPE_FLOAT'"),
        ("where:", "where: z\nwhere:", "3:1", "where", "it is given in line 2 already; leave one"),
        (
            "- label",
            "  label: {}\n- label",
            "13:3",
            "features[0].label",
            "'dense' is given in line",
        ),
        ("'x > 1'", "!x y", "2:8", "where", "it has the tag '!x', which says nothing here; leave"),
        (
            '"NaN"',
            ".nan",
            "8:35",
            "features[0].ops[0].fill_null.value.number",
            "it is '.nan'; give",
        ),
        ("'x > 1'", "'x > 1", "2:8", "dataset", "not YAML: while scanning a quoted scalar found"),
        ("'x > 1'", "a: b", "2:9", "dataset", "not YAML: mapping values are not allowed here; q"),
        ("'x > 1'", "*x", "2:8", "dataset", "not YAML: found undefined alias 'x'; define it with"),
        ("    - log1p", "\t- log1p", "11:1", "dataset", "not YAML: "),
        ("[x]", "[x", "6:14", "dataset", "not YAML: while parsing a flow sequence"),
    ],
)
def test_a_mistake_is_told_once_with_its_place(
    old: str, new: str, place: str, field: str, message: str
) -> None:
    assert old in SOUND
    (told,) = mistakes(SOUND.replace(old, new, 1))
    assert told.startswith(f"{place}: {field}: {message}")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("month", "DATE_PART_MONTH"),
        ("day_of_month", "DATE_PART_DAY_OF_MONTH"),
        ("day_of_wek", "DATE_PART_DAY_OF_WEEK"),
        ("DATE_PART_YEARS", "DATE_PART_YEAR"),
    ],
)
def test_an_enums_value_is_found_by_all_of_its_name(written: str, meant: str) -> None:
    (told,) = mistakes(SOUND.replace("log1p: {}", f"date_parts: {{part: {written}}}", 1))
    assert f"(did you mean {meant}?)" in told


def test_what_stands_in_a_misspelt_field_is_looked_at_too() -> None:
    text = SOUND.replace("features:", "feature:").replace("number:", "numbr:")
    assert [told.split(";")[0] for told in mistakes(text)] == [
        "4:1: dataset: 'feature' is no field of DatasetSpec",
        "8:27: features[0].ops[0].fill_null.value: 'numbr' is no field of Scalar",
    ]


def test_files_of_other_systems_and_odd_ones() -> None:
    assert not mistakes(SOUND.replace("\n", "\r\n"))
    assert not mistakes("\ufeff" + SOUND)
    (told,) = mistakes(SOUND.replace("'x > 1'", "2026-13-45"))
    assert told.startswith("2:8: where: it is '2026-13-45', which YAML cannot read (month must")
    (told,) = mistakes("features: " + "[" * 9999 + "]" * 9999)
    assert "nested too deeply" in told


def test_files_that_hold_no_dataset(tmp_path: Path) -> None:
    assert mistakes("") == [
        "1:1: dataset: the file is empty; a dataset has at least source and features"
    ]
    (told,) = mistakes("- a\n")
    assert told.startswith("1:1: dataset: a mapping of source, where, features")
    (told,) = mistakes(SOUND + "---\na: b\n")
    assert "a second document begins; write each dataset to a file of its own" in told
    (told,) = mistakes("where: \x07\n")
    assert told.startswith("1:8: dataset: not YAML: character '\\x07' may not stand in it")
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"source:\n  # K\xf6ln\n")
    (mistake,) = read_file(path).mistakes
    assert str(mistake) == "2:6: dataset: byte 0xf6 is not UTF-8; save the file as UTF-8"


def test_loading_raises_the_first_mistake(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SOUND)
    assert load_dataset(path) == read_text(SOUND, "").spec
    path.write_text(SOUND.replace("log1p: {}", "log1p:").replace("where", "were"))
    with pytest.raises(DatasetError) as caught:
        load_dataset(path)
    assert caught.value.message.startswith(f"{path}:2:1: dataset: 'were' is no field")
    assert caught.value.message.endswith("(and 1 more: preprocessor-server check)")


@given(st.data())
def test_any_text_is_read_to_an_end(data: st.DataObject) -> None:
    lines = SOUND.splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        cut = data.draw(st.integers(0, len(lines[at])))
        put = data.draw(
            st.sampled_from(["", "[", "}", "'", '"', ": ", "\t", "- ", "&a ", "*a", "|", "#"])
        )
        lines[at] = lines[at][:cut] + put + lines[at][cut + data.draw(st.integers(0, 2)) :]
    file: DatasetFile = read_text("\n".join(lines), "x.yaml")
    for mistake in file.mistakes:
        assert mistake.message
        assert mistake.place >= (1, 1, 1, 1)
    assert file.place("dataset.features[7].ops[1].clip") == file.places.get(
        "dataset.features", file.places["dataset"]
    )
