"""The public surface is lazy, complete and documented."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import linkboy

PUBLIC = sorted(linkboy._ROOM_OF)


def run_fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def typed_names() -> dict[str, str]:
    tree = ast.parse(Path(linkboy.__file__).read_text("utf-8"))
    imports = [node for block in tree.body if isinstance(block, ast.If) for node in block.body]
    return {
        alias.asname: node.module.split(".")[1]
        for node in imports
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname
    }


def test_names_for_checkers_and_names_at_run_time_are_the_same():
    assert typed_names() == linkboy._ROOM_OF
    assert linkboy.__all__ == PUBLIC
    assert sorted(dir(linkboy)) == sorted([*PUBLIC, "__version__"])


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


def test_the_check_above_can_fail():
    code = (
        "import sys, linkboy._report, rich; print(sorted(m for m in sys.modules if m in ('rich', 'linkboy._report')))"
    )
    assert run_fresh(code).stdout.strip() == "['linkboy._report', 'rich']"


def test_a_misspelled_name_is_an_attribute_error_with_the_nearest_name():
    with pytest.raises(AttributeError) as caught:
        linkboy.focal_los
    assert str(caught.value) == "module 'linkboy' has no attribute 'focal_los'; did you mean 'focal_loss'?"
