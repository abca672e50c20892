"""A small run that uses every random stream, and the full-batch gradient in float64 that everything is held against."""

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Augmented(Dataset):
    """Rows that torch, NumPy and Python each disturb whenever they are fetched."""

    def __init__(self, rows=23, dtype=torch.float32):
        generator = torch.Generator().manual_seed(5)
        self.inputs = torch.randn(rows, 6, generator=generator).to(dtype)
        self.targets = torch.randint(3, (rows,), generator=generator)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        noise = 0.1 * torch.randn(6) + 0.1 * random.random() + 0.1 * float(np.random.rand())  # noqa: NPY002  # the stream that augmentation code uses
        return self.inputs[index] + noise.to(self.inputs.dtype), self.targets[index]


class Plain(Dataset):
    """Rows with a target and a weight; the last row weighs as much as all others together."""

    def __init__(self, rows=21, dtype=torch.float64):
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(rows, 4, generator=generator, dtype=torch.float64).to(dtype)
        self.targets = torch.randn(rows, 2, generator=generator, dtype=torch.float64).to(dtype)
        self.weights = torch.rand(rows, 1, generator=generator, dtype=torch.float64).to(dtype)
        self.weights[-1] = rows

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], self.targets[index], self.weights[index]


def make_model(dropout=0.3, seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def small_run(**loader):
    """Model, loss, optimizer, loader and scheduler of the run that the resume tests cut."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.97**step)
    data = DataLoader(Augmented(), batch_size=loader.pop("batch_size", 3), shuffle=True, **loader)
    return model, nn.CrossEntropyLoss(reduction="none"), optimizer, data, scheduler


def full_batch_gradient(model, dataset, *, weighted):
    """Gradient of `sum(w * l) / sum(w)` over all rows at once, for the squared error."""
    inputs, targets, weights = dataset.inputs, dataset.targets, dataset.weights
    losses = (model(inputs) - targets).square()
    weights = weights.expand_as(losses) if weighted else torch.ones_like(losses)
    loss = (weights * losses).sum() / weights.sum()
    return torch.autograd.grad(loss, list(model.parameters()))


def relative_error(got, expected):
    got, expected = (torch.cat([part.flatten() for part in parts]) for parts in (got, expected))
    return float((got - expected).norm() / expected.norm())


class Recorder(torch.optim.SGD):
    """An optimizer that moves nothing and keeps the gradient of every step."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.0)
        self.gradients = []

    def step(self, closure=None):
        self.gradients.append([p.grad.clone() for group in self.param_groups for p in group["params"]])


def same_state(first, second):
    """Whether two nested states are equal to the last bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same_state, first, second))
    return first == second


def without_clock(history):
    """The part of a history that a resumed run must repeat."""
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "examples_per_second")} for row in history.rows]
    kept = ("steps", "epochs", "skipped_steps", "log", "stopped", "best_epoch", "best_value", "seed", "process_count")
    return rows, {name: getattr(history, name) for name in kept}
