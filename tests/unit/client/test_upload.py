"""What is sent of a function: all that it uses, the same from every process, or a clear refusal."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessor_server.udf import archive
from tests.fakes.notebook import Notebook
from tests.fakes.process import ROOT, python_environment
from trainer_client import Dataset, Dense, InvalidDatasetError, Udf, parquet
from trainer_client.upload import PackedFunction, pack
from trainer_client.upload.literals import literal

DECLARED: dict[str, Any] = {"inputs": ["a"], "outputs": {"b": "float32"}}


@pytest.fixture(autouse=True)
def only_what_was_there() -> Iterator[None]:
    """What an archive leaves in a process goes."""
    yield
    archive.import_from((archive.ArchivedModule("__main__", False, ()),), "__main__")


def run_as_server(packed: PackedFunction) -> Any:
    """The function of an archive, as a worker imports it."""
    modules = archive.from_json(
        [
            (m.name, m.package, [(p.text, p.file, p.first_line) for p in m.parts])
            for m in packed.modules
        ]
    )
    module, _, name = packed.function.partition(":")
    return getattr(archive.import_from(modules, module), name)


def text_of(packed: PackedFunction) -> str:
    return "".join(part.text for module in packed.modules for part in module.parts)


USES = {
    "a constant": ("SCALE = 3\n", "return x * SCALE"),
    "what a constant is by now": ("SCALE = 3\nSCALE += 2\n", "return x * SCALE"),
    "a helper, its helper and their constants": (
        "A = {'k': (1, 2)}\ndef g(x):\n    return h(x) + A['k'][1]\ndef h(x):\n    return x - 1\n",
        "return g(x)",
    ),
    "helpers that call each other": (
        ("def even(x):\n    return x == 0 or odd(x - 1)\n"
        "def odd(x):\n    return x != 0 and even(x - 1)\n"),
        "return even(x)",
    ),
    "an alias": ("def g(x):\n    return x + 1\nh = g\n", "return h(x)"),
    "a decorated helper": (
        "import functools\n@functools.cache\ndef g(x):\n    return x + 7\n",
        "return g(x)",
    ),
    "a class, and its base": (
        ("class A:\n    y: 'nothing' = 2\n    def go(self, x):\n        return x + self.y\n"
        "class B(A):\n    def twice(self, x):\n        return self.go(self.go(x))\n"),
        "return B().twice(x)",
    ),
    "modules, under other names": (
        "import os.path as p\nimport math as m\n",
        "return m.sqrt(x), p.sep",
    ),
    "a package that is imported part by part": (
        "import xml\nimport xml.sax.saxutils\n",
        "return xml.sax.saxutils.escape(str(x))",
    ),
    "what is imported from modules": (
        "from math import sqrt as root, pi\nfrom collections import OrderedDict\n",
        "return root(x) + pi, OrderedDict(a=x)",
    ),
    "a ufunc, which names no module": ("from numpy import log1p\n", "return float(log1p(x))"),
    "defaults": ("SCALE = 2\n", "return g(x)\ndef g(x, y=SCALE):\n    return x + y"),
    "annotations that servers lack": (
        ("class Absent: ...\n"
        "def g(x: 'Absent') -> Absent:\n    y: Absent = x\n    return y\ndel Absent\n"),
        "return g(x)",
    ),
    "names of its own": (
        "y = object()\n",
        "def g(y):\n        return [y for y in range(y)]\n    return g(x)",
    ),
    "another declared function": (
        ("from trainer_client import udf\n"
        "@udf(inputs=['a'], outputs={'b': 'int8'})\ndef g(x):\n    return x + 1\n"),
        "return g(x)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_it_does_the_same_on_a_server(use: str) -> None:
    before, body = USES[use]
    notebook = Notebook()
    notebook.run(before)
    function = notebook.run(f"def f(x):\n    {body}\n")
    packed = pack(function)
    expected = function(5)
    assert packed.function == "__main__:f"
    assert run_as_server(packed)(5) == expected
    assert "trainer_client" not in text_of(packed)


def test_a_function_inside_of_another_is_sent_with_its_lines() -> None:
    notebook = Notebook()
    notebook.run("def made():\n    def f(x):\n        return '''a\nb''' * x\n    return f\n")
    packed = pack(notebook.run("f = made()\n"))
    sent = run_as_server(packed)
    assert sent(2) == "a\nba\nb"
    assert sent.__code__.co_firstlineno == 2


REFUSED = {
    "a variable of the function around it": (
        "def made(scale):\n    def f(x):\n        return x * scale\n    return f\nf = made(2)\n",
        "uses scale of the function around it",
    ),
    "a live object": (
        "class Model: ...\nmodel = Model()\ndef f(x):\n    return model\n",
        "f uses model, which is a __main__.Model: ",
    ),
    "a live object that a helper uses": (
        "lock = __import__('threading').Lock()\ndef g():\n    return lock\ndef f(x):\n    g()\n",
        "g uses lock, which is a _thread.lock: ",
    ),
    "a number that only looks like a plain one": (
        "import numpy as np\neps = np.float64(0.5)\ndef f(x):\n    return x + eps\n",
        "eps, which is a numpy.float64",
    ),
    "a list with a live object": ("kept = [1, object()]\ndef f(x):\n    kept\n", "kept, which is"),
    "a name that is not there yet": (
        "def f(x):\n    return later(x)\n",
        "later, which is not there",
    ),
    "its own file": ("__file__ = 'x.py'\ndef f(x):\n    return __file__\n", "uses __file__"),
    "a relative import": ("def f(x):\n    from ..near import y\n", "imports ..near: write"),
    "a lambda": ("f = lambda x: x\n", "it is a lambda: write it as a function"),
    "a builtin": ("f = len\n", "builtin_function_or_method: write it as a function"),
    "a method": ("class A:\n    def f(self):\n        pass\nf = A().f\n", "it is method"),
    "an installed function": (
        "from hypothesis import given as f\n",
        "module hypothesis.core is installed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_sent_is_named(what: str) -> None:
    cell, words = REFUSED[what]
    function = Notebook().run(cell)
    with pytest.raises(InvalidDatasetError) as caught:
        Udf(function, **DECLARED).packed()
    assert words in caught.value.message
    assert f"{function.__name__}') cannot be sent to servers: " in caught.value.message


def test_source_that_is_gone_or_has_changed(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(x):\n    return x\n", names)  # noqa: S102 - a function without a file
    with pytest.raises(InvalidDatasetError, match="the source of f cannot be found"):
        Udf(names["f"], **DECLARED).packed()
    for text, words in (("\n\ndef f(x):\n    return 2\n", "not where it was"), ("def (", "line 1")):
        script = tmp_path / f"{len(text)}.py"
        script.write_text("def f(x):\n    return x\n")
        exec(compile(script.read_text(), str(script), "exec"), names)  # noqa: S102 - a script
        script.write_text(text)
        with pytest.raises(InvalidDatasetError, match=words):
            Udf(names["f"], **DECLARED).packed()


PROJECT = {
    "own_top.py": "import own_pkg.deep.leaf\nfrom own_pkg import sub\nimport json\n"
    "def f(x):\n    return own_pkg.deep.leaf.LEAF + sub.SUB + x\n",
    "own_pkg/__init__.py": "from typing import TYPE_CHECKING\n"
    "if TYPE_CHECKING:\n    import own_unused\n",
    "own_pkg/sub.py": "from .deep import *\nfrom . import other\nSUB = 20 + other.OTHER\n",
    "own_pkg/other.py": "OTHER = 3\n",
    "own_pkg/deep/leaf.py": "def late():\n    from own_pkg import lazy\nLEAF = 100\n",
    "own_pkg/lazy.py": "",
    "own_unused.py": "raise SystemExit\n",
    "own_declared.py": "import math, trainer_client as t\n"
    "from trainer_client import (\n    udf,\n)\n"
    "\n\n@udf(\n    inputs=['ü'],\n    outputs={'b': 'int8'},\n)\n"
    "def f(x):\n    return math.floor(x) + 1\n",
    "own_training.py": "from trainer_client import Dataset, udf\n\n\n"
    "def f(x):\n    return Dataset\n",
    "own_compiled" + EXTENSION_SUFFIXES[0]: "",
    "own_uses_compiled.py": "import own_compiled\ndef f(x):\n    return x\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules beside a script, some in packages, one of which has no __init__.py."""
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def test_a_local_module_is_sent_whole_with_what_it_imports(project: Path) -> None:
    packed = pack(Notebook().run("from own_top import f\n"))
    assert packed.function == "own_top:f"
    assert [(module.name, module.package) for module in packed.modules] == [
        ("own_pkg", True),
        ("own_pkg.deep", True),
        ("own_pkg.deep.leaf", False),
        ("own_pkg.lazy", False),
        ("own_pkg.other", False),
        ("own_pkg.sub", False),
        ("own_top", False),
    ]
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    sys.path.remove(str(project))
    assert run_as_server(packed)(1) == 124


