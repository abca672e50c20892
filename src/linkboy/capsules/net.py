"""A capsule network for images: features, primary capsules, a capsule per class, and a decoder that draws it."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from linkboy._checks import check_number, describe
from linkboy.capsules.layers import CapsuleLinear, PrimaryCapsules
from linkboy.capsules.lengths import capsule_norm


class CapsNetOutput(NamedTuple):
    """What `CapsNet` gives on request.

    Args:
        lengths: `(B, classes)`, how sure it is of each class, in [0, 1).
        poses: `(B, classes, pose_dim)`, the capsules of the classes.
        reconstruction: the shape of the input, numbers from 0 to 1.
    """

    lengths: Tensor
    poses: Tensor
    reconstruction: Tensor


class CapsNet(nn.Module):
    r"""Images in, a capsule per class out: its length says whether the class is there, its direction how it looks.

    Two convolutions, the second of which makes primary capsules; `CapsuleLinear` with routing by agreement; and a decoder that
    draws the image from the capsule of one class alone.

    Args:
        image_size: `(channels, height, width)` of the images.
        classes: number of classes.
        channels: channels of the first convolution.
        primary_capsules: primary capsules at every position.
        primary_dim: entries of a primary capsule.
        pose_dim: entries of the capsule of a class.
        kernel_size: of both convolutions.
        stride: of the second convolution.
        routing_iters: of `CapsuleLinear`.
        routing_grad: of `CapsuleLinear`.
        decoder: widths of the hidden layers of the decoder.

    Shape: `(B, channels, height, width)` -> lengths `(B, classes)`, as `margin_loss` takes them.

    Raises:
        ValueError: the image is smaller than what the convolutions see, or not of `image_size`.

    Examples:
        >>> import torch, linkboy as lb
        >>> model = lb.CapsNet((1, 8, 8), 10, channels=16, primary_capsules=4, kernel_size=3)
        >>> images, target = torch.rand(2, 1, 8, 8), torch.tensor([3, 7])
        >>> lb.margin_loss(model(images), target).shape
        torch.Size([])
        >>> lengths, poses, drawn = model(images, reconstruct=True, target=target)
        >>> lengths.shape, poses.shape, drawn.shape
        (torch.Size([2, 10]), torch.Size([2, 10, 16]), torch.Size([2, 1, 8, 8]))

    Source: Sabour et al. 2017, section 4, https://arxiv.org/abs/1710.09829; the defaults are those for 28 x 28 pixels there.
    """

    def __init__(
        self,
        image_size: tuple[int, int, int],
        classes: int,
        *,
        channels: int = 256,
        primary_capsules: int = 32,
        primary_dim: int = 8,
        pose_dim: int = 16,
        kernel_size: int = 9,
        stride: int = 2,
        routing_iters: int = 3,
        routing_grad: str = "last",
        decoder: Sequence[int] = (512, 1024),
    ) -> None:
        super().__init__()
        check_number("kernel_size", kernel_size, minimum=1, integer=True)
        check_number("stride", stride, minimum=1, integer=True)
        rows, columns = ((size - 2 * (kernel_size - 1) - 1) // stride + 1 for size in image_size[1:])
        if rows < 1 or columns < 1:
            need = 2 * kernel_size - 1
            raise ValueError(
                f"image_size must be at least {need} x {need} pixels for two convolutions of kernel_size={kernel_size}, "
                f"got {tuple(image_size)}; take a smaller kernel_size"
            )
        self.image_size = tuple(image_size)
        self.features = nn.Sequential(nn.Conv2d(image_size[0], channels, kernel_size), nn.ReLU())
        self.primary = PrimaryCapsules(channels, primary_capsules, primary_dim, kernel_size, stride=stride)
        self.routing = CapsuleLinear(
            primary_capsules * rows * columns, primary_dim, classes, pose_dim,
            routing_iters=routing_iters, routing_grad=routing_grad,
        )  # fmt: skip
        widths = [classes * pose_dim, *decoder]
        hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.decoder = nn.Sequential(*hidden, nn.Linear(widths[-1], math.prod(image_size)), nn.Sigmoid())

    @overload
    def forward(self, input: Tensor, *, reconstruct: Literal[False] = False, target: None = None) -> Tensor: ...
    @overload
    def forward(self, input: Tensor, *, reconstruct: Literal[True], target: Tensor | None = None) -> CapsNetOutput: ...
    def forward(
        self, input: Tensor, *, reconstruct: bool = False, target: Tensor | None = None
    ) -> Tensor | CapsNetOutput:
        """Return the lengths; with `reconstruct=True` also the poses and the image drawn from one of them.

        Args:
            input: images.
            reconstruct: whether to draw.
            target: `(B,)`, the class to draw; by default the longest.
        """
        if not isinstance(input, Tensor) or input.dim() != 4 or input.shape[1:] != self.image_size:
            raise ValueError(
                f"input must be images of shape (B, {', '.join(map(str, self.image_size))}), got {describe(input)}"
            )
        if target is not None and not reconstruct:
            raise ValueError(
                "target is the class to draw, got reconstruct=False; pass reconstruct=True or leave target out"
            )
        poses = self.routing(self.primary(self.features(input)))
        lengths = capsule_norm(poses)
        if not reconstruct:
            return lengths
        return CapsNetOutput(lengths, poses, self.reconstruct(poses, lengths.argmax(1) if target is None else target))

    def reconstruct(self, poses: Tensor, target: Tensor) -> Tensor:
        """Draw images from the capsules of the classes `target`; all other capsules are set to 0.

        Args:
            poses: `(B, classes, pose_dim)`.
            target: `(B,)`, class indices.
        """
        if target.shape != poses.shape[:1]:
            raise ValueError(f"target must hold one class per example, shape ({len(poses)},), got {describe(target)}")
        chosen = target.unsqueeze(1) == torch.arange(poses.shape[1], device=poses.device)  # (B, classes)
        return self.decoder((poses * chosen.unsqueeze(2)).flatten(1)).unflatten(1, self.image_size)
