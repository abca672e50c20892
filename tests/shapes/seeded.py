"""Thirteen small models with one planted bug each, on the line that ends with `# BUG`, and two clean controls."""

import inspect

import torch
from torch import nn


class DimlessSqueeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 9)

    def forward(self, x):
        return self.conv(x).squeeze()  # BUG


class ColumnAgainstRow(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 1)

    def forward(self, x, y):
        error = self.linear(x) - y  # BUG
        return error.pow(2)


class ViewSplitsSamples(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def forward(self, x):
        h = x.view(-1, 12)  # BUG
        return self.linear(h)


class HardCodedBatch(nn.Module):
    def forward(self, x):
        h = x.relu()
        return h.reshape(2, -1)  # BUG


class ReshapeForTranspose(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        b, t, c = x.shape
        h = x.reshape(t, b, c)  # BUG
        return self.linear(h).transpose(0, 1)


class LstmNotBatchFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        h, _ = self.lstm(x)  # BUG
        return self.head(h)


class AttentionNotBatchFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x):
        h, _ = self.attention(x, x, x)  # BUG
        return h + x


class SoftmaxOverBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        return torch.softmax(self.linear(x), dim=0)  # BUG


class MeanOverBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        x = x - x.mean()  # BUG
        return self.linear(x)


class ViewOnTransposed(nn.Module):
    def forward(self, x):
        h = x.transpose(1, 2)
        return h.view(x.shape[0], -1)  # BUG


class SqueezeDoesNothing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        h = x.squeeze(1)  # BUG
        return self.linear(h)


class SpecialCaseOfOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm1d(4)

    def forward(self, x):
        h = x * 2
        if x.shape[0] > 1:  # BUG
            h = self.norm(h)
        return h


class BatchNormOfOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        h = self.linear(x)
        return self.norm(h)  # BUG


class ConvSqueezeLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 9)

    def forward(self, x):
        return self.conv(x).squeeze(-1)


class Rotary(nn.Module):
    def forward(self, x):
        _, t, c = x.shape
        positions = torch.arange(t, dtype=x.dtype)
        frequencies = 10000 ** -(torch.arange(c // 2) / (c // 2))
        angles = positions[:, None] * frequencies[None, :]
        cos, sin = angles.cos(), angles.sin()
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.cat([even * cos - odd * sin, even * sin + odd * cos], dim=-1)


def normal(*shape):
    return lambda batch: torch.randn(batch, *shape)


# model, its inputs, the kind of finding
BUGS = {
    "dimless squeeze after conv": (DimlessSqueeze, normal(4, 9), "shape"),
    "(N, 1) with (N,)": (ColumnAgainstRow, lambda b: (torch.randn(b, 6), torch.randn(b)), "hazard"),
    "view(-1, 12) of (B, 4, 6)": (ViewSplitsSamples, normal(4, 6), "leading-dim"),
    "reshape(2, -1)": (HardCodedBatch, normal(4), "leading-dim"),
    "reshape for transpose": (ReshapeForTranspose, normal(6, 4), "mixing"),
    "LSTM without batch_first": (LstmNotBatchFirst, normal(6, 4), "mixing"),
    "attention without batch_first": (AttentionNotBatchFirst, normal(6, 8), "mixing"),
    "softmax(dim=0)": (SoftmaxOverBatch, normal(6), "mixing"),
    "x - x.mean()": (MeanOverBatch, normal(6), "mixing"),
    "view of a transposed tensor": (ViewOnTransposed, normal(4, 6), "error"),
    "squeeze(1) on size 4": (SqueezeDoesNothing, normal(4, 6), "hazard"),
    "if x.shape[0] > 1": (SpecialCaseOfOne, normal(4, 6), "control-flow"),
    "BatchNorm1d in training at B=1": (BatchNormOfOne, normal(6), "error"),
}
CONTROLS = {"squeeze(-1) after conv": (ConvSqueezeLast, normal(4, 9)), "rotary": (Rotary, normal(6, 8))}


def line_of_bug(model):
    lines, first = inspect.getsourcelines(model.forward)
    return next(number for number, line in enumerate(lines, first) if line.rstrip().endswith("# BUG"))
