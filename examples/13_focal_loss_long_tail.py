"""Four losses on a long tail: plain, weighted, focal and logit-adjusted, by macro-F1 on an even test part.

The digits that come with scikit-learn, thinned out so that each has about 0.6 times the rows of the one before.

    pip install linkboy scikit-learn
    python examples/13_focal_loss_long_tail.py [picture.png]
"""

import sys
from collections.abc import Callable
from functools import partial

import matplotlib as mpl
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score, recall_score
from sklearn.model_selection import train_test_split
from torch import Tensor

import linkboy as lb

mpl.use("Agg")
SEEDS = 3


def long_tailed(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images and labels, and test images and labels: 60 of each digit."""
    images, labels = load_digits(return_X_y=True)
    images = (images - 8) / 16
    x, x_test, y, y_test = train_test_split(images, labels, test_size=600, stratify=labels, random_state=seed)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    kept = torch.cat([(y == digit).nonzero().flatten()[: max(2, int(110 * 0.6**digit))] for digit in range(10)])
    return x[kept], y[kept], torch.tensor(x_test, dtype=torch.float32), torch.tensor(y_test)


def train(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    return model


scores: dict[str, list[float]] = {}
recalls: dict[str, list[Tensor]] = {}
for seed in range(SEEDS):
    x, y, x_test, y_test = long_tailed(seed)
    counts = y.bincount(minlength=10)
    balanced = lb.class_weights(y, "balanced")
    losses = {
        "plain": partial(lb.focal_loss, gamma=0),
        "weighted": partial(lb.focal_loss, gamma=0, alpha=balanced),
        "focal": partial(lb.focal_loss, gamma=2),
        "weighted focal": partial(lb.focal_loss, gamma=2, alpha=balanced),
        "logit-adjusted": partial(lb.logit_adjusted_loss, priors=counts),
    }
    for name, loss in losses.items():
        answer = train(loss, x, y, seed)(x_test).argmax(1)  # raw logits: the priors belong to training alone
        scores.setdefault(name, []).append(f1_score(y_test, answer, average="macro"))
        recalls.setdefault(name, []).append(torch.tensor(recall_score(y_test, answer, average=None)))

print(f"macro-F1 on an even test part, mean of {SEEDS} splits; rows in training: {counts.tolist()}")
for name, values in scores.items():
    values = torch.tensor(values)
    print(f"  {name:15} {100 * values.mean():.1f} +- {100 * values.std() / SEEDS**0.5:.1f}")

if len(sys.argv) > 1:
    from matplotlib import pyplot as plt

    figure, (bars, lines) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    bars.barh(list(scores)[::-1], [100 * sum(values) / SEEDS for values in list(scores.values())[::-1]])
    bars.set_xlabel("macro-F1, %")
    for name, values in recalls.items():
        lines.plot(100 * torch.stack(values).mean(0), marker="o", label=name)
    lines.set(xlabel="digit, the most frequent first", ylabel="recall, %", xticks=range(10))
    lines.legend()
    figure.savefig(sys.argv[1], dpi=120)
