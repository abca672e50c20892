"""The two layers of a capsule network: one makes capsules from features, one routes capsules to capsules."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from linkboy._checks import check_choice, check_number, describe
from linkboy._tensors import autocast_dtype, check_floating, work_dtype
from linkboy.capsules._arguments import check_sizes
from linkboy.capsules._form import agreement, weighted_sum
from linkboy.capsules.squashing import squash

RoutingGrad = Literal["last", "full"]
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class CapsuleLinear(nn.Module):
    r"""A trainable matrix from every input capsule to every output capsule, with routing by agreement.

    Input capsule `i` predicts output capsule `j` as `weight[i, j] @ x_i`. Routing starts from logits of 0 for every example,
    at every call, and repeats: couplings are the softmax of the logits over the output capsules, `v_j` is the squashed sum of
    the predictions weighted by them, and the product of prediction and `v_j` is added to each logit. Neither the predictions
    nor a copy of the weight per example are built: memory grows with `num_in * in_dim`, not with `num_out * out_dim`.

    Args:
        num_in: number of input capsules.
        in_dim: entries of an input capsule.
        num_out: number of output capsules, e.g. of classes.
        out_dim: entries of an output capsule.
        routing_iters: number of routing iterations, at least 1; with 1 all couplings are `1 / num_out`.
        routing_grad: `"last"` treats the couplings as constants in the backward pass, which is cheaper and common; `"full"`
            differentiates all of routing. The gradients differ, the values do not.
        device: device of the weight.
        dtype: dtype of the weight.

    Shape: `(*, num_in, in_dim)` -> `(*, num_out, out_dim)`, lengths in [0, 1). An example's output does not depend on the
    examples it is batched with.

    Attributes:
        weight: `(num_in, num_out, out_dim, in_dim)`, the whole state; at first normal with standard deviation
            `num_out / sqrt(num_in * in_dim)`, at most 1.

    Raises:
        TypeError: a size is not an integer, or the input does not have the dtype of the weight.
        ValueError: a size is below 1, `routing_grad` is unknown, or the input has other sizes.

    Examples:
        >>> import torch
        >>> from linkboy import CapsuleLinear
        >>> layer = CapsuleLinear(1152, 8, 10, 16)
        >>> layer(torch.randn(4, 1152, 8)).shape
        torch.Size([4, 10, 16])

    Source: Sabour et al. 2017, procedure 1, https://arxiv.org/abs/1710.09829. Differs from the copies, which tile the weight
    over the batch, take the softmax over the input capsules, or average logits over the batch.
    """

    def __init__(
        self,
        num_in: int,
        in_dim: int,
        num_out: int,
        out_dim: int,
        *,
        routing_iters: int = 3,
        routing_grad: RoutingGrad = "last",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(num_in=num_in, in_dim=in_dim, num_out=num_out, out_dim=out_dim, routing_iters=routing_iters)
        check_choice("routing_grad", routing_grad, get_args(RoutingGrad))
        self.num_in, self.in_dim, self.num_out, self.out_dim = num_in, in_dim, num_out, out_dim
        self.routing_iters, self.routing_grad = routing_iters, routing_grad
        self.weight = nn.Parameter(torch.empty(num_in, num_out, out_dim, in_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight again, so that outputs are as large as inputs while all couplings are `1 / num_out`."""
        # Above 1 the first agreements already decide all couplings: 77 classes at 3.9 learned nothing, at 1.0 they did.
        nn.init.normal_(self.weight, std=min(1.0, self.num_out / math.sqrt(self.num_in * self.in_dim)))

    def forward(self, input: Tensor) -> Tensor:
        """Return the output capsules."""
        self._check_shape(input)
        weight, converted = _autocast(self.weight), _autocast(input)
        if converted.dtype != weight.dtype:
            name = str(self.weight.dtype)
            raise TypeError(f"input must have the dtype of the weight, {name}, got {describe(input)}; use .to({name})")
        lead = input.shape[:-2]
        input = converted.reshape(math.prod(lead), self.num_in, self.in_dim)  # noqa: A001
        weight = weight.permute(1, 2, 0, 3).reshape(self.num_out, self.out_dim, self.num_in * self.in_dim)
        if self.routing_grad == "last":
            coupling = self._couple(weight.detach(), input.detach())
        else:
            coupling = self._couple(weight, input)
        output = squash(weighted_sum(weight, coupling, input))  # (C, B, O)
        # Contiguous, as copied decoders flatten it with `view`.
        return output.transpose(0, 1).reshape(*lead, self.num_out, self.out_dim).contiguous()

    def _couple(self, weight: Tensor, input: Tensor) -> Tensor:
        """Return the couplings of the last weighted sum, `(num_out, B, num_in)` in the input's dtype."""
        # The size is read from the shape, which torch.jit.trace follows; `len` would be a constant in its graph.
        shape = self.num_out, input.shape[0], self.num_in
        logits = torch.zeros(shape, dtype=work_dtype(input), device=input.device)
        for _ in range(self.routing_iters - 1):
            output = squash(weighted_sum(weight, logits.softmax(0).to(input.dtype), input))
            logits = logits + agreement(weight, input, output)
        return logits.softmax(0).to(input.dtype)

    def _check_shape(self, input: Tensor) -> None:
        if not isinstance(input, Tensor) or input.dim() < 2 or input.shape[-2:] != (self.num_in, self.in_dim):
            fix = ""
            if isinstance(input, Tensor) and input.shape[-2:] == (self.in_dim, self.num_in):
                fix = "; exchange the last two dims with input.transpose(-2, -1)"
            elif isinstance(input, Tensor) and input.dim() >= 2 and input.shape[-1] == 1:
                fix = "; drop the last dim with input.squeeze(-1)"
            elif isinstance(input, Tensor) and input.dim() >= 2:
                sizes = ", ".join(str(size) for size in (*input.shape[-2:], self.num_out, self.out_dim))
                fix = f"; for this input build CapsuleLinear({sizes})"
            raise ValueError(
                f"input must have the shape (*, num_in, in_dim) = (*, {self.num_in}, {self.in_dim}), "
                f"got {describe(input)}{fix}"
            )

    def extra_repr(self) -> str:
        """Return the arguments, for `print`."""
        return (
            f"{self.num_in}, {self.in_dim}, {self.num_out}, {self.out_dim}, "
            f"routing_iters={self.routing_iters}, routing_grad={self.routing_grad!r}"
        )


