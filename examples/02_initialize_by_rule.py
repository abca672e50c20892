"""Initialise a channel-feedback auto-encoder by one call, and see that the signal gets through.

    python examples/02_initialize_by_rule.py

A user terminal compresses the channel matrix (2 x 32 x 32: real and imaginary part) to a few numbers, and the base
station restores it. Both halves are convolutions and one Linear, so a rule for each kind of layer says it all.
"""

import torch
from torch import Tensor, nn

from linkboy import Rule, count_parameters, initialize


def convolution(channels: int, out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.3)
    )


class Refine(nn.Module):
    """Two channels in, two channels out, with the input added back."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(convolution(2, 8, 3), convolution(8, 16, 3), convolution(16, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class CsiAutoEncoder(nn.Module):
    def __init__(self, feedback: int = 128) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            convolution(2, 16, 5), convolution(16, 2, 5), nn.Flatten(), nn.Linear(2048, feedback)
        )
        self.decoder = nn.Sequential(
            nn.Linear(feedback, 2048), nn.Unflatten(1, (2, 32, 32)), Refine(), Refine(), nn.Conv2d(2, 2, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:  # (N, 2, 32, 32) -> (N, 2, 32, 32), values in (0, 1)
        return torch.sigmoid(self.decoder(self.encoder(x)))


RULES = [
    Rule(nn.Conv2d, "weight", nn.init.kaiming_normal_, a=0.3),
    Rule(nn.Linear, "weight", nn.init.xavier_uniform_),
    Rule(nn.BatchNorm2d, "weight", 1),
    Rule("*.bias", init=0),
]


def main() -> None:
    torch.manual_seed(0)
    model = CsiAutoEncoder()
    print(count_parameters(model))
    report = initialize(
        model,
        RULES,
        on_unmatched="error",
        generator=torch.Generator().manual_seed(0),
        audit=torch.randn(64, 2, 32, 32),
    )
    print(report)


if __name__ == "__main__":
    main()
