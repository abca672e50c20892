"""The price of a step, of a save and of the first step of a long epoch; the gradient of each loop under accumulation."""

import contextlib
import functools
import io
import itertools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.harness import Row, median_seconds
from linkboy.training import Checkpointer, fit

BATCH = 32


def make_data(steps: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH * steps, 32, generator=generator)
    return TensorDataset(inputs, inputs[:, :1] + 0.1 * torch.randn(len(inputs), 1, generator=generator))


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))


Loop = Callable[[nn.Module, torch.optim.Optimizer, DataLoader], None]


def bare(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    loss_fn = nn.MSELoss()
    model.train()
    for inputs, target in loader:
        optimizer.zero_grad()
        loss_fn(model(inputs), target).backward()
        optimizer.step()


def ours(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    fit(model, nn.MSELoss(reduction="none"), optimizer, loader, seed=0, progress=False)


class MayDraw(TensorDataset):
    """The same rows; being no plain `TensorDataset`, they are fetched under random numbers of their own."""


def ours_keyed(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    ours(model, optimizer, DataLoader(MayDraw(*loader.dataset.tensors), batch_size=BATCH))


def with_accelerate(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    loss_fn = nn.MSELoss()
    for inputs, target in loader:
        with accelerator.accumulate(model):
            optimizer.zero_grad()
            accelerator.backward(loss_fn(model(inputs), target))
            optimizer.step()


def with_fabric(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    wrapped, prepared = fabric.setup(model, optimizer)
    batches = fabric.setup_dataloaders(loader)
    loss_fn = nn.MSELoss()
    for inputs, target in batches:
        prepared.zero_grad()
        fabric.backward(loss_fn(wrapped(inputs), target))
        prepared.step()


def with_skorch(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    from skorch import NeuralNet

    class Given(NeuralNet):  # the loader and the optimizer of the others, so that the work is the same
        def get_iterator(self, dataset: object, training: bool = False) -> DataLoader:
            return loader

        def initialize_optimizer(self, *arguments: object, **keywords: object) -> "Given":
            self.optimizer_ = optimizer
            return self

    net = Given(model, nn.MSELoss, max_epochs=1, train_split=None, verbose=0, device="cpu", compile=False)
    net.fit(loader.dataset, None)


def with_pytorch_accelerated(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    from pytorch_accelerated import Trainer

    class Given(Trainer):
        def create_train_dataloader(self, *arguments: object, **keywords: object) -> DataLoader:
            return loader

    trainer = Given(model=model, loss_func=nn.MSELoss(), optimizer=optimizer, callbacks=[])
    trainer.train(train_dataset=loader.dataset, num_epochs=1, per_device_batch_size=BATCH)


def with_hf_trainer(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    from transformers import Trainer, TrainingArguments

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            output = self.inner(inputs)
            return {"loss": nn.functional.mse_loss(output, labels), "logits": output}

    class Given(Trainer):
        def get_train_dataloader(self) -> DataLoader:
            return loader

    def collate(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        inputs, labels = torch.utils.data.default_collate(samples)
        return {"inputs": inputs, "labels": labels}

    loader = DataLoader(loader.dataset, batch_size=BATCH, collate_fn=collate)
    arguments = TrainingArguments(
        output_dir="/nonexistent", per_device_train_batch_size=BATCH, num_train_epochs=1, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, use_cpu=True, max_grad_norm=0.0, remove_unused_columns=False,
        lr_scheduler_type="constant",
    )  # fmt: skip
    Given(Wrapped(), arguments, train_dataset=loader.dataset, optimizers=(optimizer, None)).train()


PEERS: dict[str, Loop] = {
    "accelerate": with_accelerate,
    "lightning-fabric": with_fabric,
    "skorch": with_skorch,
    "pytorch-accelerated": with_pytorch_accelerated,
    "HF Trainer": with_hf_trainer,
}


def train(loop: Loop, data: TensorDataset) -> torch.Tensor:
    """Train a fresh model for one epoch; the order is that of the data set, so that all end with the same weights."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(data, batch_size=BATCH)
    with silent():
        loop(model, optimizer, loader)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@contextlib.contextmanager
def silent() -> Iterator[None]:
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def overhead(*, quick: bool) -> list[Row]:
    steps, rounds = (60, 3) if quick else (300, 25)
    data = make_data(steps)
    loops: dict[str, Loop] = {"bare loop": bare, "linkboy": ours, "linkboy, keyed": ours_keyed, **PEERS}
    weights = {name: train(loop, data) for name, loop in loops.items()}
    for name, final in weights.items():
        assert torch.allclose(final, weights["bare loop"], rtol=1e-5, atol=1e-6), f"{name} trained something else"
    # Starting and ending is not the price of a step, and the checks of the first eight steps have a row of their own: epochs of
    # one step and of nine are timed too, beside the long one.
    one_step, nine_steps = make_data(1), make_data(9)
    calls = {name: functools.partial(train, loop, data) for name, loop in loops.items()}
    calls |= {f"{name}, nine steps": functools.partial(train, loop, nine_steps) for name, loop in loops.items()}
    calls |= {f"{name}, one step": functools.partial(train, loops[name], one_step) for name in ("bare loop", "linkboy")}
    seconds = median_seconds(calls, rounds=rounds, clock=time.process_time)
    per_step = {name: (seconds[name] - seconds[f"{name}, nine steps"]) / (steps - 9) * 1e6 for name in loops}
    first, first_bare = (
        seconds[f"{name}, nine steps"] - seconds[f"{name}, one step"] for name in ("linkboy", "bare loop")
    )
    same = "weights after training equal to rtol 1e-5"
    extra = per_step["linkboy"] - per_step["bare loop"]
    rows = [
        Row(
            "CPU time of a step, MLP 32-64-1, batch 32",
            per_step["linkboy"],
            "bare loop",
            per_step["bare loop"],
            "us",
            same,
            "<= 1.25x",
        ),
        Row(
            "the same, generators seeded for each batch (any other data set)",
            per_step["linkboy, keyed"],
            "bare loop",
            per_step["bare loop"],
            "us",
            same,
            "<= 1.25x",
        ),
    ]
    rows += [
        Row(
            "CPU time of a step beyond the bare loop's, from the ninth on", extra, name,
            per_step[name] - per_step["bare loop"], "us", same, "<= 50 us",
        )
        for name in PEERS
    ]  # fmt: skip
    rows.append(
        Row("the eight steps before, with the checks in them", first * 1e6, "bare loop", first_bare * 1e6, "us", same)
    )
    return rows


def gradients() -> list[Row]:
    """Relative error of the first step's gradient against the full batch: micro-batches of 8, 8, 8 and 3."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(27, 4, generator=generator, dtype=torch.float64)
    target = torch.randn(27, 2, generator=generator, dtype=torch.float64)
    data, model = TensorDataset(inputs, target), nn.Linear(4, 2, dtype=torch.float64)
    expected = torch.autograd.grad(nn.functional.mse_loss(model(inputs), target), list(model.parameters()))

    def error(gradient: list[torch.Tensor]) -> float:
        got, right = (torch.cat([part.flatten() for part in parts]) for parts in (gradient, expected))
        return float((got - right).norm() / right.norm())

    class Recorder(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            self.kept = [p.grad.clone() for p in model.parameters() if p.grad is not None]

    def of_ours() -> float:
        optimizer = Recorder(model.parameters(), lr=0.0)
        loader = DataLoader(data, batch_size=8)
        fit(model, nn.MSELoss(reduction="none"), optimizer, loader, accumulate=4, progress=False)
        return error(optimizer.kept)

    def of_accelerate() -> float:
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
        optimizer = Recorder(model.parameters(), lr=0.0)
        prepared, wrapped, loader = accelerator.prepare(model, optimizer, DataLoader(data, batch_size=8))
        for x, y in loader:
            with accelerator.accumulate(prepared):
                accelerator.backward(nn.functional.mse_loss(prepared(x), y))
                wrapped.step()
        return error(optimizer.kept)

    mine, theirs = of_ours(), of_accelerate()
    assert mine <= 1e-12
    return [
        Row(
            "relative error of the gradient, micro-batches 8, 8, 8, 3",
            mine,
            "accelerate",
            theirs,
            "",
            "error against the full batch in float64",
            "<= 1e-12",
        )
    ]


def gradients_of_a_classifier() -> list[Row]:
    """The same for a model of transformers that returns the mean over the labels of its batch."""
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 50, (27, 6), generator=generator)
    rows = [{"input_ids": ids, "labels": label} for ids, label in zip(tokens, tokens.sum(1) % 3, strict=True)]

    def make() -> BertForSequenceClassification:
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return BertForSequenceClassification(config).double()

    class Recorder(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            parts = [p.grad.flatten() for p in self.param_groups[0]["params"] if p.grad is not None]
            self.kept = torch.cat(parts).clone()

    model = make()
    model(**torch.utils.data.default_collate(rows)).loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model = make()
    ours = Recorder(model.parameters(), lr=0.0)
    fit(model, None, ours, DataLoader(rows, batch_size=8), accumulate=4, progress=False, log=())

    class Given(Trainer):  # the rows in the order of the others, so that the work is the same
        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(rows, batch_size=8)

    model = make()
    theirs = Recorder(model.parameters(), lr=0.0)
    arguments = TrainingArguments(
        output_dir="/nonexistent", per_device_train_batch_size=8, gradient_accumulation_steps=4, num_train_epochs=1,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, max_grad_norm=0.0,
        lr_scheduler_type="constant",
    )  # fmt: skip
    with silent():
        Given(model, arguments, train_dataset=rows, optimizers=(theirs, None)).train()
    mine, other = (float((each.kept - expected).norm() / expected.norm()) for each in (ours, theirs))
    assert mine <= 1e-12
    what = "relative error of the gradient, micro-batches 8, 8, 8, 3, `BertForSequenceClassification`"
    return [Row(what, mine, "HF Trainer", other, "", "error against the full batch in float64", "<= 1e-12")]


def saving(*, quick: bool) -> list[Row]:
    """Seconds until 1.2 GB are safe on the disk; each save goes to a new name, and the one before is removed."""
    count, rounds = (1, 1) if quick else (100, 5)
    state = {f"weight{i}": torch.full((3_000_000,), float(i)) for i in range(count)}
    folder = Path(tempfile.mkdtemp())
    number = itertools.count(1)

    def ours() -> Path:
        shutil.rmtree(folder / "ours", ignore_errors=True)
        return Checkpointer(folder / "ours").save(state, step=next(number))

    def theirs() -> None:
        with (folder / "theirs.pt").open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    try:
        back = Checkpointer(folder / "ours").load(ours())
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
        del back
        seconds = median_seconds({"ours": ours, "theirs": theirs}, rounds=rounds)
    finally:
        shutil.rmtree(folder)
    what = f"save of {12 * count / 1000:.3g} GB, flushed to the disk"
    same = "what is loaded equals what was saved"
    return [Row(what, seconds["ours"], "torch.save and fsync", seconds["theirs"], "s", same, "<= 1.25x")]


class Many(Dataset):
    """As many samples as asked for, each made when it is fetched."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        value = torch.full((4,), index / self.count)
        return value, value[:1]


def first_step(name: str, count: int) -> None:
    """Make the first optimizer step of an epoch over `count` samples in a random order."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(Many(count), batch_size=BATCH, shuffle=True)
    if name == "ours":
        fit(model, nn.MSELoss(reduction="none"), optimizer, loader, max_steps=1, seed=0, progress=False)
    else:
        model.train()
        inputs, target = next(iter(loader))
        nn.MSELoss()(model(inputs), target).backward()
        optimizer.step()


def extra_memory(name: str, count: int) -> float:
    """Return by how many megabytes the first step raises the peak memory of a new process."""
    code = (
        "import torch; from benchmarks.bench_training import first_step; torch.set_num_threads(1)\n"
        "peak = lambda: int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])\n"
        f"first_step({name!r}, 1000); before = peak(); first_step({name!r}, {count}); print((peak() - before) / 1000)"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return float(done.stdout)


def first_steps(*, quick: bool) -> list[Row]:
    count, rounds = (50_000, 2) if quick else (5_000_000, 7)
    calls = {name: functools.partial(first_step, name, count) for name in ("ours", "bare")}
    seconds = median_seconds(calls, rounds=rounds, clock=time.process_time)
    what = f"first step of an epoch over {count / 1e6:g} million samples"
    return [
        Row(f"{what}, CPU time", seconds["ours"], "bare loop", seconds["bare"], "s", "not comparable", "<= 1.2x"),
        Row(f"{what}, memory", extra_memory("ours", count), "bare loop", extra_memory("bare", count), "MB",
            "not comparable", "<= 60 MB"),
    ]  # fmt: skip


def run(*, quick: bool) -> list[Row]:
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            *overhead(quick=quick),
            *gradients(),
            *gradients_of_a_classifier(),
            *saving(quick=quick),
            *first_steps(quick=quick),
        ]
    finally:
        torch.set_num_threads(threads)
