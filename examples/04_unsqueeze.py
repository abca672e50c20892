"""A padding mask for attention: `unsqueeze` at the wrong position runs whenever batch size and length happen to be equal.

    python examples/04_unsqueeze.py

Scores are (batch, query, key), the mask is (batch, key). The missing dim is the query, in the middle.
"""

import torch
from torch import Tensor

import linkboy as lb


def copied(x: Tensor, padding: Tensor) -> Tensor:
    scores = x @ x.transpose(1, 2)
    return scores.masked_fill(padding.unsqueeze(0), -torch.inf).softmax(-1) @ x  # (1, B, T): rows become queries


def fixed(x: Tensor, padding: Tensor) -> Tensor:
    lb.assert_shape(x, "b t _", padding=(padding, "b t"))
    scores = x @ x.transpose(1, 2)
    return scores.masked_fill(padding.unsqueeze(1), -torch.inf).softmax(-1) @ x  # (B, 1, T): for every query


def batch_of(size: int, length: int = 5) -> tuple[Tensor, Tensor]:
    lengths = torch.randint(1, length + 1, (size, 1))
    return torch.randn(size, length, 8), torch.arange(length) >= lengths  # True where there is padding


torch.manual_seed(0)
x, padding = batch_of(5)
difference = (copied(x, padding) - fixed(x, padding)).abs().max()
print(f"both run on 5 texts of length 5; the largest difference is {difference:.2f}")

report = lb.check_batch(copied, batch_of)
print(f"copied, ok: {report.ok}; {report.findings[0].kind} at `{report.findings[0].code}`")
print(f"fixed, ok: {lb.check_batch(fixed, batch_of).ok}")

try:
    fixed(x, padding[:, :4])
except AssertionError as error:
    print(f"a mask that is too short: {error}")
