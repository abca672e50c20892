"""What a run that goes on says of what has changed since, and of what no checkpoint holds."""

import errno
import functools
import json
import os
import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from linkboy.training import Checkpointer, EarlyStopping, fit
from linkboy.training._exactness import Unsaved

CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")


def points(count=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator))


def small(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def run(directory, *, model=None, loss_fn=CROSS_ENTROPY, data=None, lr=0.1, loader=None, make=None, **options):
    model = small() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **options.pop("groups", {})) if make is None else make(model)
    loader = DataLoader(points() if data is None else data, batch_size=8) if loader is None else loader
    options = {"seed": 0, "log": (), "progress": False, "epochs": 2, "checkpoint": directory, **options}
    return fit(model, loss_fn, optimizer, loader, **options)


# --- what was asked otherwise


def other_loss(output, target):
    return nn.functional.cross_entropy(output, target, reduction="none", label_smoothing=0.2)


BEGAN = (
    "{name} is {now} in this call and was {then} when the run began, which goes on as it began; "
    "change state.optimizer.param_groups in a callback, or use another directory"
)


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"lr": 0.001}, BEGAN.format(name="lr", now=0.001, then=0.1)),
        ({"groups": {"weight_decay": 0.3}}, BEGAN.format(name="weight_decay", now=0.3, then=0)),
        ({"groups": {"momentum": 0.9}}, BEGAN.format(name="momentum", now=0.9, then=0)),
        ({"clip_grad_norm": 0.5}, "clip_grad_norm was None up to step 3 and is 0.5 from there on"),
        ({"on_nan": "skip"}, "on_nan was raise up to step 3 and is skip from there on"),
        (
            {"loss_fn": nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)},
            "loss_fn was CrossEntropyLoss (ignore_index=-100, label_smoothing=0.0, reduction='none') up to step 3 and is "
            "CrossEntropyLoss (ignore_index=-100, label_smoothing=0.1, reduction='none') from there on",
        ),
        (
            {"data": points(seed=5)},
            "the data set is not the one up to step 3: it has the same length, but another type or other first samples",
        ),
    ],
)  # fmt: skip
def test_what_a_resumed_run_is_asked_otherwise_is_said(tmp_path, changed, note):
    run(tmp_path, max_steps=3)
    assert run(tmp_path, **changed).notes == (note,)
    assert not any("was" in said for said in run(tmp_path, epochs=3, **changed).notes if "began" not in said)


def test_a_function_with_other_code_is_another_loss(tmp_path):
    run(tmp_path, max_steps=3, loss_fn=other_loss)
    assert run(tmp_path, max_steps=4, loss_fn=other_loss).notes == ()
    (note,) = run(tmp_path, loss_fn=lambda output, target: other_loss(output, target)).notes
    assert note.startswith("loss_fn was other_loss up to step 4 and is ")


def test_the_same_call_says_nothing_whatever_a_schedule_did_to_the_rate(tmp_path):
    def once(max_steps=None):
        model = small()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8)
        return run(tmp_path, model=model, make=lambda _: optimizer, scheduler=schedule, max_steps=max_steps)

    once(3)
    history = once()
    assert (history.notes, history.exact) == ((), True)


SCHEDULES = torch.optim.lr_scheduler


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # SequentialLR of torch 2.6 passes it
@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        (
            lambda o: SCHEDULES.StepLR(o, 2, gamma=0.1),
            lambda o: SCHEDULES.StepLR(o, 2, gamma=0.5),
            "gamma of the scheduler is 0.5 in this call and was 0.1 when the run began, which goes on as it began; set it on the "
            "scheduler in a callback, or use another directory",
        ),
        (
            lambda o: SCHEDULES.OneCycleLR(o, 0.1, total_steps=8),
            lambda o: SCHEDULES.OneCycleLR(o, 0.1, total_steps=16),
            "total_steps of the scheduler is 16 in this call and was 8",
        ),
        (
            lambda o: SCHEDULES.MultiStepLR(o, [2, 4]),
            lambda o: SCHEDULES.MultiStepLR(o, [3, 4]),
            "milestones of the scheduler is [3, 4] in this call and was [2, 4]",
        ),
        (
            lambda o: SCHEDULES.SequentialLR(o, [SCHEDULES.LinearLR(o), SCHEDULES.ExponentialLR(o, 0.9)], [2]),
            lambda o: SCHEDULES.SequentialLR(o, [SCHEDULES.LinearLR(o), SCHEDULES.ExponentialLR(o, 0.8)], [2]),
            "schedulers.1.gamma of the scheduler is 0.8 in this call and was 0.9",
        ),
        (
            lambda o: SCHEDULES.ReduceLROnPlateau(o, patience=1),
            lambda o: SCHEDULES.ReduceLROnPlateau(o, patience=5),
            "patience of the scheduler is 5 in this call and was 1",
        ),
    ],
)
def test_a_schedule_that_a_resumed_run_is_asked_otherwise_is_said(tmp_path, first, second, note):
    def once(make, **options):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return run(tmp_path, model=model, make=lambda _: optimizer, scheduler=make(optimizer), **options)

    once(first, max_steps=3)
    assert once(first, max_steps=4).notes == ()
    (said,) = (said for said in once(second).notes if "of the scheduler" in said)
    assert said.startswith(note)


