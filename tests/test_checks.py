"""The shared files: messages and progress."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from linkboy._checks import check_choice, check_flag, check_number, check_same_shape, describe, did_you_mean
from linkboy._progress import Progress
from linkboy._tensors import check_module


def message_of(error, call, *arguments, **keywords):
    with pytest.raises(error) as caught:
        call(*arguments, **keywords)
    return str(caught.value)


@pytest.mark.parametrize(
    ("error", "value", "bounds", "message"),
    [
        (TypeError, "3", {}, "n must be a number, got '3' of type str"),
        (TypeError, True, {}, "n must be a number, got True of type bool"),
        (TypeError, 1.5, {"integer": True}, "n must be an integer, got 1.5 of type float"),
        (
            TypeError,
            np.int64(3),
            {"integer": True},
            f"n must be an integer, got {np.int64(3)!r} of type int64; pass int(n)",
        ),
        (TypeError, torch.tensor(3.0), {}, "n must be a number, got tensor(3.) of type Tensor; pass float(n)"),
        (ValueError, float("nan"), {}, "n must be a number, got nan"),
        (ValueError, 0, {"above": 0}, "n must be a number above 0, got 0"),
        (ValueError, 2, {"minimum": 0, "maximum": 1}, "n must be a number of at least 0 and of at most 1, got 2"),
    ],
)
def test_numbers(error, value, bounds, message):
    assert message_of(error, check_number, "n", value, **bounds) == message


def test_flags_and_modules():
    check_flag("trim", False)
    assert message_of(TypeError, check_flag, "trim", "no") == "trim must be True or False, got 'no'"
    assert check_module("model", model := nn.Linear(1, 1)) is model
    assert message_of(TypeError, check_module, "model", torch.ones(2)) == "model must be an nn.Module, got f32[2]"


def test_choices_shapes_and_descriptions():
    assert message_of(ValueError, check_choice, "mode", "maxx", ("min", "max")) == (
        "mode must be one of ('min', 'max'), got 'maxx'; did you mean 'max'?"
    )
    assert (
        message_of(ValueError, check_same_shape, "weight", torch.ones(2), "input", torch.ones(2, 1))
        == "weight must have the shape of input (2, 1), got (2,)"
    )
    assert describe(torch.zeros(2, 0, dtype=torch.bfloat16)) == "bf16[2, 0]"
    assert did_you_mean("nothing", ["x"]) == ""


@pytest.mark.parametrize(
    "name", ["bce_loss", "triplet_loss", "dice_los", "SmoothL1Loss", "nll_loss", "TripletMarginLoss"]
)
def test_no_other_loss_is_proposed_for_one_that_is_not_there(name):
    losses = ["HuberLoss", "MSELoss", "MSLELoss", "huber_loss", "mae_loss", "mse_loss", "msle_loss", "rmsle_loss"]
    assert did_you_mean(name, losses) == ""


@pytest.mark.parametrize(
    ("name", "meant"),
    [("hubr_loss", "huber_loss"), ("MSELos", "MSELoss"), ("mea_loss", "mae_loss"), ("2.weigt", "2.weight")],
)
def test_a_misspelled_name_is_still_found(name, meant):
    assert did_you_mean(name, ["MSELoss", "huber_loss", "mae_loss", "2.weight"]) == f"; did you mean {meant!r}?"


def test_plain_progress_prints_now_and_then_and_a_disabled_one_nothing():
    stream = io.StringIO()
    with Progress("reading", total=4, unit="rows", every_seconds=0, stream=stream) as progress:
        progress.advance(1, loss="0.5")
        progress.advance(3)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("reading 1/4 rows  loss 0.5  ")
    assert lines[0].endswith(" left")
    assert lines[1].startswith("reading 4/4 rows  loss 0.5  ")
    silent = io.StringIO()
    with Progress("reading", every_seconds=0, enabled=False, stream=silent) as progress:
        progress.advance(1)
    assert silent.getvalue() == ""


def test_a_terminal_gets_a_live_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Progress("reading", total=2, stream=stream) as progress:
        progress.advance(2, loss="0.25")
        progress.write("a line [above]")
    assert "a line [above]" in stream.getvalue()
    assert "2/2" in stream.getvalue()
