"""A scoring model that fails on the last batch: `squeeze()` takes the batch away where one sample is left.

    python examples/05_squeeze.py

17 samples in batches of 4 leave one over. The check belongs into the tests of a model, as one line.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import linkboy as lb


class Copied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, 3) -> (B,), it is hoped
        return self.layers(x).squeeze()


class Mended(Copied):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).squeeze(1)


loader = DataLoader(TensorDataset(torch.randn(17, 3)), batch_size=4)
model = Copied()
print("shapes of the copied model:", sorted({tuple(model(x).shape) for (x,) in loader}))

try:
    lb.assert_batch_safe(model, lambda batch: torch.randn(batch, 3))
except AssertionError as error:
    print(error)

mended = Mended()
lb.assert_batch_safe(mended, lambda batch: torch.randn(batch, 3))
print("shapes of the mended model:", sorted({tuple(mended(x).shape) for (x,) in loader}))

target = torch.randn(4, 1)  # a column, as tables come
with lb.trace_shapes(hazards="collect") as trace:
    loss = (mended(torch.randn(4, 3)) - target).square().mean()
print("and beside a column:", trace.hazards[0].code, *trace.hazards[0].in_shapes, "->", trace.hazards[0].out_shape)
