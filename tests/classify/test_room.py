"""What the room offers is named once for type checkers and once for the running program; importing it loads nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from linkboy import classify


def test_names_for_checkers_and_names_at_run_time_are_the_same():
    tree = ast.parse(Path(classify.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.asname: node.module.removeprefix("linkboy.classify.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == classify._FILE_OF
    assert classify.__all__ == sorted(typed) == dir(classify)
    assert all(getattr(classify, name).__name__ == name for name in typed)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError) as caught:
        classify.train_clasifier
    assert str(caught.value) == "module 'linkboy.classify' has no attribute 'train_clasifier'"


def test_the_options_of_a_run_load_no_torch():
    code = (
        "import sys\nfrom linkboy.classify.recipe import TrainingOptions\nprint({'torch', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
