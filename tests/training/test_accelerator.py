"""An `Accelerator` is the caller's: linkboy uses the one passed, makes none, and leaves accelerate's state alone."""

import accelerate
import pytest
import torch
from tests.training.helpers import Augmented, make_model, same_state
from torch import nn
from torch.utils.data import DataLoader

from linkboy.training import evaluate, fit, predict

CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")


@pytest.fixture
def accelerator():
    return accelerate.Accelerator(cpu=True)


def train(**options):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = fit(
        model, CROSS_ENTROPY, optimizer, DataLoader(Augmented(), batch_size=4), seed=0, progress=False, **options
    )
    return model, history


def test_the_callers_accelerator_gives_the_same_bits_and_the_model_comes_back_plain(accelerator):
    model, history = train(accelerator=accelerator)
    plain, _ = train(device="cpu")
    assert same_state(dict(model.state_dict()), dict(plain.state_dict()))
    assert vars(model).keys() == vars(plain).keys()
    assert (history.device, history.precision) == ("cpu", "fp32")
    data = DataLoader(Augmented(5).inputs, batch_size=2)
    assert torch.equal(predict(model, data, accelerator=accelerator), predict(plain, data, device="cpu"))


def test_no_accelerator_is_made(monkeypatch):
    def made(self, *arguments, **options):
        raise AssertionError("an Accelerator was made")

    monkeypatch.setattr(accelerate.Accelerator, "__init__", made)
    model, _ = train(precision="bf16", device="cpu")
    assert predict(model, DataLoader(Augmented(5).inputs), precision="bf16", device="cpu").dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "message", "options", "state"),
    [
        (TypeError, "accelerator must be an accelerate.Accelerator, got int", {"accelerator": 1}, {}),
        (
            ValueError,
            "accelerator decides device and precision; give them to the Accelerator instead",
            {"precision": "bf16"},
            {},
        ),
        (
            ValueError,
            "accelerator must run one process or plain data parallelism, got FSDP; "
            "to shard a model, use torch's fully_shard and leave accelerator out",
            {},
            {"distributed_type": accelerate.DistributedType.FSDP},
        ),
        (
            ValueError,
            "accelerator must run one process or plain data parallelism, got DEEPSPEED; "
            "to shard a model, use torch's fully_shard and leave accelerator out",
            {},
            {"distributed_type": accelerate.DistributedType.DEEPSPEED},
        ),
        (
            ValueError,
            "accelerator must have mixed_precision 'no', 'bf16' or 'fp16', got 'fp8'",
            {},
            {"mixed_precision": "fp8"},
        ),
        (
            ValueError,
            "accelerator must have gradient_accumulation_steps=1, got 4; "
            "pass accumulate to fit, which divides by what was counted",
            {},
            {"gradient_accumulation_steps": 4},
        ),
    ],
)
def test_an_accelerator_that_does_not_fit_is_refused(kind, message, options, state, accelerator, monkeypatch):
    for name, value in state.items():
        monkeypatch.setattr(accelerate.Accelerator, name, value)
    with pytest.raises(kind) as caught:
        evaluate(nn.Identity(), [(torch.ones(1), torch.ones(1))], {}, **{"accelerator": accelerator, **options})
    assert str(caught.value) == message
