"""What a step is made of: gradients, clipping, modes, optimizers and schedules of every kind, and the limits of a run."""

import math
import time
import tracemalloc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

import linkboy as lb
from linkboy.training import EarlyStopping, _gradients, fit

CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")


def points(count=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 4, generator=generator), torch.randint(3, (count,), generator=generator))


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def run(model, optimizer=None, loader=None, loss_fn=CROSS_ENTROPY, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if optimizer is None else optimizer
    loader = DataLoader(points(), batch_size=8) if loader is None else loader
    return fit(model, loss_fn, optimizer, loader, **{"seed": 0, "log": (), "progress": False, **options})


class Bag(nn.Module):
    """An embedding with sparse gradients, whose rows occur several times in a batch, and a dense layer."""

    def __init__(self, *, sparse):
        super().__init__()
        torch.manual_seed(1)
        self.embedding, self.linear = nn.Embedding(10, 4, sparse=sparse), nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(self.embedding(x).mean(1))


# --- gradients


def sparse_and_dense(**options):
    data = TensorDataset(torch.arange(160).reshape(32, 5) % 7, torch.arange(32) % 3)
    models = [Bag(sparse=sparse) for sparse in (True, False)]
    histories = [run(model, None, DataLoader(data, batch_size=8), log_every=1, **options) for model in models]
    return models, histories


@pytest.mark.parametrize(
    "options", [{"clip_grad_norm": 0.05}, {"accumulate": 2}, {"accumulate": 3, "clip_grad_norm": 0.1}]
)
def test_sparse_gradients_make_the_steps_of_dense_ones(options):
    (sparse, dense), (first, second) = sparse_and_dense(**options)
    for mine, other in zip(sparse.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
    norms = [[line["grad_norm"] for line in history.log] for history in (first, second)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_the_norm_of_gradients_is_that_of_torch_whatever_their_layout():
    parameters = [nn.Parameter(torch.zeros(4, 3)) for _ in range(3)]
    parameters[0].grad = torch.randn(4, 3)
    indices = torch.tensor([[0, 2, 0]])  # row 0 twice
    parameters[1].grad = torch.sparse_coo_tensor(indices, torch.randn(3, 3), (4, 3), check_invariants=True)
    gradients = _gradients.gradients_of(parameters)
    dense = [gradient.to_dense().clone() for gradient in gradients]
    assert len(gradients) == 2  # the third has none
    assert _gradients.norm_of(gradients).item() == pytest.approx(torch.nn.utils.get_total_norm(dense).item())
    norm = _gradients.clip(parameters, gradients, 0.5)
    assert norm.item() == pytest.approx(torch.nn.utils.get_total_norm(dense).item())
    clipped = [parameter.grad.to_dense() for parameter in parameters[:2]]
    assert torch.nn.utils.get_total_norm(clipped).item() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_log_line_has_the_norm_before_clipping(clip):
    norms = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
            return super().step(closure)

    model = small()
    history = run(model, Recording(model.parameters(), lr=0.0), log_every=2, clip_grad_norm=clip, epochs=2)
    logged = [line["grad_norm"] for line in history.log]
    assert len(logged) == 4
    if clip is None:
        assert logged == pytest.approx(norms[1::2])
    else:
        assert [min(norm, clip) for norm in logged] == pytest.approx(norms[1::2], rel=1e-4)


class Spiked(nn.Module):
    """Its gradient is not finite where the input is 0, its output always is."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        output = self.linear(x)
        return output + (self.linear.weight[0, 0] * 0).sqrt() if (x[:, 0] == 0).any() else output


def with_a_spike(at):
    data = points()
    data.tensors[0][:, 0] += 100.0
    data.tensors[0][at] = 0.0
    return DataLoader(data, batch_size=8)


@pytest.mark.parametrize("at", [0, 9, 31])
@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 1.0}, {"accumulate": 2}])
def test_a_gradient_that_is_not_finite_makes_no_step(at, options):
    model = Spiked()
    history = run(
        model, None, with_a_spike(at), on_nan="skip", on_finding="off", **options
    )  # its first loss is far too large
    assert history.skipped_steps == 1
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_gradient_that_is_not_finite_in_the_first_step_names_its_parameter():
    with pytest.raises(FloatingPointError, match=r"^the gradient is not finite in step 1 of epoch 1; it began at the "):
        run(Spiked(), None, with_a_spike(0))


# --- what is alive at once


@pytest.mark.parametrize("kind", ["map", "stream"])
@pytest.mark.parametrize("accumulate", [1, 4, 16])
def test_no_more_than_one_batch_is_fetched_ahead(kind, accumulate):
    alive, most, steps = set(), [0], []

    def collate(rows):
        inputs = torch.stack([x for x, _ in rows])
        alive.add(id(inputs))
        weakref.finalize(inputs, alive.discard, id(inputs))
        most[0] = max(most[0], len(alive))
        steps.append("fetch")
        return inputs, torch.zeros(len(rows), dtype=torch.long)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(points(64))

    data = points(64) if kind == "map" else Stream()
    loader = DataLoader(data, batch_size=2, collate_fn=collate)
    history = run(nn.Linear(4, 3), None, loader, accumulate=accumulate, callbacks=[lambda *_: steps.append("step")])
    assert history.steps == 32 // accumulate
    assert most[0] <= 3
    assert steps[: accumulate + 1] == ["fetch"] * accumulate + ["step"]  # nothing of the next group before the step


# --- modes


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))


def moved(model, **options):
    norms = [model.body[1], model.body[3]]
    before = [norm.running_mean.clone() for norm in norms]
    run(model, epochs=2, val_loader=DataLoader(points(seed=3), batch_size=8), **options)
    return [not torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True)]


def test_what_was_left_in_evaluation_mode_stays_in_it_through_validations():
    model = Norms()
    model.body[1].eval()
    assert moved(model) == [False, True]
    assert [module.training for module in (model, model.body[1], model.body[3])] == [True, False, True]


def test_a_model_that_comes_in_evaluation_mode_trains():
    model = Norms().eval()  # as those of transformers come
    assert moved(model) == [True, True]
    assert not any(module.training for module in model.modules())


def test_what_a_callback_puts_into_evaluation_mode_stays_in_it():
    model = Norms()
    means = []

    def freeze(event, state):
        if event == "step" and state.step == 2:
            model.body[3].eval()
        means.append(model.body[3].running_mean.clone())

    assert moved(model, callbacks=[freeze]) == [True, True]
    assert torch.equal(means[1], means[-1])


def test_modes_are_restored_by_a_resume(tmp_path):
    def train(max_steps=None):
        torch.manual_seed(0)
        model = Norms()

        def freeze(event, state):
            if event == "step" and state.step == 2:
                model.body[3].eval()

        run(model, epochs=2, max_steps=max_steps, callbacks=[freeze], checkpoint=tmp_path / str(max_steps))
        return model.body[3].running_mean

    whole = train()
    train(3)
    (tmp_path / "3").rename(tmp_path / "cut")
    model = Norms()
    run(model, epochs=2, checkpoint=tmp_path / "cut")
    assert torch.equal(model.body[3].running_mean, whole)


# --- optimizers


class NoRate(torch.optim.SGD):
    """Finds its own rate, as Adafactor does, and has none to show."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        for group in self.param_groups:
            group["lr"] = None

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.sub_(parameter.grad, alpha=0.1)


def test_an_optimizer_without_a_rate_trains_and_the_rate_is_not_invented(tmp_path, capsys):
    model = small()
    history = run(model, NoRate(model.parameters()), log_every=2, log="csv", checkpoint=tmp_path, progress=True)
    assert [row["lr"] for row in history.rows] == [None]
    assert [line["lr"] for line in history.log] == [None, None]
    assert "lr none" in capsys.readouterr().err
    assert "step" in str(history)


class Modal(torch.optim.SGD):
    """Steps in one mode and is measured in the other, in which its weights are doubled."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.mode = "eval"

    def train(self):
        self._change("train", 0.5)

    def eval(self):
        self._change("eval", 2.0)

    def _change(self, mode, factor):
        if self.mode != mode:
            self.mode = mode
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.mul_(factor)

    def step(self, closure=None):
        assert self.mode == "train"
        return super().step(closure)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_an_optimizer_with_modes_is_measured_and_left_in_evaluation_mode(ema):
    model, seen = small(), []
    optimizer = Modal(model.parameters(), lr=0.1)
    metric = {"mode": lambda output, target: seen.append(optimizer.mode) or 0.0}
    run(
        model,
        optimizer,
        epochs=2,
        val_loader=DataLoader(points(), batch_size=8),
        metrics=metric,
        validate_every=2,
        ema=ema,
    )
    assert seen == ["eval"] * 5  # one before, four validations (that at the end of an epoch is also one on the way)
    assert optimizer.mode == "eval"


# --- schedules


def plateau(**options):
    return lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, **options)


@pytest.mark.parametrize(
    ("make", "options", "figure"),
    [
        (plateau(threshold=0.9), {}, "train_loss"),
        (plateau(threshold=0.9), {"val_loader": True}, "val_loss"),
        (
            plateau(threshold=0.9, mode="max"),
            {"val_loader": True, "early_stopping": EarlyStopping("hits", "max", restore_best=False)},
            "hits",
        ),
    ],
)
def test_a_plateau_schedule_follows_the_figure_and_a_resume_goes_on_with_it(tmp_path, make, options, figure):
    def train(directory, max_steps=None):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        kept = dict(options)
        if "val_loader" in kept:
            kept["val_loader"] = DataLoader(points(seed=3), batch_size=8)
            kept["metrics"] = {"hits": lambda output, target: (output.argmax(1) == target).float().mean()}
        history = run(
            model, optimizer, epochs=4, scheduler=make(optimizer), max_steps=max_steps, checkpoint=directory, **kept
        )
        return history, optimizer.param_groups[0]["lr"]

    history, rate = train(tmp_path / "whole")
    alone = torch.optim.SGD(small().parameters(), lr=0.1)
    schedule = make(alone)
    for row in history.rows:
        schedule.step(row[figure])
    assert rate == alone.param_groups[0]["lr"] < 0.1
    for cut in (4, 7, 12):
        train(tmp_path / str(cut), cut)
        resumed, again = train(tmp_path / str(cut))
        assert ([row["lr"] for row in resumed.rows], again) == ([row["lr"] for row in history.rows], rate)


# --- limits


def test_max_steps_alone_is_reached_over_as_many_epochs_as_it_takes():
    history = run(small(), max_steps=10)
    assert (history.steps, len(history.rows)) == (10, 3)
    assert not history.notes


def test_max_steps_beyond_the_epochs_is_said():
    history = run(small(), epochs=2, max_steps=10)
    assert history.steps == 8
    assert history.notes == ("max_steps=10 was not reached: epochs=2 have 8 steps",)


def test_max_minutes_ends_a_run_as_a_signal_does(tmp_path):
    def train(max_minutes):
        model = small()
        slow = [lambda event, state: event == "step" and time.sleep(0.02)]
        return model, run(model, epochs=3, max_minutes=max_minutes, checkpoint=tmp_path, callbacks=slow)

    _, first = train(0.0005)
    assert first.stopped == "max_minutes"
    assert 0 < first.steps < 12
    assert first.resume_hint.startswith(f"stopped by max_minutes at step {first.steps}; the same call goes on from ")
    resumed, history = train(5)
    whole = small()
    run(whole, epochs=3)
    assert history.steps == 12
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_a_dataset_without_a_length_is_trained_and_saved(tmp_path):
    class Endless(Dataset):
        data = points()

        def __getitem__(self, index):
            return self.data[index]

    loader = DataLoader(Endless(), batch_size=8, sampler=SubsetRandomSampler(range(16)))
    assert run(small(), None, loader, checkpoint=tmp_path, max_steps=1).steps == 1
    assert run(small(), None, loader, checkpoint=tmp_path).steps == 2


# --- validation on the way, and before


def test_validations_on_the_way_are_lines_of_the_log_and_change_no_bit(tmp_path):
    valid = DataLoader(points(seed=3), batch_size=8)

    def train(directory, **options):
        model = small()
        options = {"epochs": 2, "log_every": 100, "checkpoint": directory, "val_loader": valid, **options}
        return model, run(model, **options)

    model, history = train(None, validate_every=3)
    with torch.no_grad():
        right = F.cross_entropy(model(valid.dataset.tensors[0]), valid.dataset.tensors[1]).item()
    assert [line["step"] for line in history.log] == [3, 6]
    assert history.rows[-1]["val_loss"] == pytest.approx(right)
    plain, _ = train(None)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    for cut in range(1, 8):
        train(tmp_path / str(cut), validate_every=3, max_steps=cut)
        _, resumed = train(tmp_path / str(cut), validate_every=3)
        assert resumed.log == history.log


def test_what_is_wrong_in_a_validation_shows_before_the_first_step():
    events = []
    with pytest.raises(AttributeError):
        run(
            small(), val_loader=DataLoader(points(), batch_size=8), callbacks=[lambda event, state: events.append(event)],
            metrics={"faulty": lambda output, target: output.no_such_attribute},
        )  # fmt: skip
    assert not events


def test_a_metric_that_needs_more_rows_than_a_batch_is_tried_on_all():
    sizes = []

    def needs_all(output, target):
        sizes.append(len(output))
        if len(output) < 32:
            raise ValueError("only one class is there")
        return 1.0

    history = run(small(), val_loader=DataLoader(points(), batch_size=8), metrics={"area": needs_all})
    assert sizes == [8, 32, 32]
    assert history.rows[0]["area"] == 1.0


def test_the_batch_before_the_training_leaves_no_trace():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls, self.seen = nn.Linear(4, 3), 0, []
            self.register_buffer("total", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.seen.append(len(x))
            self.total += len(x)
            return self.linear(x) + torch.rand(())

    def train(**options):
        torch.manual_seed(0)
        model = Counting()
        run(model, val_loader=DataLoader(points(), batch_size=16), **options)
        return model

    first, second = train(sanity=True), train(sanity=False)
    assert (first.calls, first.seen, first.total) == (second.calls, second.seen, second.total)
    assert torch.equal(first.linear.weight, second.linear.weight)


# --- a model's own loss


class OwnLoss(nn.Module):
    """Takes a batch as keywords and returns its loss, as models of transformers do."""

    def __init__(self, loss_type=None):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.linear, self.loss_type = nn.Embedding(12, 6), nn.Linear(6, 12), loss_type

    def forward(self, ids, labels=None):
        logits = self.linear(self.embedding(ids))
        if labels is None:
            return {"logits": logits}
        shown, wanted = (logits[:, :-1], labels[:, 1:]) if self.loss_type == "ForCausalLM" else (logits, labels)
        loss = F.cross_entropy(shown.reshape(-1, 12), wanted.reshape(-1), ignore_index=-100)
        return {"loss": loss, "logits": logits}


def texts(dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(12, (10, 6), generator=generator)
    labels = ids.clone()
    for row in range(10):
        labels[row, 1 + row % 6 :] = -100
    return [{"ids": ids[row], "labels": labels[row]} for row in range(10)], ids, labels


@pytest.mark.parametrize("loss_type", [None, "ForCausalLM"])
@pytest.mark.parametrize(("size", "accumulate"), [(10, 1), (3, 4), (2, 5)])
def test_a_models_own_loss_makes_the_step_of_the_whole_batch(loss_type, size, accumulate):
    rows, ids, labels = texts()
    model = OwnLoss(loss_type).double()
    right = torch.autograd.grad(model(ids, labels)["loss"], list(model.parameters()))
    gradients = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            gradients.extend(p.grad.clone() for p in model.parameters())

    loader = DataLoader(rows, batch_size=size)
    history = run(model, Recording(model.parameters(), lr=0.1), loader, None, accumulate=accumulate)
    for gradient, wanted in zip(gradients, right, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-14)
    assert history.rows[0]["train_loss"] == pytest.approx(model(ids, labels)["loss"].item())


def test_metrics_of_a_models_own_loss_see_its_outputs_and_the_labels():
    rows, ids, labels = texts()
    model = OwnLoss()

    def accuracy(output, target):
        counts = target != -100
        return (output["logits"].argmax(-1) == target)[counts].double().mean()

    history = run(
        model, None, DataLoader(rows, batch_size=4), None, val_loader=DataLoader(rows, batch_size=3),
        metrics={"accuracy": accuracy},
    )  # fmt: skip
    with torch.no_grad():
        output = model(ids, labels)
    assert history.rows[0]["val_loss"] == pytest.approx(output["loss"].item(), rel=1e-5)
    assert history.rows[0]["accuracy"] == accuracy(output, labels).item()


def test_without_loss_fn_a_model_without_a_loss_is_refused():
    with pytest.raises(ValueError) as caught:
        run(OwnLoss(), None, [{"ids": torch.zeros(2, 3, dtype=torch.long)}], None)
    assert str(caught.value) == (
        "without loss_fn the model must return its loss, as `output.loss`, `output['loss']` or the one scalar of a tuple, got "
        "dict; pass loss_fn, give the model its labels as an input, or wrap it in a module that returns the loss"
    )


@pytest.mark.parametrize(
    "returned",
    [
        lambda logits, loss: (loss, logits),  # transformers
        lambda logits, loss: (logits, loss),  # nanoGPT
        lambda logits, loss: [logits, None, loss],
        lambda logits, loss: (loss.reshape(1), logits),  # DataParallel
        lambda logits, loss: loss,
    ],
)
def test_the_loss_in_a_tuple_is_its_scalar_wherever_it_stands(returned):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(4, 3)

        def forward(self, x, y):
            logits = self.linear(x)
            return returned(logits, nn.functional.cross_entropy(logits, y))

    model, x, y = Model(), torch.randn(8, 4), torch.randint(3, (8,))
    wanted = nn.functional.cross_entropy(model.linear(x), y).item()
    assert run(model, None, [(x, y)], None).rows[0]["train_loss"] == pytest.approx(wanted)


@pytest.mark.parametrize("returned", [lambda logits, loss: (logits, loss, loss), lambda logits, loss: (logits, logits)])
def test_a_tuple_that_does_not_say_which_is_the_loss_is_refused(returned):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x, y):
            logits = self.linear(x)
            return returned(logits, nn.functional.cross_entropy(logits, y))

    with pytest.raises(ValueError, match="the one scalar of a tuple, got tuple; pass loss_fn"):
        run(Model(), None, [(torch.randn(8, 4), torch.randint(3, (8,)))], None)


def test_a_key_of_the_batch_that_the_model_does_not_take_is_explained():
    batch = {
        "ids": torch.zeros(2, 3, dtype=torch.long),
        "labels": torch.zeros(2, 3, dtype=torch.long),
        "idx": torch.arange(2),
    }
    with pytest.raises(TypeError, match="idx") as caught:
        run(OwnLoss(), None, [batch], None)
    told = "the model was called with the keys of the batch: 'ids', 'labels', 'idx'; unpack= chooses among them"
    assert told in caught.value.__notes__


# --- metrics


class Streaming:
    """A metric that takes batch after batch."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.right = self.count = 0

    def update(self, output, target):
        self.right += (output.argmax(1) == target).sum().item()
        self.count += len(target)

    def compute(self):
        return self.right / self.count


def test_a_streaming_metric_is_given_each_batch_and_equals_the_one_on_all():
    model, whole = small(), {"plain": lambda output, target: (output.argmax(1) == target).double().mean()}
    report = lb.evaluate(model, DataLoader(points(), batch_size=5), {"streaming": Streaming(), **whole})
    assert report.metrics["streaming"] == pytest.approx(report.metrics["plain"])
    history = run(model, epochs=2, val_loader=DataLoader(points(), batch_size=5), metrics={"s": Streaming(), **whole})
    assert [row["s"] for row in history.rows] == pytest.approx([row["plain"] for row in history.rows])


@pytest.mark.parametrize("lengths", [(2, 3, 5, 4), (5, 1, 1, 2), (3, 3, 3, 3)])
def test_batches_of_several_lengths_are_padded_to_the_longest(lengths):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    samples = [(torch.randn(length, 4), torch.randint(3, (length,))) for length in lengths]

    def collate(rows):
        inputs, targets = zip(*rows, strict=True)
        pad = nn.utils.rnn.pad_sequence
        return pad(inputs, batch_first=True), pad(targets, batch_first=True, padding_value=-100)

    kept = {}

    def metric(output, target):
        kept.update(output=output, target=target)
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    report = lb.evaluate(model, DataLoader(samples, batch_size=2, collate_fn=collate), {"loss": metric})
    with torch.no_grad():
        right = F.cross_entropy(torch.cat([model(x) for x, _ in samples]), torch.cat([y for _, y in samples])).item()
    assert report.metrics["loss"] == pytest.approx(right)
    for row, length in enumerate(lengths):
        assert (kept["target"][row] != -100).sum() == length
        assert not kept["output"][row, :length].isnan().any()
    assert math.isfinite(report.metrics["loss"])


def test_the_first_step_of_a_long_epoch_makes_no_list_of_all_batches():
    class Long(Dataset):
        def __len__(self):
            return 500_000

        def __getitem__(self, index):
            return torch.zeros(4), 0

    loader = DataLoader(Long(), batch_size=8, shuffle=True)
    run(small(), None, loader, max_steps=1)  # imports what there is to import
    tracemalloc.start()
    try:
        assert run(small(), None, loader, max_steps=1).steps == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**21  # as Python numbers the indices alone take 18 MB
