"""What the command line names: checkpoints are counted, functions are called."""

import pytest
import torch
from torch import nn

from linkboy.parameters import describe_target


def test_paths_are_counted_and_functions_called(tmp_path, monkeypatch):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "m.pt")
    for target in (tmp_path / "m.pt", str(tmp_path / "m.pt"), tmp_path):
        assert describe_target(target).total == 8
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(3, 2))\nready = nn.Linear(1, 1)\ncount = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert describe_target("my_models:build", depth=0).count.total == 8
    assert describe_target("my_models:ready").count.total == 2
    for target, error, message in [
        ("my_models:buil", ValueError, "'my_models' has no 'buil'; did you mean 'build'?"),
        ("my_models:count", TypeError, "'my_models:count' must give an nn.Module, got int"),
        (
            "nothing.pt",
            FileNotFoundError,
            "no file or folder 'nothing.pt'; a function that builds a model is package.module:name",
        ),
        (
            "no_such_package.models:build",
            ModuleNotFoundError,
            "target must be a path or package.module:name, got 'no_such_package.models:build', and there is no module "
            "'no_such_package' here; start from the folder that holds it, install it, or check its name",
        ),
    ]:
        with pytest.raises(error) as caught:
            describe_target(target)
        assert str(caught.value) == message


def test_a_module_that_needs_a_missing_one_names_that_one(tmp_path, monkeypatch):
    (tmp_path / "my_needy_models.py").write_text("import no_such_need\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        describe_target("my_needy_models:build")
    assert str(caught.value) == "No module named 'no_such_need'"