def _autocast(tensor: Tensor) -> Tensor:
    """Return the tensor in the dtype that autocast gives a linear layer: float64 and integers stay as they are."""
    dtype = autocast_dtype(tensor.device)
    if dtype is None or tensor.dtype == torch.float64 or not tensor.is_floating_point():
        return tensor
    return tensor.to(dtype)


class PrimaryCapsules(nn.Module):
    r"""Make capsules of images (or sequences, or volumes): a convolution whose channels are grouped into capsules.

    Args:
        in_channels: channels of the input.
        num_capsules: capsules at every position.
        capsule_dim: entries of a capsule.
        kernel_size: kernel size of the convolution.
        stride: stride of the convolution.
        padding: padding of the convolution.
        spatial_dims: 1 for sequences, 2 for images, 3 for volumes.

    Shape: `(B, in_channels, H, W)` -> `(B, num_capsules * H' * W', capsule_dim)`; with `spatial_dims=1` `(B, in_channels, T)`
    -> `(B, num_capsules * T', capsule_dim)`. The capsules of one kind follow each other.

    Raises:
        TypeError: a size is not an integer, or the input not floating point.
        ValueError: a size is below 1, `padding` below 0, `spatial_dims` not 1, 2 or 3, or the input has another number of
            dimensions or channels, or is smaller than the kernel.

    Examples:
        >>> import torch
        >>> from linkboy import PrimaryCapsules
        >>> PrimaryCapsules(256, 32, 8, kernel_size=9, stride=2)(torch.randn(4, 256, 20, 20)).shape
        torch.Size([4, 1152, 8])

    Source: Sabour et al. 2017, section 4, https://arxiv.org/abs/1710.09829. One convolution, where many copies loop over one
    per entry of the capsules; and copies that reshape `(B, C, H, W)` straight to `(B, -1, 8)` fill a capsule with
    neighbouring positions of one channel.
    """

    def __init__(
        self,
        in_channels: int,
        num_capsules: int,
        capsule_dim: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        check_sizes(in_channels=in_channels, num_capsules=num_capsules, capsule_dim=capsule_dim)
        check_sizes(kernel_size=kernel_size, stride=stride)
        check_number("padding", padding, minimum=0, integer=True)
        check_choice("spatial_dims", spatial_dims, tuple(_CONVOLUTIONS))
        self.capsule_dim = capsule_dim
        self.convolution = _CONVOLUTIONS[spatial_dims](
            in_channels, num_capsules * capsule_dim, kernel_size, stride=stride, padding=padding
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return the capsules."""
        self._check_shape(input)
        check_floating("input", input)
        features = self.convolution(input).flatten(2)  # (B, capsules * entries, positions)
        return squash(features.unflatten(1, (-1, self.capsule_dim)).transpose(2, 3).flatten(1, 2))

    def _check_shape(self, input: Tensor) -> None:
        convolution = self.convolution
        sides = {1: "T", 2: "H, W", 3: "D, H, W"}[len(convolution.kernel_size)]
        fewest = max(1, convolution.kernel_size[0] - 2 * int(convolution.padding[0]))
        # Without a batch dimension torch's convolution would read the channels as the batch, and capsules would mix positions.
        if (
            not isinstance(input, Tensor)
            or input.dim() != len(convolution.kernel_size) + 2
            or input.shape[1] != convolution.in_channels
            or min(input.shape[2:]) < fewest
        ):
            raise ValueError(
                f"input must have the shape (B, {convolution.in_channels}, {sides}) with {sides} of at least {fewest}, "
                f"got {describe(input)}"
            )
