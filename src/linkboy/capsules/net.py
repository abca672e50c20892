"""A capsule network for images: features, primary capsules, a capsule per class, and a decoder that draws it."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, overload

from torch import Tensor, nn

from linkboy._checks import describe
from linkboy._tensors import check_floating
from linkboy.capsules._arguments import check_sizes, one_hot
from linkboy.capsules.layers import CapsuleLinear, PrimaryCapsules, RoutingGrad
from linkboy.capsules.squashing import capsule_norm


class CapsNetOutput(NamedTuple):
    """What `CapsNet` returns with `reconstruct=True`.

    Attributes:
        lengths: `(B, classes)`, in [0, 1): how confident the model is that each class is present.
        poses: `(B, classes, pose_dim)`, the capsules of the classes.
        reconstruction: the shape of the input, numbers from 0 to 1.
    """

    lengths: Tensor
    poses: Tensor
    reconstruction: Tensor


class CapsNet(nn.Module):
    r"""Images in, a capsule per class out: its length says whether the class is present, its direction how it looks.

    Two convolutions, the second of which makes primary capsules; `CapsuleLinear` with routing by agreement; and a decoder that
    draws the image from the capsule of one class alone.

    Args:
        image_size: `(channels, height, width)` of the images.
        classes: number of classes.
        channels: channels of the first convolution.
        primary_capsules: primary capsules at every position.
        primary_dim: entries of a primary capsule.
        pose_dim: entries of the capsule of a class.
        kernel_size: kernel size of both convolutions.
        stride: stride of the second convolution.
        routing_iters: as for `CapsuleLinear`.
        routing_grad: as for `CapsuleLinear`.
        decoder: widths of the hidden layers of the decoder.

    Shape: `(B, channels, height, width)` -> lengths `(B, classes)`, as `margin_loss` takes them.

    Raises:
        TypeError: a size is not an integer, `decoder` is not a sequence, or the images are not floating point.
        ValueError: a size is below 1, or the image is too small for the convolutions, or does not have `image_size`.

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
        routing_grad: RoutingGrad = "last",
        decoder: Sequence[int] = (512, 1024),
    ) -> None:
        super().__init__()
        if not isinstance(decoder, Sequence):
            raise TypeError(f"decoder must be the widths of its hidden layers, such as (512, 1024), got {decoder!r}")
        check_sizes(
            classes=classes, channels=channels, primary_capsules=primary_capsules, primary_dim=primary_dim,
            pose_dim=pose_dim, kernel_size=kernel_size, stride=stride,
            **{f"decoder[{place}]": width for place, width in enumerate(decoder)},
        )  # fmt: skip
        self.image_size = _checked_image_size(image_size, kernel_size)
        rows, columns = ((size - 2 * kernel_size + 1) // stride + 1 for size in self.image_size[1:])
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
            reconstruct: whether to draw the image.
            target: `(B,)`, the class to draw; by default the longest.

        Returns:
            `(B, classes)` lengths, or a `CapsNetOutput`.
        """
        if not isinstance(input, Tensor) or input.dim() != 4 or input.shape[1:] != self.image_size:
            raise ValueError(
                f"input must be images of shape (B, {', '.join(map(str, self.image_size))}), got {describe(input)}"
            )
        check_floating("input", input)
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

        Returns:
            Images `(B, channels, height, width)`, with values from 0 to 1.

        Raises:
            TypeError: class indices are not integers.
            ValueError: a shape does not fit, or a class does not exist (checked on a CPU only).
        """
        classes, pose_dim = self.routing.num_out, self.routing.out_dim
        if not isinstance(poses, Tensor) or poses.dim() != 3 or poses.shape[1:] != (classes, pose_dim):
            raise ValueError(f"poses must have the shape (B, {classes}, {pose_dim}), got {describe(poses)}")
        if not isinstance(target, Tensor) or target.shape != poses.shape[:1]:
            one = isinstance(target, Tensor) and target.shape == (len(poses), classes)
            fix = "; zeros and ones give classes by target.argmax(1)" if one else ""
            raise ValueError(
                f"target must hold one class per example, shape ({len(poses)},), got {describe(target)}{fix}"
            )
        chosen = one_hot(target, classes)  # (B, classes)
        return self.decoder((poses * chosen.unsqueeze(2)).flatten(1)).unflatten(1, self.image_size)


def _checked_image_size(image_size: tuple[int, int, int], kernel_size: int) -> tuple[int, int, int]:
    if not isinstance(image_size, Sequence) or len(image_size) != 3:
        raise ValueError(f"image_size must be (channels, height, width), got {image_size!r}")
    channels, height, width = image_size
    check_sizes(**{"image_size[0]": channels, "image_size[1]": height, "image_size[2]": width})
    need = 2 * kernel_size - 1
    if min(height, width) < need:
        raise ValueError(
            f"image_size must be at least {need} x {need} pixels for two convolutions of kernel_size={kernel_size}, "
            f"got {tuple(image_size)}; take a smaller kernel_size"
        )
    return channels, height, width