@pytest.mark.usefixtures("project")
def test_a_script_takes_the_local_modules_along_that_its_function_uses() -> None:
    notebook = Notebook()
    notebook.run("import own_pkg.sub as s\nfrom own_pkg.deep.leaf import late\n")
    function = notebook.run("def f(x):\n    import own_top\n    return late() or s.SUB + x\n")
    names = [module.name for module in pack(function).modules]
    assert names[0] == "__main__"
    assert {"own_pkg.sub", "own_pkg.deep.leaf", "own_top"} <= set(names)
    assert "own_unused" not in names


@pytest.mark.usefixtures("project")
def test_a_declared_function_of_a_module_needs_no_trainer_client_there() -> None:
    notebook = Notebook()
    declared = notebook.run("from own_declared import f\n")
    packed = declared.packed().code
    assert "trainer_client" not in text_of(packed)
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    sent = run_as_server(packed)
    assert sent(1.5) == declared(1.5) == 2
    # The line of its def in the file.
    assert sent.__code__.co_firstlineno == 11


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("own_training", r"own_training\.py, line 5 uses Dataset of trainer_client"),
        ("own_uses_compiled", r"module own_compiled is compiled \("),
    ],
)
def test_a_module_that_servers_cannot_have(
    monkeypatch: pytest.MonkeyPatch, module: str, words: str
) -> None:
    # Python would refuse an empty library.
    monkeypatch.setitem(sys.modules, "own_compiled", type(sys)("own_compiled"))
    function = Notebook().run(f"from {module} import f\n")
    monkeypatch.delitem(sys.modules, "own_compiled")
    with pytest.raises(InvalidDatasetError, match=words):
        Udf(function, **DECLARED).packed()