def test_a_scheduler_that_goes_on_in_the_same_process_is_the_same_schedule(tmp_path):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = SCHEDULES.CosineAnnealingWarmRestarts(optimizer, 2, T_mult=2)
    for steps in (3, 5):
        history = run(tmp_path, model=model, make=lambda _: optimizer, scheduler=schedule, max_steps=steps)
    assert history.notes == ()


def test_a_finished_run_says_that_nothing_was_trained(tmp_path):
    run(tmp_path)
    history = run(tmp_path, lr=0.001)
    assert history.notes[-1] == (
        f"nothing was trained: {tmp_path / 'step-8'} is the end of the run that this call asks for"
    )
    assert history.notes[0].startswith("lr is 0.001 in this call")


def test_notes_are_printed_where_the_progress_is(tmp_path, capsys):
    run(tmp_path, max_steps=3)
    run(tmp_path, lr=0.2, progress=True)
    assert "note: lr is 0.2 in this call and was 0.1 when the run began" in capsys.readouterr().err


# --- what no checkpoint holds


class Noisy(Dataset):
    """Adds noise from a generator of its own, which nobody else can see."""

    def __init__(self, generator, draw):
        self.data, self.generator, self.draw = points(), generator, draw

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return x + float(self.draw(self.generator)), y


GENERATORS = {
    "numpy": (lambda: np.random.default_rng(0), lambda g: g.normal()),
    "numpy's old": (lambda: np.random.RandomState(0), lambda g: g.normal()),
    "python": (lambda: random.Random(0), lambda g: g.random()),
    "torch": (lambda: torch.Generator().manual_seed(0), lambda g: torch.rand((), generator=g)),
    "counter": (lambda: [0], lambda g: g.__setitem__(0, g[0] + 1) or g[0]),
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_data_set_with_state_of_its_own_is_not_exact(tmp_path, kind):
    make, draw = GENERATORS[kind]
    history = run(tmp_path, data=Noisy(make(), draw))
    assert not history.exact
    assert history.exact_reason.startswith("the order is the same, but the data set.generator")
    report = Checkpointer(tmp_path).verify(Checkpointer(tmp_path).latest())
    assert (report.exact, report.exact_reason) == (False, history.exact_reason)


def test_a_generator_in_workers_is_not_exact(tmp_path):
    make, draw = GENERATORS["numpy"]
    loader = DataLoader(Noisy(make(), draw), batch_size=8, num_workers=1)
    assert run(tmp_path, loader=loader, epochs=1).exact_reason == (
        "the order is the same, but the data set.generator is a random generator of its own, which no checkpoint holds"
    )


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self, *arguments):
        self.calls += 1

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


class Averaging(nn.Module):
    """Has a mean of its inputs in a buffer that state_dict leaves out, and that only moves with a weight."""

    def __init__(self, weight=0.1):
        super().__init__()
        self.norm, self.layer, self.weight = nn.BatchNorm1d(4), nn.Linear(4, 3), weight
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, x):
        if self.weight:
            self.mean.lerp_(x.detach().mean(0), self.weight)
        return self.layer(self.norm(x - self.mean))


