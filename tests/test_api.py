"""The public surface is lazy, complete and documented."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import linkboy
from linkboy._report import Report

PUBLIC = sorted(linkboy._ROOM_OF)


def run_fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def typed_names() -> dict[str, str]:
    tree = ast.parse(Path(linkboy.__file__).read_text("utf-8"))
    imports = [node for block in tree.body if isinstance(block, ast.If) for node in block.body]
    return {
        alias.asname: node.module.removeprefix("linkboy").removeprefix(".")
        for node in imports
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname
    }


def test_names_for_checkers_and_names_at_run_time_are_the_same():
    typed = typed_names()
    assert {name: room for name, room in typed.items() if room} == linkboy._ROOM_OF
    assert {name for name, room in typed.items() if not room} == set(linkboy._NAMES)
    assert linkboy.__all__ == PUBLIC
    assert dir(linkboy) == sorted({*PUBLIC, *linkboy._NAMES, "__version__"})


def test_every_room_is_an_attribute():
    code = "import linkboy as lb; print([getattr(lb, room).__name__ for room in lb._NAMES])"
    assert run_fresh(code).stdout.strip() == str([f"linkboy.{room}" for room in linkboy._NAMES])


@pytest.mark.parametrize("room", sorted(linkboy._NAMES))
def test_a_public_name_is_one_of_its_room(room):
    module = importlib.import_module(f"linkboy.{room}")
    names = set(getattr(module, "__all__", dir(module)))
    assert set(linkboy._NAMES[room]) <= names
    reports = {name for name in names if is_report(getattr(module, name))}
    assert not reports & set(PUBLIC) - {"LabelledTexts", "TrainingOptions"}


def is_report(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Report)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_documented_typed_and_has_an_example(name):
    thing = getattr(linkboy, name)
    doc = inspect.getdoc(thing) or ""
    assert len(doc.splitlines()) > 1, f"{name} needs a docstring"
    assert ">>>" in doc, f"{name} needs a runnable example"
    for parameter in inspect.signature(thing).parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, f"{name}({parameter.name}) has no type"


def test_bare_import_loads_neither_torch_nor_any_room():
    heavy = ("torch", "numpy", "rich", "linkboy")
    code = f"import sys, linkboy; print(sorted(m for m in sys.modules if m.startswith({heavy})))"
    assert run_fresh(code).stdout.strip() == "['linkboy', 'linkboy._version']"


def test_a_classifier_that_is_solved_loads_no_compiler_of_torch(tmp_path):
    code = f"""
import sys, torch, linkboy as lb
loaded = "torch._dynamo" in sys.modules
texts = [f"{{word}} {{n}}" for n in range(20) for word in ("good", "bad")]
lb.train_classifier((texts, ["yes", "no"] * 20), {str(tmp_path / "model")!r})
print(loaded or "torch._dynamo" not in sys.modules)
"""
    assert run_fresh(code).stdout.strip() == "True"


def test_the_check_of_a_bare_import_can_fail():
    code = (
        "import sys, linkboy._report, rich; print(sorted(m for m in sys.modules if m in ('rich', 'linkboy._report')))"
    )
    assert run_fresh(code).stdout.strip() == "['linkboy._report', 'rich']"


def test_a_misspelled_name_is_an_attribute_error_with_the_nearest_name():
    with pytest.raises(AttributeError) as caught:
        linkboy.focal_los
    assert str(caught.value) == "module 'linkboy' has no attribute 'focal_los'; did you mean 'focal_loss'?"
