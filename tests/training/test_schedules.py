"""A schedule that was made for epochs is told, and one that is too short is refused before the first step."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from linkboy.training import fit


def run(make, *, epochs=6, rows=160, batch_size=8, model=None, **options):
    torch.manual_seed(0)
    model = nn.Linear(3, 2) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = TensorDataset(torch.randn(rows, 3), torch.randint(2, (rows,)))
    scheduler = make(optimizer)
    return fit(
        model, nn.CrossEntropyLoss(reduction="none"), optimizer, DataLoader(data, batch_size=batch_size), epochs=epochs,
        scheduler=scheduler, seed=0, progress=False, log=(), **options,
    )  # fmt: skip


FOR_EPOCHS = {
    "CosineAnnealingLR(T_max=6)": (lambda o: lr_scheduler.CosineAnnealingLR(o, 6), "T_max"),
    "CosineAnnealingWarmRestarts(T_0=3)": (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3), "T_0"),
    "MultiStepLR(milestones=[3, 5])": (lambda o: lr_scheduler.MultiStepLR(o, [3, 5]), "milestones"),
    "PolynomialLR(total_iters=6)": (lambda o: lr_scheduler.PolynomialLR(o, 6), "total_iters"),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # SequentialLR of torch 2.6 passes it
@pytest.mark.parametrize("name", FOR_EPOCHS)
def test_a_schedule_that_fits_the_epochs_is_told_to_count_steps(name):
    make, option = FOR_EPOCHS[name]
    told = f"{name} is stepped after each of the 120 steps and not after each of the 6 epochs: {option} counts steps, "
    told += "20 of which are an epoch"
    assert run(make).notes == (told,)
    (cut,) = run(make, max_steps=50).notes[:1]
    assert cut == told.replace("the 120 steps", "the 50 steps")
    inside = run(lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.LinearLR(o, total_iters=2), make(o)], [2]))
    assert inside.notes == (told,)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda o: lr_scheduler.ExponentialLR(o, 0.9),
            "ExponentialLR(gamma=0.9) is stepped after each of the 120 steps",
        ),
        (lambda o: lr_scheduler.StepLR(o, 2, 0.5), "StepLR(gamma=0.5) is stepped after each of the 120 steps"),
        (lambda o: lr_scheduler.LambdaLR(o, lambda n: 0.8**n), "LambdaLR is stepped after each of the 120 steps"),
    ],
)
def test_a_rate_that_vanishes_is_told(make, told):
    (note,) = run(make).notes
    assert note.startswith(told)
    last = float(note.rpartition("ends at ")[2].split()[0])
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = make(optimizer)
    for _ in range(120):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(last, rel=0.06)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.CosineAnnealingLR(o, 120),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 40),
        lambda o: lr_scheduler.LinearLR(o, total_iters=4),
        lambda o: lr_scheduler.ConstantLR(o, total_iters=4),
        lambda o: lr_scheduler.ExponentialLR(o, 0.99),
        lambda o: lr_scheduler.StepLR(o, 40, 0.1),
        lambda o: lr_scheduler.StepLR(o, 1, 0.999),
        lambda o: lr_scheduler.MultiStepLR(o, [60, 90]),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=120),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, epochs=6, steps_per_epoch=20),
        lambda o: lr_scheduler.LambdaLR(o, lambda step: 1.0),
        lambda o: lr_scheduler.LambdaLR(o, lambda step: max(0.0, 1 - step / 120)),
        lambda o: lr_scheduler.ReduceLROnPlateau(o),
    ],
)
def test_a_schedule_of_steps_gets_no_note(make):
    assert run(make).notes == ()


def test_one_step_an_epoch_is_both():
    assert run(lambda o: lr_scheduler.CosineAnnealingLR(o, 6), rows=8).notes == ()


def test_a_cycle_that_ends_before_the_run_is_refused_before_the_first_step(tmp_path):
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError) as caught:
        run(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20), model=model)
    assert str(caught.value) == (
        "scheduler has total_steps=20, this run has 120 steps, after each of which it is stepped; make OneCycleLR with "
        "total_steps=120"
    )
    assert torch.equal(model.weight, before)
    assert run(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20), max_steps=20).steps == 20
    assert run(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=40), accumulate=3, epochs=5).steps == 35


def test_a_longer_run_that_goes_on_with_a_cycle_is_refused_and_changes_nothing(tmp_path):
    def cycle(steps):
        return lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=steps)

    run(cycle(40), epochs=2, checkpoint=tmp_path)
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match="scheduler has total_steps=40, this run has 80 steps"):
        run(cycle(80), epochs=4, model=model, checkpoint=tmp_path)
    assert torch.equal(model.weight, before)


def test_a_table_of_rates_that_ends_before_the_planned_steps_is_left_to_the_run():
    rates = [0.5**n for n in range(51)]
    assert run(lambda o: lr_scheduler.LambdaLR(o, lambda n: rates[n]), max_steps=50).notes[1:] == ()
    with pytest.raises(IndexError):
        run(lambda o: lr_scheduler.LambdaLR(o, lambda n: rates[n]))
