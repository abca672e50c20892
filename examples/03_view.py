"""A copied LeNet on larger images: `view(-1, 400)` runs and returns more samples than there were.

    python examples/03_view.py

One check before training names the line; `flatten(1)` keeps the batch, so a wrong size raises where it is wrong.
"""

import torch
from torch import nn

import linkboy as lb


class LeNet(nn.Module):
    def __init__(self, features: int = 400) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Linear(features, 10)


class Copied(LeNet):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.convolutions(images)
        return self.head(features.view(-1, 400))  # 400 is for 32 x 32


class Fixed(LeNet):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolutions(images).flatten(1))


def images(batch: int, side: int = 52) -> torch.Tensor:
    return torch.randn(batch, 1, side, side)


with lb.trace_shapes() as trace:
    answers = Copied()(images(8))
print(f"8 images give {len(answers)} answers:")
print(trace.listing())

report = lb.check_batch(Copied(), images)
print(f"copied: {report.inputs[0]} -> {report.outputs[0]}; the line is `{report.findings[0].code}`")

report = lb.check_batch(Fixed(features=16 * 10 * 10), images)
print(f"fixed:  {report.inputs[0]} -> {report.outputs[0]}; ok: {report.ok}")
