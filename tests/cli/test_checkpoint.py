"""`linkboy checkpoint`: what a directory of checkpoints holds, and its weights."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from linkboy import cli
from linkboy.training import Checkpointer, fit


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    model[1].weight.data = model[1].weight.data.clone()
    path = tmp_path_factory.mktemp("run") / "run"
    data = DataLoader(TensorDataset(torch.randn(16, 4), torch.arange(16) % 3), batch_size=8)
    fit(
        model, nn.CrossEntropyLoss(reduction="none"), torch.optim.AdamW(model.parameters(), lr=0.01), data, epochs=2,
        clip_grad_norm=1.0, checkpoint=Checkpointer(path, keep_best="train_loss"), seed=5, log=(), progress=False,
    )  # fmt: skip
    return path, model


def test_the_command_shows_steps_options_and_figures(directory, capsys):
    path, _ = directory
    assert cli.run(["checkpoint", str(path)]) == 0
    text = capsys.readouterr().out
    for part in ("step-2", "step-4", "whole", "exact", "AdamW", "67", "27", "clip_grad_norm", "train_loss of epoch 1"):
        assert part in text
    assert cli.run(["checkpoint", str(path / "step-2"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["ok"], content["seed"], content["parameter_count"], content["trainable_count"]) == (True, 5, 67, 27)
    assert [row["step"] for row in content["rows"]] == [2]
    assert content["recipe"]["groups"][0]["lr"] == 0.01


def test_the_command_writes_whole_weights(directory, capsys, tmp_path):
    path, model = directory
    out = tmp_path / "weights.safetensors"
    assert cli.run(["checkpoint", str(path), "--weights", str(out)]) == 0
    assert capsys.readouterr().err == f"wrote 4 tensors to {out}\n"
    written = load_file(out)
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in model.state_dict().items())


def test_the_command_says_what_is_wrong(directory, capsys, tmp_path):
    path, _ = directory
    assert cli.run(["checkpoint", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"linkboy: there is no checkpoint in {tmp_path}\n"
    (tmp_path / "file").touch()
    assert cli.run(["checkpoint", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"linkboy: {tmp_path / 'file'} is a file; name a directory for the checkpoints\n"
    assert cli.run(["checkpoint", str(tmp_path / "rum")]) == 2
    assert capsys.readouterr().err == f"linkboy: there is no directory {tmp_path / 'rum'}; check the path\n"
    assert cli.run(["checkpoint", str(path), "--weights", "out.pt"]) == 2
    assert capsys.readouterr().err == "linkboy: --weights must be a .safetensors file, got 'out.pt'\n"
    other = tmp_path / "other"
    Checkpointer(other).save({"a": torch.ones(2)}, 3)
    assert cli.run(["checkpoint", str(other)]) == 0
    (other / "step-3" / "process-0.json").write_text("{}")
    assert cli.run(["checkpoint", str(other)]) == 1
    assert "step-3: process-0.json has 2 bytes instead of" in capsys.readouterr().out
