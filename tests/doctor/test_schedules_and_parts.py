"""Programs with several schedules, several optimizers, or a decoder that shifts its labels itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    SequentialLR,
    StepLR,
)
from torch.optim.swa_utils import SWALR

import linkboy as lb


def trained(make, each_epoch, *, epochs=3, before=lambda scheduler: None):
    """Train with the schedules that `make(optimizer)` makes, and return the words of what is found."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    inputs = torch.randn(160, 6)
    data = torch.utils.data.TensorDataset(inputs, inputs[:, :3].argmax(1))
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    with lb.watch_training() as watch:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = make(optimizer)
        before(scheduler)
        for epoch in range(epochs):
            for batch, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(batch), labels).backward()
                optimizer.step()
            each_epoch(epoch, scheduler)
    return [each.word for each in watch.report().findings if each.severity != "NOTE"]


def step(epoch, scheduler):
    scheduler.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda o: SequentialLR(o, [LinearLR(o, 0.1, 1, 5), CosineAnnealingLR(o, 40)], [5]),
        lambda o: ChainedScheduler([ConstantLR(o, 0.1, 2), ExponentialLR(o, 0.95)]),
    ],
)
def test_a_schedule_of_schedules_is_right(make):
    assert trained(make, step) == []


def test_a_schedule_that_another_one_precedes_is_right():
    """Averaged weights have a schedule of their own, which begins in a later epoch."""

    def step_one(epoch, schedulers):
        schedulers[epoch >= 75].step()

    assert trained(lambda o: (CosineAnnealingLR(o, 100), SWALR(o, swa_lr=0.05)), step_one) == []
    assert trained(lambda o: (CosineAnnealingLR(o, 100), SWALR(o, swa_lr=0.05)), lambda *_: None) == [
        "scheduler-unused"
    ]


def test_a_schedule_brought_to_its_epoch_is_right():
    def forward(times):
        return lambda scheduler: [scheduler.step() for _ in range(times)]

    with pytest.warns(UserWarning, match="Detected call"):
        assert trained(lambda o: StepLR(o, 30), step, before=forward(3)) == []
    with pytest.warns(UserWarning, match="Detected call"):
        assert trained(lambda o: StepLR(o, 30), step, before=forward(1)) == ["scheduler-order"]


def test_a_rate_that_rises_from_very_little_is_right():
    """A search for the rate multiplies it after every batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    with lb.watch_training() as watch:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
        scheduler = ExponentialLR(optimizer, 1.4)
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(16, 6)), torch.randint(3, (16,))).backward()
            optimizer.step()
            scheduler.step()
    assert [each.word for each in watch.report().findings if each.severity != "NOTE"] == []


@pytest.mark.parametrize(("own", "words"), [(True, []), (False, ["leakage"])])
@pytest.mark.parametrize("subsets", [True, False])
def test_each_fold_may_have_a_model_of_its_own(own, words, subsets):
    torch.manual_seed(0)
    inputs = torch.randn(200, 6)
    data, order = torch.utils.data.TensorDataset(inputs, inputs[:, :3].argmax(1)), torch.randperm(200).tolist()
    model, optimizer = None, None

    def part(rows):
        return torch.utils.data.Subset(data, rows) if subsets else torch.utils.data.TensorDataset(*data[rows])

    with lb.watch_training() as watch:
        for fold in range(4):
            held = order[50 * fold : 50 * fold + 50]
            if own or model is None or optimizer is None:
                model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
                optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            others = [row for row in order if row not in held]
            for batch, labels in torch.utils.data.DataLoader(part(others), 16, shuffle=True):
                optimizer.zero_grad()
                F.cross_entropy(model(batch), labels).backward()
                optimizer.step()
            with torch.no_grad():
                for batch, _ in torch.utils.data.DataLoader(part(held), 16):
                    model(batch).argmax(1)
    assert [each.word for each in watch.report().findings if each.severity != "NOTE"] == words


def game(*, sampled, judge_sleeps=False):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    judge = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(32, 1))
    first, second = (torch.optim.Adam(model.parameters(), lr=1e-3) for model in (judge, made))
    loss = nn.BCEWithLogitsLoss()
    with lb.watch_training() as watch:
        for number in range(40):
            judge.train()
            real, fake = torch.randn(32, 2) + 2, made(torch.randn(32, 4))
            first.zero_grad()
            (loss(judge(real), torch.ones(32, 1)) + loss(judge(fake.detach()), torch.zeros(32, 1))).backward()
            first.step()
            judge.train(not judge_sleeps)
            second.zero_grad()
            loss(judge(fake), torch.ones(32, 1)).backward()
            second.step()
            if sampled and number == 4:
                made.eval()
    return [each.word for each in watch.report().findings if each.severity != "NOTE"]


def test_a_generator_left_in_eval_mode_is_named():
    """It is called before the step of the discriminator, and trained after it."""
    assert game(sampled=True) == ["eval-in-training"]
    assert game(sampled=False) == []
    assert game(sampled=False, judge_sleeps=True) == []


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.cells = nn.Embedding(20, 16), nn.GRU(16, 16, batch_first=True)

    def forward(self, ids):
        return self.cells(self.table(ids))


class Decoder(nn.Module):
    """Is given the labels, and reads at each place those before it, unless it reads the label itself."""

    def __init__(self, *, shifts):
        super().__init__()
        self.table, self.cells, self.last = nn.Embedding(20, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 20)
        self.shifts = shifts

    def forward(self, encoded, hidden, labels):
        read = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], 1) if self.shifts else labels
        found, _ = self.cells(self.table(read), hidden)
        return self.last(found + encoded.mean(1, keepdim=True))


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(("shifts", "words"), [(True, []), (False, ["unshifted"])])
def test_a_decoder_may_shift_the_labels_it_is_given(shifts, words, apart):
    torch.manual_seed(0)
    encoder, decoder = Encoder(), Decoder(shifts=shifts)
    given, wanted = torch.randint(1, 20, (160, 8)), torch.randint(1, 20, (160, 8))
    groups = [encoder.parameters(), decoder.parameters()] if apart else [[*encoder.parameters(), *decoder.parameters()]]
    optimizers = [torch.optim.Adam(group, lr=1e-3) for group in groups]
    with lb.watch_training() as watch:
        for rows in (*torch.randperm(160).split(16), *torch.randperm(160).split(16)):
            logits = decoder(*encoder(given[rows]), wanted[rows])
            loss = F.cross_entropy(logits.flatten(0, 1), wanted[rows].flatten())
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    assert [each.word for each in watch.report().findings if each.severity != "NOTE"] == words
