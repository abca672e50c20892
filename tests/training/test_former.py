"""`former` holds a checkpoint that an earlier version of `fit` wrote, and the weights that it reached from there."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.helpers import Augmented, small_run
from torch.utils.data import DataLoader

from linkboy.training import Checkpointer, EarlyStopping, fit

FORMER = Path(__file__).with_name("former")


def accuracy(output, target):
    return (output.argmax(1) == target).double().mean()


def test_a_checkpoint_of_an_earlier_version_is_whole_and_can_be_read():
    state = Checkpointer(FORMER).load(FORMER / "step-6")
    assert (state["seed"], state["at"]["step"], state["at"]["epoch"]) == (7, 6, 1)
    assert {name: tensor.shape for name, tensor in state["model"].items()} == {
        name: tensor.shape for name, tensor in small_run()[0].state_dict().items()
    }


@pytest.mark.skipif(
    not hasattr(torch.nn.functional, "linear_cross_entropy"),
    reason="waits for torch 2.13, which wrote the checkpoint: before, loaders drew other numbers",
)
def test_a_run_goes_on_from_a_checkpoint_of_an_earlier_version_to_the_same_weights(tmp_path):
    """In the middle of the second epoch, with dropout, augmentation, accumulation, an average and early stopping."""
    shutil.copytree(FORMER / "step-6", tmp_path / "step-6")
    model, loss_fn, optimizer, data, scheduler = small_run()
    history = fit(
        model, loss_fn, optimizer, data, scheduler=scheduler, val_loader=DataLoader(Augmented(7)),
        metrics={"accuracy": accuracy}, epochs=3, accumulate=2, clip_grad_norm=1.0, ema=0.9,
        early_stopping=EarlyStopping("train_loss"), checkpoint=Checkpointer(tmp_path, every_steps=3, keep=1),
        seed=7, log=(), device="cpu", progress=False,
    )  # fmt: skip
    assert (history.steps, history.resumed_from) == (12, str(tmp_path / "step-6"))
    # A bias before BatchNorm has a gradient of rounding errors only, which AdamW turns into whole steps: it and the mean
    # that follows it differ from one number of threads to another, and so does a little of what evaluation computes.
    assert [row["val_loss"] for row in history.rows] == pytest.approx([1.30355, 1.30587, 1.30536], abs=2e-3)
    reached, expected = dict(model.state_dict()), load_file(FORMER / "expected.safetensors")
    assert reached.keys() == expected.keys()
    for name in expected.keys() - {"0.bias", "1.running_mean"}:
        torch.testing.assert_close(
            reached[name], expected[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