class Caller(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(4, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x)


class Annealed(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = 1.0

    def forward(self, output, target):
        self.factor *= 0.9
        return self.factor * CROSS_ENTROPY(output, target)


class Decayed(torch.optim.SGD):
    """Divides its rate by a count of its own, as optimizers written for one program do."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self._count = 0

    def step(self, closure=None):
        self._count += 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self._count
        return super().step(closure)


class Saved(Decayed):
    def state_dict(self):
        return {**super().state_dict(), "count": self._count}

    def load_state_dict(self, state):
        super().load_state_dict({name: state[name] for name in ("state", "param_groups")})
        self._count = state["count"]


class Around(torch.optim.Optimizer):
    """Steps with another optimizer, whose momentum it does not save."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)

    def step(self, closure=None):
        self.base.step()


class Subclass(torch.optim.Adam):
    def step(self, closure=None):
        return super().step(closure)


class OnTheClass(nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        OnTheClass.calls += 1
        return self.linear(x)


GENERATOR = np.random.default_rng(0)


class DrawsGlobally(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(self.noisy(x))

    def noisy(self, x):
        return x + float(GENERATOR.normal())


class Slotted:
    __slots__ = ("calls",)

    def __init__(self):
        self.calls = 0

    def __call__(self, event, state):
        self.calls += 1


class Keeper(nn.Module):
    """Keeps a tensor of each call, all of one size, so that the next may have the memory of the last."""

    def __init__(self):
        super().__init__()
        self.linear, self.last = nn.Linear(4, 3), None

    def forward(self, x):
        self.last = self.linear(x).detach()
        return self.linear(x)


COUNT = [0]


def count_globally(event, state):
    COUNT[0] += 1


def closure():
    calls = 0

    def callback(event, state):
        nonlocal calls
        calls += 1

    return callback


def scaled():
    steps = {"n": 0}

    def unpack(batch):
        steps["n"] += 1
        return batch

    return unpack


@pytest.mark.parametrize(
    ("options", "path"),
    [
        (lambda: {"callbacks": [Counting()]}, "callbacks[0].calls"),
        (lambda: {"callbacks": [Counting().__call__]}, "callbacks[0].calls"),
        (lambda: {"callbacks": [closure()]}, "callbacks[0].calls"),
        (lambda: {"callbacks": [functools.partial(closure())]}, "callbacks[0].calls"),
        (lambda: {"callbacks": [count_globally]}, "callbacks[0].COUNT[0]"),
        (lambda: {"unpack": scaled()}, "unpack.steps['n']"),
        (lambda: {"model": Caller()}, "model.calls"),
        (lambda: {"model": Averaging()}, "model.mean"),
        (lambda: {"loss_fn": Annealed()}, "loss_fn.factor"),
        (lambda: {"make": lambda model: Decayed(model.parameters(), 0.1)}, "optimizer._count"),
        (lambda: {"make": lambda model: Around(model.parameters())}, "optimizer.base.state"),
        (lambda: {"model": OnTheClass()}, "model.calls"),
        (lambda: {"model": DrawsGlobally()}, "model.noisy.GENERATOR"),
        (lambda: {"model": Keeper()}, "model.last"),
        (lambda: {"callbacks": [Slotted()]}, "callbacks[0].calls"),
    ],
)
def test_state_of_what_is_passed_is_found_and_named(tmp_path, options, path):
    history = run(tmp_path, **options())
    assert history.exact_reason == (
        f"the samples are the same, but {path} changed during the run, and no checkpoint holds it; an object with state_dict "
        "and load_state_dict is saved where it is passed as state="
    )
    assert not history.exact
    assert not run(tmp_path, **{**options(), "epochs": 3}).exact  # it is not exact for ever after


def test_buffers_that_are_saved_or_stay_are_exact(tmp_path):
    history = run(tmp_path, model=Averaging(weight=0))
    assert (history.exact, history.exact_reason) == (True, "")


def test_what_is_passed_as_state_and_what_has_none_is_exact(tmp_path):
    counting, table = Counting(), {"a": 1}
    callbacks = [counting, lambda event, state: table.get("a"), lambda event, state: state.optimizer.param_groups]
    history = run(tmp_path, callbacks=callbacks, state={"counting": counting}, model=small(dropout=0.3))
    assert (history.exact, history.exact_reason) == (True, "")


@pytest.mark.parametrize("kind", [Saved, Subclass])
def test_an_optimizer_that_saves_what_it_counts_is_exact(tmp_path, kind):
    def part(directory, **options):
        model = small()
        return model, run(directory, model=model, make=lambda model: kind(model.parameters(), lr=0.1), **options)

    uncut, _ = part(tmp_path / "uncut")
    part(tmp_path / "cut", max_steps=3)
    model, history = part(tmp_path / "cut")
    assert torch.equal(uncut[0].weight, model[0].weight)
    assert (history.exact, history.exact_reason) == (True, "")


def test_an_attribute_with_the_name_of_a_global_is_not_that():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.COUNT = nn.Linear(4, 3)

        def forward(self, x):
            return self.COUNT(x)

    unsaved = Unsaved({"model": Model()}, ())
    COUNT[0] += 1
    assert unsaved.changed() == ""


def test_a_table_that_is_made_in_the_first_call_is_not_state():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = None

    model = Lazy()
    unsaved = Unsaved({"model": model}, ())
    model.table, model.more = torch.arange(4), 3
    assert unsaved.changed() == ""
    model.table += 1
    assert unsaved.changed() == "model.table"


def test_the_walk_is_bounded_and_ends_in_circles():
    large = {"rows": [[number] for number in range(10**5)]}
    large["self"] = large
    unsaved = Unsaved({"callbacks[0]": lambda event, state: large}, ())
    assert unsaved.changed() == ""


def test_a_stream_that_draws_its_own_order_draws_it_again(tmp_path):
    class Shuffled(IterableDataset):
        def __init__(self, kind):
            self.kind = kind

        def __iter__(self):
            order = list(range(64))
            if self.kind == "torch":
                order = torch.randperm(64).tolist()
            elif self.kind == "numpy":
                np.random.shuffle(order)  # noqa: NPY002  # what users call
            else:
                random.shuffle(order)
            for index in order:
                yield torch.full((4,), float(index)), index % 3

    for kind in ("torch", "numpy", "python"):
        seen = []

        def unpack(batch, seen=seen):
            seen.extend(batch[0][:, 0].int().tolist())
            return batch

        for max_steps in (3, None):
            loader = DataLoader(Shuffled(kind), batch_size=8)
            options = {"epochs": 1, "max_steps": max_steps, "unpack": unpack, "model": small(dropout=0.2)}
            run(tmp_path / kind, loader=loader, **options)
        assert sorted(seen) == list(range(64))
        assert seen != sorted(seen)


# --- positions


@pytest.mark.parametrize(("first", "then"), [((8, 2), (4, 4)), ((4, 4), (16, 1)), ((16, 1), (2, 8))])
def test_other_micro_batches_of_the_same_step_go_on_where_it_was(tmp_path, first, then):
    def train(directory, batch_size, accumulate, max_steps=None, seen=None):
        model = small().double()
        data = TensorDataset(points(50).tensors[0].double(), points(50).tensors[1])
        loader = DataLoader(data, batch_size=batch_size, shuffle=True)
        return model, run(directory, model=model, loader=loader, accumulate=accumulate, max_steps=max_steps)

    whole, _ = train(None, *first)
    train(tmp_path, *first, max_steps=5)
    resumed, history = train(tmp_path, *then)
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)
    assert history.steps == 8
    assert history.exact_reason == (
        f"the samples of each step are the same, but micro-batches of {then[0]} instead of {first[0]} add up in another order"
    )


def test_other_steps_are_refused(tmp_path):
    run(tmp_path, max_steps=3)
    with pytest.raises(
        ValueError, match=r"^the checkpoint was made with batch_size=8, this run has batch_size=4; they must"
    ):
        run(tmp_path, loader=DataLoader(points(), batch_size=4))
    with pytest.raises(
        ValueError, match=r"^the checkpoint was made with drop_last=False, this run has drop_last=True; they"
    ):
        run(tmp_path, loader=DataLoader(points(), batch_size=4, drop_last=True), accumulate=2)


# --- what is written


def backbone(width=200):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 3))
    model[0].requires_grad_(False)
    return model


def wide(width=200):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(16, width, generator=generator), torch.arange(16) % 3)


