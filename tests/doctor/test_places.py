"""The first place of a finding is the line of its cause: what was made, filled, cut, switched or emptied there."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from linkboy import watch_training


def rows(count: int = 240) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(1)


def loop(net: Callable[[Tensor], Tensor], opt: torch.optim.Optimizer, steps: int = 12, loss_fn=F.cross_entropy) -> None:
    x, y = rows()
    for step in range(steps):
        batch = slice(20 * (step % 12), 20 * (step % 12) + 20)
        loss = loss_fn(net(x[batch]), y[batch])
        opt.zero_grad()
        loss.backward()
        opt.step()


def net(*last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3), *last)


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


class Cut(nn.Module):
    def __init__(self, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head, self.how = nn.Linear(6, 8), nn.Linear(8, 3), how

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.how(self.body(x)))


class Blind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.body(x)  # where it runs
        return self.head(h)


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.inner = [nn.Linear(8, 8)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner[0](self.body(x)).relu())


def cut() -> None:
    model = Cut(lambda h: torch.from_numpy(h.detach().numpy()))
    loop(model, sgd(model))


def without_gradient() -> None:
    model = Blind()
    loop(model, sgd(model))


def unregistered() -> None:
    model = Listed()
    loop(model, sgd(model))


def double_softmax() -> None:
    model = net(nn.Softmax(dim=1))
    loop(model, sgd(model))


def exploding() -> None:
    model = net()
    nn.init.normal_(model[0].weight, std=90.0)
    loop(model, sgd(model, 1e-7))


def symmetry() -> None:
    model = net()
    nn.init.constant_(model[0].weight, 0.1)
    nn.init.constant_(model[2].weight, 0.2)
    model[0].bias.data.zero_()
    loop(model, sgd(model))


def eval_in_training() -> None:
    model = net(nn.Dropout(0.1))
    model.eval()
    loop(model, sgd(model))


def wiped() -> None:
    model, (x, y) = net(), rows()
    opt = sgd(model)
    for _ in range(10):
        F.cross_entropy(model(x), y).backward()
        model.zero_grad()
        opt.step()


def part_of_the_losses() -> None:
    model = net()
    loop(model, sgd(model), loss_fn=lambda o, t: F.cross_entropy(o, t, reduction="none")[:7].mean())


def stepped_twice() -> None:
    model, (x, y) = net(), rows()
    opt = sgd(model)
    for _ in range(10):
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        opt.step()
        opt.step()  # again


class Carrying(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head, self.last = nn.GRUCell(6, 8), nn.Linear(8, 3), None

    def forward(self, x: Tensor) -> Tensor:
        h = self.cell(x, self.last)
        self.last = h.detach()  # what is carried
        return self.head(h)


def carried() -> None:
    model, (x, y) = Carrying(), rows()
    opt = sgd(model)
    for inputs, labels in DataLoader(TensorDataset(x, y), 20, shuffle=True):
        opt.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        opt.step()


def kept_graphs() -> None:
    model, (x, y) = net(), rows()
    opt, kept = sgd(model), []
    for _ in range(14):
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        kept.append(loss)


def unfrozen() -> None:
    model = net()
    for parameter in model[0].parameters():
        parameter.require_grad = False
    loop(model, sgd(model))


def unshuffled() -> None:
    x, y = rows()
    order = y.argsort()
    loader = DataLoader(TensorDataset(x[order], y[order]), 20)
    model = net()
    opt = sgd(model)
    for inputs, labels in loader:
        opt.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        opt.step()


@pytest.mark.parametrize(
    ("run", "word", "line"),
    [
        (cut, "cut", "h.detach().numpy()"),
        (without_gradient, "cut", "# where it runs"),
        (unregistered, "unregistered", "self.inner = [nn.Linear(8, 8)]"),
        (double_softmax, "double-softmax", "return nn.Sequential("),
        (exploding, "exploding", "std=90.0"),
        (symmetry, "symmetry", "nn.init.constant_("),
        (eval_in_training, "eval-in-training", "model.eval()"),
        (wiped, "wiped-gradient", "model.zero_grad()"),
        (part_of_the_losses, "ignored-samples", "[:7].mean()"),
        (stepped_twice, "double-step", "# again"),
        (carried, "state-carry", "# what is carried"),
        (kept_graphs, "graph-growth", "kept.append(loss)"),
        (unfrozen, "unfrozen", "require_grad = False"),
        (unshuffled, "unshuffled", "loader = DataLoader("),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_first_place_is_the_line_of_the_cause(run, word, line):
    torch.manual_seed(0)
    with watch_training() as watch:
        run()
    found = next(found for found in watch.report().findings if found.word == word)
    assert line in found.places[0]
    assert found.places[0].startswith("test_places.py:")


def test_the_variable_that_keeps_the_graphs_is_named():
    with watch_training() as watch:
        kept_graphs()
    (found,) = [found for found in watch.report().findings if found.word == "graph-growth"]
    assert "are still alive: kept keeps a loss" in found.sentence
