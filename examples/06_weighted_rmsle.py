"""The score of a competition is one weighted root over all rows; the copied lines average roots of batches instead.

    python examples/06_weighted_rmsle.py

`sales_forecast.py` trains on that loss and compares with scikit-learn.
"""

import torch
from torch import Tensor

import linkboy as lb


def copied_nwrmsle(predicted: Tensor, amount: Tensor, weight: Tensor) -> Tensor:
    difference = (predicted + 1).log() - (amount + 1).log()
    return ((weight * difference**2).sum() / weight.sum()).sqrt()


torch.manual_seed(0)
amount = torch.randint(0, 500, (1000,)).float()
predicted = amount * torch.randn(1000).mul(0.3).exp()
weight = torch.where(torch.arange(1000) < 250, 1.25, 1.0)  # perishable goods come first in the file

parts = [rows.split(64) for rows in (predicted, amount, weight)]
average = torch.stack([copied_nwrmsle(*batch) for batch in zip(*parts, strict=True)]).mean()
score = lb.rmsle_loss(predicted, amount, sample_weight=weight)
print(f"score of all rows {score:.5f}; average over batches of the copied one {average:.5f}")

# Squares add up where roots do not: in parts, with the total weight known, and one root at the end.
total = weight.sum()
squares = torch.stack([lb.msle_loss(p, a, sample_weight=w, reduction="sum") for p, a, w in zip(*parts, strict=True)])
print(f"the root of the squares of all batches {(squares.sum() / total).sqrt():.5f}")

column = predicted[:, None]
print(f"copied, for a column of predictions: {copied_nwrmsle(column, amount, weight):.5f}, no error")
try:
    lb.rmsle_loss(column, amount, sample_weight=weight)
except ValueError as error:
    print(f"rmsle_loss: {error}")