def of_backbone(directory, model=None, **options):
    model = backbone() if model is None else model
    loader = DataLoader(wide(), batch_size=4)
    return model, run(directory, model=model, loader=loader, **options)


def size_of(path):
    return sum(file.stat().st_size for file in path.iterdir())


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"early_stopping": EarlyStopping("train_loss")}])
def test_what_does_not_train_is_written_once_beside_the_checkpoints(tmp_path, options):
    whole, _ = of_backbone(None, epochs=3, **options)
    of_backbone(Checkpointer(tmp_path, every_steps=1, keep=20), max_steps=7, epochs=3, **options)
    paths = Checkpointer(tmp_path).paths()
    assert len(paths) == 7
    assert all(size_of(path) < 40_000 for path in paths)
    (beside,) = tmp_path.glob("frozen-*")
    assert beside.stat().st_size > 160_000
    report = Checkpointer(tmp_path).verify(paths[-1])
    assert (report.ok, report.file_count, report.nbytes > 160_000) == (True, 3, True)
    weights = Checkpointer.weights(tmp_path)
    assert torch.equal(weights["0.weight"], whole[0].weight)
    # Random weights where the pretrained ones were: they come from the checkpoint.
    other = backbone()
    nn.init.normal_(other[0].weight)
    resumed, _ = of_backbone(tmp_path, other, epochs=3, **options)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_what_is_unfrozen_moves_into_the_checkpoint_and_leaves_no_file(tmp_path):
    def unfreeze(event, state):
        if event == "step" and state.step == 5:
            state.model[0].requires_grad_(True)

    def train(directory, max_steps=None):
        keeper = directory and Checkpointer(directory, every_steps=1, keep=2)
        return of_backbone(keeper, callbacks=[unfreeze], max_steps=max_steps)[0]

    whole = train(None)
    train(tmp_path, 4)
    assert len(list(tmp_path.glob("frozen-*"))) == 1
    resumed = train(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))
    assert not list(tmp_path.glob("frozen-*"))


