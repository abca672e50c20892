"""The capsule classifier: n-gram features as capsules, routed to a capsule per class."""

import torch
from torch import Tensor, nn

from linkboy.capsules import CapsuleLinear, capsule_norm, squash
from linkboy.classify.models._models import TextCNN


class CapsuleHead(nn.Module):
    """Features cut into capsules, routed by agreement; the logit of a class grows with the length of its capsule.

    Args:
        features: number of features, a multiple of `capsule_dim`.
        classes: number of classes.
        capsule_dim: features of a capsule.
        pose_dim: entries of the capsule of a class.

    Shape: `(B, features)` -> logits `(B, classes)`.
    """

    def __init__(self, features: int, classes: int, *, capsule_dim: int = 8, pose_dim: int = 16) -> None:
        super().__init__()
        self.capsule_dim = capsule_dim
        self.routing = CapsuleLinear(features // capsule_dim, capsule_dim, classes, pose_dim)
        self.scale = nn.Parameter(torch.tensor(10.0))  # lengths stay below 1, too close together for a softmax
        self.shift: Tensor
        self.register_buffer("shift", torch.zeros(classes))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits `(B, classes)`."""
        capsules = squash(features.unflatten(1, (-1, self.capsule_dim)))
        return self.scale * capsule_norm(self.routing(capsules)) + self.shift

    @torch.no_grad()
    def adjust_(self, shift: Tensor, temperature: float) -> None:
        """Change the weights so that the logits are `(logits + shift) / temperature` from now on."""
        self.scale /= temperature
        self.shift.add_(shift.to(self.shift)).div_(temperature)


class TextCapsuleNet(TextCNN):
    """The convolutions of `TextCNN`, and routing by agreement where that has a linear layer.

    Args:
        vocabulary: number of token ids; id 0 is padding.
        classes: number of classes.
        channels: filters of each width, a multiple of 8.

    Shape: ids `(B, T)` int64 -> logits `(B, classes)`.

    Source: the capsules of Sabour et al. 2017, https://arxiv.org/abs/1710.09829, over the features of Kim 2014,
    https://arxiv.org/abs/1408.5882.
    """

    def __init__(self, vocabulary: int, classes: int, *, channels: int = 128) -> None:
        super().__init__(vocabulary, classes, channels=channels)
        self.head = CapsuleHead(channels * len(self.widths), classes)
