"""Small batches: who follows the calls of torch sees all of a loss, and a tensor that outlived a transform has a gradient."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from linkboy import binary_focal_loss, focal_loss

pytestmark = [  # torch's own, of importing its transforms
    pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning"),
]
LOSSES = {
    "classes": lambda x: focal_loss(x, torch.tensor([0, 2, 1, 0])),
    "classes, weighted": lambda x: focal_loss(x, torch.tensor([0, 2, 1, 0]), alpha=[0.0, 1.0, 2.0]),
    "labels": lambda x: binary_focal_loss(x, (torch.arange(12.0) % 2).view(4, 3)),
    "labels, masked": lambda x: binary_focal_loss(x, (torch.arange(12.0) % 3).view(4, 3), ignore_index=2),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@each_loss
@pytest.mark.parametrize("mode", [Functions, Operations])
def test_a_mode_sees_the_arithmetic_and_no_array(loss, mode):
    x = torch.randn(4, 3, requires_grad=True)
    with mode() as following:
        seen = loss(x)
    assert "rsub" in following.seen  # 1 - q, of the derivative
    assert "numpy" not in following.seen
    unseen = loss(x)
    torch.testing.assert_close(seen, unseen)
    torch.testing.assert_close(torch.autograd.grad(seen, x)[0], torch.autograd.grad(unseen, x)[0])


@each_loss
def test_logits_that_outlived_a_transform_keep_their_gradient(loss):
    x, left = torch.randn(4, 3, requires_grad=True), []

    def inside(y):
        left.append(2 * y)
        return y.sum()

    torch.func.grad(inside)(x)
    expected = torch.autograd.grad(loss(2 * x), x)[0]
    torch.testing.assert_close(torch.autograd.grad(loss(left[0]), x)[0], expected)
