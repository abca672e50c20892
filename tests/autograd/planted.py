"""Operators with one bug each, the same operators without it, and right ones from everywhere, for tests and benchmark.

The first nine bugs are known from issues of PyTorch and of projects that use it, the others are our own.
"""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import linkboy as lb


class Planted(NamedTuple):
    """A bug, the operator without it, inputs, and the check that has to fail."""

    bug: Callable[..., Any]
    twin: Callable[..., Any]
    inputs: Callable[[], tuple[Tensor, ...]]
    check: str


def matrix(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*(shape or (4, 3)), dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()


def one() -> tuple[Tensor, ...]:
    return (matrix(),)


def two() -> tuple[Tensor, ...]:
    return matrix(), matrix(1, 3)


class Square(Function):
    """The right one that most bugs below are made of: new style, composable, twice differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return 2 * x * tangent


class OldSquare(Function):
    """Right, in the old style: no transform takes it, which limits it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class KeptOutput(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.y = x.exp()
        return ctx.y

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.y


class KeptInput(OldSquare):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.x * grad


class SavedOutput(Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


class SavedIntermediate(Function):
    @staticmethod
    def forward(ctx, x):
        s = x.sigmoid()
        ctx.save_for_backward(s)
        return s * s

    @staticmethod
    def backward(ctx, grad):
        (s,) = ctx.saved_tensors
        return grad * 2 * s * s * (1 - s)


class OnceSaved(SavedIntermediate):
    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return SavedIntermediate.backward(ctx, grad)


class ViewOfGradient(OldSquare):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return (grad.view(-1) * 2 * x.reshape(-1)).view(x.shape)


class Numpy(OldSquare):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.square(x.detach().numpy()))


class InPlaceOnGradient(OldSquare):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad.mul_(2 * x)


class WritesInput(OldSquare):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.mul_(0.5) * x


class Float32(OldSquare):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.float() * x.float()


class NoneNotHandled(OldSquare):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return OldSquare.forward(ctx, x)


class NoneHandled(NoneNotHandled):
    @staticmethod
    def backward(ctx, grad):
        return None if grad is None else OldSquare.backward(ctx, grad)


class TooManyGradients(OldSquare):
    @staticmethod
    def backward(ctx, grad):
        return OldSquare.backward(ctx, grad), None, grad


class WrongFactor(OldSquare):
    @staticmethod
    def backward(ctx, grad):
        return OldSquare.backward(ctx, grad) / 2


class Add(Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.shapes = x.shape, y.shape
        return x + y

    @staticmethod
    def backward(ctx, grad):
        return grad.sum_to_size(ctx.shapes[0]), grad.sum_to_size(ctx.shapes[1])


class AddMeans(Add):
    @staticmethod
    def backward(ctx, grad):
        return grad, grad.mean(0, keepdim=True)


class NoConjugate(OldSquare):
    """Right for real numbers only; the twin conjugates."""


class Conjugate(OldSquare):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x.conj() * grad


class OnTheClass(OldSquare):
    @staticmethod
    def forward(ctx, x):
        OnTheClass.x = x.detach().clone()
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * OnTheClass.x * grad


class InPlaceOnSaved(OldSquare):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(2 * x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensors
        return slope.mul_(grad)


class NotInPlaceOnSaved(InPlaceOnSaved):
    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensors
        return slope * grad


class WrongJvp(Square):
    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return x * tangent


class WrongVmap(Square):
    generate_vmap_rule = False

    @staticmethod
    def vmap(info, in_dims, x):
        return WrongVmap.apply(x), 0  # wherever the batch was


class RightVmap(Square):
    generate_vmap_rule = False

    @staticmethod
    def vmap(info, in_dims, x):
        return RightVmap.apply(x), in_dims[0]


class Multiply(Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return (grad * y).sum_to_size(x.shape), (grad * x).sum_to_size(y.shape)


class NeedsMixedUp(Multiply):
    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        for_x = (grad * y).sum_to_size(x.shape) if ctx.needs_input_grad[1] else None
        return for_x, (grad * x).sum_to_size(y.shape)


class Matmul(Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x @ y

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return grad @ y.mT, x.mT @ grad


class MatmulWithoutAmp(Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return x @ y

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return grad @ y.mT, x.mT @ grad


HISTORY: list[Tensor] = []


def keeps_a_history(x):
    HISTORY.append(x.detach().clone())
    return x.sin()


def view_of_input(x):
    return (x.view(-1) * 2).reshape(x.shape)


def reads_memory(x):
    flat = torch.as_strided(x, (x.numel(),), (1,), x.storage_offset())
    return (flat * 2).reshape(x.shape)


def undetermined(x):
    return x * (1 + random.SystemRandom().random())


def reseeds(x):
    torch.manual_seed(7)
    return x * torch.rand_like(x)


def draws(x):
    return x * torch.rand_like(x)


def turns_grad_off(x):
    y = x.sin()
    torch.set_grad_enabled(False)
    return y


def cuts_the_graph(x):
    return x.detach().sin().requires_grad_(False)


@torch.library.custom_op("linkboy_planted::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


twice.register_fake(torch.empty_like)
twice.register_autograd(lambda ctx, grad: grad * 2)


@torch.library.custom_op("linkboy_planted::transposed_fake", mutates_args=())
def wrong_fake(x: Tensor) -> Tensor:
    return x * 2


wrong_fake.register_fake(lambda x: x.new_empty(x.shape[::-1]))
wrong_fake.register_autograd(lambda ctx, grad: grad * 2)


def complex_matrix() -> tuple[Tensor, ...]:
    return (matrix(dtype=torch.complex64),)


KNOWN = {
    "1 output kept on ctx": Planted(KeptOutput.apply, SavedOutput.apply, one, "leaks"),
    "2 saved intermediate": Planted(SavedIntermediate.apply, OnceSaved.apply, one, "second order"),
    "3 view of the incoming gradient": Planted(ViewOfGradient.apply, OldSquare.apply, one, "incoming gradient"),
    "4 numpy in forward": Planted(Numpy.apply, OldSquare.apply, one, "torch only"),
    "5 incoming gradient written": Planted(InPlaceOnGradient.apply, OldSquare.apply, one, "incoming gradient"),
    "6 input written": Planted(WritesInput.apply, OldSquare.apply, one, "mutation"),
    "7 float32 written in": Planted(Float32.apply, OldSquare.apply, one, "dtypes"),
    "8 None gradient not handled": Planted(NoneNotHandled.apply, NoneHandled.apply, one, "missing gradient"),
    "9 number of gradients": Planted(TooManyGradients.apply, OldSquare.apply, one, "backward"),
}
OWN = {
    "10 wrong factor": Planted(WrongFactor.apply, OldSquare.apply, one, "gradient"),
    "11 broadcast, mean for sum": Planted(AddMeans.apply, Add.apply, two, "gradient"),
    "12 complex, no conjugate": Planted(NoConjugate.apply, Conjugate.apply, complex_matrix, "gradient"),
    "13 kept on the class": Planted(OnTheClass.apply, OldSquare.apply, one, "repeated calls"),
    "14 input kept on ctx": Planted(KeptInput.apply, OldSquare.apply, one, "saved tensors"),
    "15 saved tensor written": Planted(InPlaceOnSaved.apply, NotInPlaceOnSaved.apply, one, "backward twice"),
    "16 jvp is no derivative": Planted(WrongJvp.apply, Square.apply, one, "jvp"),
    "17 wrong vmap rule": Planted(WrongVmap.apply, RightVmap.apply, one, "vmap"),
    "18 needs_input_grad mixed up": Planted(NeedsMixedUp.apply, Multiply.apply, two, "subsets"),
    "19 autocast, two dtypes meet": Planted(
        MatmulWithoutAmp.apply, Matmul.apply, lambda: (matrix(4, 3), matrix(3, 2)), "autocast"
    ),
    "20 a list that grows": Planted(keeps_a_history, torch.sin, one, "leaks"),
    "21 view of the input": Planted(view_of_input, lambda x: x * 2, one, "layouts"),
    "22 memory read as if contiguous": Planted(reads_memory, lambda x: x * 2, one, "layouts"),
    "23 not determined": Planted(undetermined, draws, one, "repeated calls"),
    "24 reseeds torch": Planted(reseeds, draws, one, "random numbers"),
    "25 turns grad mode off": Planted(turns_grad_off, torch.sin, one, "global state"),
    "26 graph cut": Planted(cuts_the_graph, torch.sin, one, "backward"),
    "27 wrong fake kernel": Planted(wrong_fake, twice, one, "opcheck"),
}

# --- right operators: builtins of every family, this library's own, other people's ---------------------------------------------


def positive() -> tuple[Tensor, ...]:
    return (matrix().detach().abs().add(0.5).requires_grad_(),)


def square_matrix() -> tuple[Tensor, ...]:
    return ((matrix(3, 3).detach() / 4 + 2 * torch.eye(3)).requires_grad_(),)


def image() -> tuple[Tensor, ...]:
    return (matrix(2, 2, 4, 4),)


def labels() -> Tensor:
    return torch.tensor([0, 2, 1, 1])


def unit() -> tuple[Tensor, ...]:
    return (matrix().detach().sigmoid().requires_grad_(),)


def ties() -> tuple[Tensor, ...]:
    return (torch.tensor([[1.0, 1.0, 0.0], [0.0, -2.0, -2.0]], requires_grad=True),)


RIGHT: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Tensor, ...]]]] = {
    "tanh": (torch.tanh, one),
    "relu at 0": (torch.relu, ties),
    "abs at 0": (torch.abs, ties),
    "gelu": (F.gelu, one),
    "softmax": (lambda x: x.softmax(-1), one),
    "logsumexp": (lambda x: x.logsumexp(-1), one),
    "exp": (torch.exp, one),
    "log": (torch.log, positive),
    "sqrt": (torch.sqrt, positive),
    "sum": (torch.sum, one),
    "mean over a dimension": (lambda x: x.mean(0), one),
    "amax with ties": (lambda x: x.amax(-1), ties),
    "sort with ties": (lambda x: x.sort(-1).values, ties),
    "topk, values and indices": (lambda x: x.topk(2), one),
    "cumsum": (lambda x: x.cumsum(0), one),
    "prod": (lambda x: x.prod(-1), one),
    "multiply, broadcast": (torch.mul, two),
    "where": (lambda x, y: torch.where(x > 0, x, y), two),
    "matmul": (torch.matmul, lambda: (matrix(4, 3), matrix(3, 2))),
    "einsum": (lambda x, y: torch.einsum("ij,jk->ik", x, y), lambda: (matrix(4, 3), matrix(3, 2))),
    "transpose, a view": (torch.t, one),
    "reshape": (lambda x: x.reshape(-1), one),
    "expand, a view": (lambda x: x.unsqueeze(0).expand(2, *x.shape), one),
    "index": (lambda x: x[[0, 0, -1]], one),
    "gather": (lambda x, i: x.gather(1, i), lambda: (matrix(), labels()[:, None])),
    "cat": (lambda x, y: torch.cat([x, y]), two),
    "inverse": (torch.linalg.inv, square_matrix),
    "determinant": (torch.linalg.det, square_matrix),
    "solve": (torch.linalg.solve, lambda: (*square_matrix(), matrix(3, 2))),
    "cross_entropy": (F.cross_entropy, lambda: (matrix(), labels())),
    "mse_loss": (F.mse_loss, lambda: (matrix(), matrix().detach() * 2)),
    "conv2d": (F.conv2d, lambda: (*image(), matrix(3, 2, 3, 3))),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), image),
    "layer_norm": (lambda x: F.layer_norm(x, x.shape[-1:]), one),
    "dropout": (F.dropout, one),
    "complex multiplication": (torch.mul, lambda: (*complex_matrix(), *complex_matrix())),
    "complex abs": (torch.abs, complex_matrix),
    "fft": (torch.fft.fft, one),
    "nn.Linear": (nn.Linear(3, 2), one),
    "nn.BatchNorm1d": (nn.BatchNorm1d(3), one),
    "nn.LayerNorm": (nn.LayerNorm(3), one),
    "nn.MultiheadAttention": (nn.MultiheadAttention(4, 2, batch_first=True), lambda: (matrix(2, 3, 4),) * 3),
    "nn.LSTM": (nn.LSTM(3, 2), lambda: (matrix(5, 4, 3),)),
    "aten overload": (torch.ops.aten.sin.default, one),
    "dict of outputs": (lambda x: {"a": x.sin(), "n": 3, "none": None, "b": [x * 2]}, one),
    "focal_loss": (lb.focal_loss, lambda: (matrix(), labels())),
    "scale_gradient by 1": (lambda x: lb.scale_gradient(x, scale=1.0), one),
    "clip_gradient, unreached": (lambda x: lb.clip_gradient(x, max_norm=1e6), one),
    "new-style Function": (Square.apply, one),
    "old-style Function": (OldSquare.apply, one),
}

BY_DESIGN = {  # operator, surrogate
    "straight_through round": (lb.straight_through(torch.round), lambda x: x, one),
    "straight_through sign of tanh": (lb.straight_through(torch.sign, surrogate=torch.tanh), torch.tanh, one),
    "gradient_reversal": (lambda x: lb.gradient_reversal(x, scale=0.5), lambda x: -0.5 * x, one),
    "scale_gradient": (lambda x: lb.scale_gradient(x, scale=0.1), lambda x: 0.1 * x, one),
    "quantize_uniform": (lambda x: lb.quantize_uniform(x, bits=3), lambda x: x, unit),
    "quantize_uniform, zero": (
        lambda x: lb.quantize_uniform(x, bits=3, outside="zero"),
        lambda x: x.clamp(0, 1),
        lambda: (matrix().detach().add(0.3).requires_grad_(),),
    ),
    "encode_bits": (
        lambda x: lb.encode_bits(x, bits=3),
        lambda x: (x / 3).repeat_interleave(3, -1),
        unit,
    ),
    "decode_bits": (lambda b: lb.decode_bits(b, bits=3), lambda b: b.unflatten(-1, (-1, 3)).sum(-1), unit),
    "decode of encode": (lambda x: lb.decode_bits(lb.encode_bits(x, bits=4), bits=4), lambda x: x, unit),
}