CELL = """
SCALES = {3: 0.5, "β": {"x", "y", ("z", 1)}}
def helper(x):
    return x * SCALES[3] if x in SCALES["β"] else float("nan")
class Kept:
    def go(self): return helper(1)
def f(batch):
    return Kept().go(), helper(batch), math.pi, np.random
"""
# The package itself imports torch, which the making of datasets does not need.
FINGERPRINT = """
import sys, types
package = types.ModuleType("trainer_client")
package.__path__ = [sys.argv[1]]
sys.modules["trainer_client"] = package
from tests.fakes.notebook import Notebook
from trainer_client.dataset import Dataset, Dense, parquet
from trainer_client.udfs import Udf
notebook = Notebook()
for cell in sys.argv[2:]:
    function = notebook.run(cell)
udf = Udf(function, inputs=["a"], outputs={"b": "float32"})
print(Dataset(source=parquet("x"), features=[Dense("b")], udfs=[udf]).fingerprint)
"""


def test_three_processes_name_it_alike() -> None:
    imports = "import math, numpy as np\n"
    # Other cells, elsewhere: what is in between is no part of it.
    runs = [[imports, CELL], [imports, "1 + 1", "\n\n\n" + CELL], [imports + CELL + "\n# the end"]]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FINGERPRINT, str(ROOT / "trainer_client"), *cells],
            env=python_environment(PYTHONHASHSEED=str(seed)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, cells in enumerate(runs, 1)
    ]
    found = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert found[0].startswith("sha256:")
    assert len(set(found)) == 1


def dataset(function: Any) -> Dataset:
    return Dataset(source=parquet("x"), features=[Dense("b")], udfs=[Udf(function, **DECLARED)])


def test_what_is_not_used_changes_nothing_and_what_is_used_does() -> None:
    notebook = Notebook()
    notebook.run("SCALE, other = 2, 3\ndef g():\n    return SCALE\n")
    function = notebook.run("def f(x):\n    return g()\n")
    first = dataset(function)
    notebook.run("other = 4\n")
    assert dataset(function).fingerprint == first.fingerprint
    again = dataset(notebook.run("# As before.\n\ndef f(x):\n    return g()"))
    assert again.fingerprint == first.fingerprint
    assert again != first
    found = {first.fingerprint}
    for cell in ("SCALE = 5", "def g():\n    return -SCALE", "def f(x):\n    return g() + 1"):
        found.add(dataset(notebook.run(cell)).fingerprint)
    assert len(found) == 4
    # What the functions use is read when the dataset is made.
    assert first.fingerprint == Dataset.from_yaml(first.to_yaml()).fingerprint


def test_it_comes_back_from_yaml_line_by_line() -> None:
    made = dataset(Notebook().run("def f(x):\n    text = 'a\\tb'\n    return text, 'ü'\n"))
    text = made.to_yaml()
    assert "          def f(x):\n              text = 'a\\tb'\n" in text
    assert Dataset.from_yaml(text) == made
    (udf,) = Dataset.from_yaml(text).udfs
    with pytest.raises(AttributeError, match="servers have it"):
        udf(1)


def test_too_much_source_is_refused() -> None:
    with pytest.raises(InvalidDatasetError, match="the largest module is __main__"):
        dataset(Notebook().run(f"def f(x):\n    return {'1' * (1 << 20)!r}\n"))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    | st.frozensets(st.text() | st.integers(), max_size=3)
    | st.sets(st.text(), max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(PLAIN)
@settings(max_examples=30)
def test_plain_values_are_written_as_they_are(value: object) -> None:
    text = literal(value)
    assert text is not None
    # repr() tells apart what is not equal to itself, and what is equal to others.
    back = eval(text)  # noqa: S307 - what a worker does with it
    if isinstance(value, set | frozenset):
        assert (type(back), back) == (type(value), value)
    elif not _has_sets(value):
        assert repr(back) == repr(value)


def _has_sets(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_sets, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_sets, value))
    return isinstance(value, set | frozenset)


@pytest.mark.parametrize("value", [object(), [object()], {"a": object()}, os.O_RDONLY.__class__])
def test_others_are_not_plain(value: object) -> None:
    assert literal(value) is None
    assert literal({1.5: math.inf, "x": (1,)}) == "{1.5: float('inf'), 'x': (1,)}"