def test_damage_beside_the_checkpoints_is_seen(tmp_path):
    of_backbone(tmp_path)
    (beside,) = tmp_path.glob("frozen-*")
    content = beside.read_bytes()
    beside.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    report = Checkpointer(tmp_path).verify(tmp_path / "step-8")
    assert report.notes == (f"{beside.name} has other content than when it was saved",)
    beside.unlink()
    assert Checkpointer(tmp_path).verify(tmp_path / "step-8").notes == (f"{beside.name} is missing",)
    with pytest.raises(
        FileNotFoundError, match=r"^path must be a checkpoint or a directory of them, found no whole one in "
    ):
        Checkpointer.weights(tmp_path)
    with pytest.raises(ValueError, match=r"step-8 is not a whole checkpoint: frozen-"):
        Checkpointer.weights(tmp_path / "step-8")


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    of_backbone(tmp_path)
    manifest = tmp_path / "step-8" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["frozen"][0]["name"] = "../../secret"
    manifest.write_text(json.dumps(content))
    assert Checkpointer(tmp_path).verify(tmp_path / "step-8").notes == (
        "manifest.json names a file of frozen tensors that a Checkpointer would not write",
    )


def test_weights_that_fit_did_not_save_are_refused(tmp_path):
    keeper = Checkpointer(tmp_path)
    path = keeper.save({"a": 1}, 3)
    with pytest.raises(ValueError, match=r"step-3 was not saved by fit; read it with Checkpointer.load$"):
        Checkpointer.weights(path)


def test_the_best_epoch_is_kept_however_old(tmp_path):
    values = iter([0.5, 0.9, 0.7, 0.8, 0.3])
    keeper = Checkpointer(tmp_path, keep=1, keep_best="score", best_mode="max")
    valid = DataLoader(points(), batch_size=8)
    metrics = {"score": lambda output, target: next(values)}
    run(keeper, epochs=5, val_loader=valid, metrics=metrics, sanity=False)
    assert keeper.best() == tmp_path / "step-8"
    assert [path.name for path in keeper.paths()] == ["step-8", "step-20"]
    assert keeper.verify(keeper.best()).ok
    other = Checkpointer(tmp_path, keep=1, keep_best="val_loss")
    assert other.best() is None  # what was best in another figure is not
    with pytest.raises(
        ValueError, match=r"^keep_best must be one of the epoch's figures \[.*'train_loss'\], got 'val_loss'$"
    ):
        other.see(20, {"epoch": 1, "step": 4, "train_loss": 0.1})


def test_the_number_of_a_failed_write_is_kept(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):

        def fail(tensors, path, number=number):
            raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")

        monkeypatch.setattr("safetensors.torch.save_file", fail)
        with pytest.raises(OSError, match=f"^\\[Errno {number}\\] no checkpoint written: ") as caught:
            Checkpointer(tmp_path).save({"a": torch.ones(2)}, number)
        assert caught.value.errno == number


def test_another_number_of_processes_is_refused_with_the_way_to_go_on(tmp_path, monkeypatch):
    run(tmp_path, max_steps=3)
    manifest = tmp_path / "step-3" / "manifest.json"
    content = json.loads(manifest.read_text())
    for name in ("process-0.safetensors", "process-0.json"):
        shutil.copy(tmp_path / "step-3" / name, tmp_path / "step-3" / name.replace("0", "1"))
    files = [{**entry, "name": entry["name"].replace("0", "1")} for entry in content["files"]]
    manifest.write_text(
        json.dumps({**content, "world_size": 2, "files": content["files"] + files, "frozen": [None, None]})
    )
    with pytest.raises(ValueError) as caught:
        run(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'step-3'} was saved by 2 processes, and this run has 1 process: start as many, or begin another run from "
        f"its weights, model.load_state_dict(Checkpointer.weights({str(tmp_path / 'step-3')!r})), in another directory"
    )
    assert (
        torch.equal(Checkpointer(tmp_path).load(tmp_path / "step-3")["model"]["0.weight"], small()[0].weight) is False
    )
