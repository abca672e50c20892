"""What is too old says so in one sentence, before anything is done; what torch does differently is hidden."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import linkboy as lb
from linkboy import _compat

ROOMS = sorted(set(lb._NAMES) - {"text", "classify"})  # which load torch later, or not at all
OLD_TORCH = "linkboy needs torch 2.6 or newer, found 2.5.1+cu124; run: pip install 'torch>=2.6'"


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_every_room_refuses_a_torch_that_is_too_old():
    code = (
        "import importlib, sys, torch\n"
        "torch.__version__ = '2.5.1+cu124'\n"
        "for room in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module('linkboy.' + room)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
        "    else:\n"
        "        print(room, 'loads')\n"
    )
    printed = run(code, *ROOMS).stdout.splitlines()
    assert printed == [OLD_TORCH] * len(ROOMS)


def test_the_command_says_it_in_one_line():
    code = (
        "import sys, torch\n"
        "torch.__version__ = '2.5.1+cu124'\n"
        "from linkboy import cli\n"
        "sys.exit(cli.run(['train', 'rows.csv']))\n"
    )
    done = run(code)
    assert (done.returncode, done.stderr) == (2, f"linkboy: {OLD_TORCH}\n")


def test_a_python_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    monkeypatch.setattr(sys, "version", "3.10.4 (main)")
    path = Path(lb.__file__)
    with pytest.raises(ImportError) as caught:
        exec(compile(path.read_text("utf-8"), path, "exec"), {"__name__": "linkboy"})
    assert str(caught.value) == (
        f"linkboy needs Python 3.11 or newer, found 3.10.4 at {sys.executable}; "
        "make an environment with a newer one, such as: python3.13 -m venv .venv"
    )


def test_a_model_of_a_transformers_that_is_too_old_is_not_edited(monkeypatch):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=9
    )
    model = transformers.BertModel(config).eval()
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.40.2")  # not the module imported first
    with pytest.raises(ImportError) as caught:
        lb.keep_layers(model, "encoder.layer", [0], example=torch.ones(1, 3, dtype=torch.long))
    assert str(caught.value) == (
        "linkboy needs transformers 4.46.3 or newer, found 4.40.2; run: pip install 'transformers>=4.46.3'"
    )
    assert len(model.encoder.layer) == 2
    lb.keep_layers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "", [0])  # nothing of transformers is in it


@pytest.mark.parametrize("found", ["2.6.0", "2.6.0+cpu", "2.10.0a0+git1234", "3.0.0rc1"])
def test_newer_versions_are_newer_by_number_and_not_by_letter(found):
    _compat.check_version("torch", found, "2.6")


@pytest.mark.parametrize("found", ["2.5.1", "2.5.1+cu124", "1.13.1"])
def test_older_versions_are_refused(found):
    with pytest.raises(ImportError, match=r"needs torch 2\.6 or newer"):
        _compat.check_version("torch", found, "2.6")


def test_a_torch_built_for_a_device_that_is_not_here_has_none(monkeypatch):
    """torch 2.6 raises where there is none; the CUDA build of later releases names cuda on every machine."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert _compat.available_accelerator() is None
    assert lb.training.process_count() == 1


def test_reading_what_a_graph_saved_recomputes_nothing(monkeypatch):
    """As before torch 2.10, where a saved tensor is unpacked to be read."""
    monkeypatch.setattr(_compat, "_READS_RAW", False)
    x = torch.ones(3, requires_grad=True)
    y = x.exp()
    assert [(name, tensor.tolist()) for name, tensor in _compat.saved_by(y.grad_fn)] == [("_saved_result", y.tolist())]
    assert _compat.may_read_saved()
    y.sum().backward()
    assert list(_compat.saved_by(y.grad_fn)) == []
    runs = []

    def layer(x):
        runs.append(x)
        return x.exp()

    z = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    assert not _compat.may_read_saved()
    assert lb.who_holds(x) is not None
    assert len(runs) == 1
    del z
