"""A scoring model that fails on the last batch: `squeeze()` removes the batch dim when one sample is left.

    python examples/05_squeeze.py

17 samples in batches of 4 leave one over. The check is one line in the tests of a model.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import linkboy as lb


class Copied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # meant as (B, 3) -> (B,)
        return self.layers(x).squeeze()


class Fixed(Copied):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).squeeze(1)


loader = DataLoader(TensorDataset(torch.randn(17, 3)), batch_size=4)
model = Copied()
print("shapes of the copied model:", sorted({tuple(model(x).shape) for (x,) in loader}))

try:
    lb.assert_batch_safe(model, lambda batch: torch.randn(batch, 3))
except AssertionError as error:
    print(error)

fixed = Fixed()
lb.assert_batch_safe(fixed, lambda batch: torch.randn(batch, 3))
print("shapes of the fixed model:", sorted({tuple(fixed(x).shape) for (x,) in loader}))

target = torch.randn(4, 1)  # a column, as tables have it
with lb.trace_shapes(hazards="collect") as trace:
    loss = (fixed(torch.randn(4, 3)) - target).square().mean()
print("with a column as target:", trace.hazards[0].rule, *trace.hazards[0].in_shapes, "->", trace.hazards[0].out_shape)
