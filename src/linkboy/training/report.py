"""What training, evaluating, saving and a learning-rate test return."""

import csv
import dataclasses
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from linkboy._files import atomic_write
from linkboy._report import Block, Report, Table, format_bytes, format_count, format_seconds, plural
from linkboy._watch import FIT, TrainingFinding


@dataclasses.dataclass(frozen=True)
class Evaluation(Report):
    """Loss and metrics over every sample, each counted once.

    Attributes:
        sample_count: samples evaluated, over all processes.
        loss: `sum(w * l) / sum(w)`; `None` without a loss function.
        metrics: value of each metric on all outputs together.

    Examples:
        >>> from linkboy.training import Evaluation
        >>> print(Evaluation(sample_count=3, loss=0.5, metrics={"accuracy": 1.0}))
        3 samples
        <BLANKLINE>
        loss      0.5
        accuracy    1
    """

    sample_count: int
    loss: float | None
    metrics: dict[str, float]

    def _blocks(self) -> Iterable[Block]:
        yield plural(self.sample_count, "sample")
        loss = {} if self.loss is None else {"loss": self.loss}
        yield Table(("", ""), list({**loss, **self.metrics}.items()))


@dataclasses.dataclass(frozen=True)
class History(Report):
    """What `fit` did: the same on every process, and after a resume the same as if the run had never stopped.

    Only `seconds`, `examples_per_second`, `resumed_from`, `checkpoint` and `notes` depend on this machine and this start.

    Attributes:
        steps: groups of `accumulate` micro-batches done since the very first start, skipped ones included.
        epochs: epochs finished.
        skipped_steps: groups that made no step: weight 0, not finite with `on_nan="skip"`, or refused by the fp16 scaler.
        rows: one dict per epoch: epoch, step, train_loss, val_loss, each metric, lr, seconds, examples_per_second.
        log: one dict per `log_every` steps: step, epoch, loss (over the steps since the line before), lr, grad_norm (of that
            step, before it was clipped; `None` where it made no step). Validations inside an epoch have lines of their own:
            step, epoch, val_loss, each metric.
        stopped: `None` for a run that reached its end, else `"SIGINT"`, `"SIGTERM"`, `"max_minutes"`, `"early stopping"` or
            `"callback"`.
        best_epoch: epoch with the best value of the metric that `early_stopping` names.
        best_value: best value of that metric.
        seed: the seed given or drawn; a new run with it repeats this one.
        process_count: number of processes that trained together.
        device: where the model ran.
        precision: `"fp32"`, `"bf16"` or `"fp16"`.
        exact: whether a resumed run is bit-identical to one that was never stopped.
        exact_reason: why it is not, empty where `exact` is true.
        resumed_from: path of the checkpoint that this start resumed from.
        checkpoint: path of the last checkpoint saved or resumed from.
        notes: what else a reader should know, a sentence each.
        findings: what silently goes wrong in the first steps, a `TrainingFinding` each, as `on_finding` says.
        versions: versions of Python, torch, accelerate and linkboy.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from linkboy.training import fit
        >>> model = nn.Linear(2, 1)
        >>> data = torch.utils.data.TensorDataset(torch.randn(8, 2), torch.randn(8, 1))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=4)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> history = fit(model, nn.MSELoss(reduction="none"), optimizer, loader, epochs=3, progress=False)
        >>> history.steps, [row["epoch"] for row in history.rows]
        (6, [1, 2, 3])
    """

    steps: int
    epochs: int
    skipped_steps: int
    rows: tuple[dict[str, Any], ...]
    log: tuple[dict[str, Any], ...]
    stopped: str | None
    best_epoch: int | None
    best_value: float | None
    seed: int
    process_count: int
    device: str
    precision: str
    exact: bool
    exact_reason: str
    resumed_from: str | None
    checkpoint: str | None
    notes: tuple[str, ...]
    findings: tuple[TrainingFinding, ...]
    versions: dict[str, str]

    @property
    def resume_hint(self) -> str:
        """One sentence on how to resume, empty for a run that reached its end."""
        if self.stopped not in ("SIGINT", "SIGTERM", "max_minutes"):
            return ""
        if self.checkpoint is None:
            return f"stopped by {self.stopped} at step {self.steps}; nothing was saved, because no checkpoint was asked for"
        return f"stopped by {self.stopped} at step {self.steps}; the same call goes on from {self.checkpoint}"

    @property
    def looked_at(self) -> str:
        """One sentence on what silently goes wrong in the first steps of the training loop."""
        found = "; ".join(finding.sentence for finding in self.findings)
        return f"in the first steps {found or f'none of the {len(FIT)} faults of a training loop that fit looks for was seen'}"

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as a CSV file, wholly or not at all."""
        with atomic_write(path) as file:
            file.write(rows_as_csv(self.rows).encode())

    def _blocks(self) -> Iterable[Block]:
        ending = f"stopped by {self.stopped}" if self.stopped else "finished"
        skipped = f", {format_count(self.skipped_steps)} skipped" if self.skipped_steps else ""
        yield (
            f"{ending} after {plural(self.steps, 'step')}{skipped}, {plural(self.epochs, 'epoch')}; seed {self.seed}, "
            f"{self.precision} on {self.process_count} x {self.device}"
        )
        if self.rows:
            columns = columns_of(self.rows)
            show = {"seconds": format_seconds, "examples_per_second": _rounded}
            cells = [[show.get(name, _same)(row[name]) if name in row else "" for name in columns] for row in self.rows]
            yield Table([name.replace("_", " ") for name in columns], cells)
        if self.best_epoch is not None and self.best_value is not None:
            yield f"best epoch {self.best_epoch}: {self.best_value:.6g}"
        yield "\n".join(filter(None, (self.resume_hint, *self.notes, *(finding.sentence for finding in self.findings))))


@dataclasses.dataclass(frozen=True)
class LearningRates(Report):
    """The loss at each rate tried.

    Attributes:
        suggestion: the rate in the middle of the longest fall of the smoothed loss; `None` where it never fell.
        diverged_at: the rate at which the test ended because the loss rose or was not finite; `None` for a complete test.
        rates: learning rates, one per step.
        losses: loss of the batch at each rate, before the step.
        smoothed: running mean of the losses, with the bias correction of Adam.

    Examples:
        >>> from linkboy.training import LearningRates
        >>> print(LearningRates(0.1, None, (0.01, 0.1), (2.0, 1.0), (2.0, 1.5)))
        suggested learning rate 0.1
        <BLANKLINE>
        rate  loss  smoothed
        0.01     2         2
         0.1     1       1.5
    """

    suggestion: float | None
    diverged_at: float | None
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]

    def _blocks(self) -> Iterable[Block]:
        found = (
            "no learning rate lowered the loss"
            if self.suggestion is None
            else f"suggested learning rate {self.suggestion:.3g}"
        )
        yield found + (f"; the loss rose from {self.diverged_at:.3g} on" if self.diverged_at is not None else "")
        every = max(1, len(self.rates) // 20)
        yield Table(
            ("rate", "loss", "smoothed"), list(zip(self.rates, self.losses, self.smoothed, strict=True))[::every]
        )


@dataclasses.dataclass(frozen=True)
class CheckpointReport(Report):
    """What the manifest of a checkpoint lists, and whether the files agree with it.

    Attributes:
        path: directory of the checkpoint.
        ok: whether every file is there with the size and the SHA-256 that the manifest lists.
        notes: what is wrong, empty for a whole checkpoint.
        step: optimizer steps done when it was saved; -1 where the manifest cannot be read, as for the fields below.
        process_count: number of processes that saved it.
        file_count: number of files listed.
        nbytes: bytes of these files together.
        exact: whether a run that continues from here is bit-identical to one that was never stopped.
        exact_reason: why it does not, empty where `exact` is true.

    Examples:
        >>> from linkboy.training import Checkpointer
        >>> report = Checkpointer("run").verify("run/step-40")
        >>> report.ok, report.notes
        (False, ('there is no such directory',))
    """

    path: str
    ok: bool
    notes: tuple[str, ...]
    step: int
    process_count: int
    file_count: int
    nbytes: int
    exact: bool
    exact_reason: str


@dataclasses.dataclass(frozen=True)
class CheckpointContents(Report):
    """What a directory of checkpoints holds, without its tensors.

    Attributes:
        path: the directory, or the one checkpoint.
        ok: whether every checkpoint in it is whole.
        notes: what is wrong or worth knowing, a sentence each.
        rows: a `CheckpointReport` for each checkpoint, oldest first.
        best: path of the checkpoint that `keep_best` keeps, if there is one.
        seed: the seed of the run; this field and those below are of the newest whole checkpoint that `fit` saved, else `None`.
        epochs: epochs finished; a checkpoint at the end of an epoch is saved before its validation, and does not count it.
        optimizer: class of the optimizer.
        recipe: what the run was asked to do: loss, clipping, groups of the optimizer.
        figures: the last epoch's row.
        parameter_count: numbers in the tensors of the model, those of this process where FSDP2 split it.
        trainable_count: numbers in the parameters that train.

    Examples:
        >>> import tempfile, torch
        >>> from linkboy.training import Checkpointer
        >>> checkpointer = Checkpointer(tempfile.mkdtemp())
        >>> _ = checkpointer.save({"weight": torch.ones(2)}, step=40)
        >>> contents = checkpointer.contents()
        >>> contents.ok, [row.step for row in contents.rows], contents.seed
        (True, [40], None)
    """

    path: str
    ok: bool
    notes: tuple[str, ...]
    rows: tuple[CheckpointReport, ...]
    best: str | None
    seed: int | None
    epochs: int | None
    optimizer: str | None
    recipe: dict[str, Any]
    figures: dict[str, Any]
    parameter_count: int | None
    trainable_count: int | None

    def _blocks(self) -> Iterable[Block]:
        cells = [
            [
                Path(row.path).name,
                format_bytes(row.nbytes) if row.nbytes else "",
                row.process_count or "",
                "whole" if row.ok else "damaged",
                "exact" if row.exact else row.exact_reason or "; ".join(row.notes),
            ]
            for row in self.rows
        ]
        yield Table(("checkpoint", "size", "processes", "", "resume"), cells, title=self.path)
        if self.seed is not None:
            known = {
                "seed": self.seed,
                "step": next((row.step for row in reversed(self.rows) if row.ok), None),
                "epochs finished": self.epochs,
                "optimizer": self.optimizer,
                "parameters": format_count(self.parameter_count or 0),
                "of these train": format_count(self.trainable_count or 0),
                **{name: value for name, value in self.recipe.items() if name != "groups" and value not in (None, {})},
                **{
                    f"{name} of epoch {self.figures.get('epoch')}": value
                    for name, value in self.figures.items()
                    if name != "epoch" and value is not None
                },
            }
            yield Table(("", ""), [[name, value] for name, value in known.items()])
        yield "\n".join(self.notes)


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys of all rows in the order of their first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def rows_as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as CSV text; a key that a row lacks is an empty cell."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def epoch_line(row: Mapping[str, Any], epochs: int | None) -> str:
    """Write an epoch's row as the line that is printed when the epoch ends.

    Examples:
        >>> row = {"epoch": 1, "step": 176, "train_loss": 1.352, "accuracy": 0.9, "lr": 0.084112}
        >>> epoch_line({**row, "seconds": 2.996, "examples_per_second": 15019.6}, 5)
        'epoch 1/5  step 176  train_loss 1.3520  accuracy 0.9000  lr 0.0841  3.0 s  15,020 examples/s'
    """
    figures = {
        name: f"{name} none" if value is None else f"{name} {value:.4f}"
        for name, value in row.items()
        if name not in ("epoch", "step")
    }
    if row["lr"] is not None:
        figures["lr"] = f"lr {row['lr']:.3g}"
    figures["seconds"] = format_seconds(row["seconds"])
    figures["examples_per_second"] = f"{_rounded(row['examples_per_second'])} examples/s"
    total = "" if epochs is None else f"/{epochs}"
    return "  ".join([f"epoch {row['epoch']}{total}", f"step {row['step']}", *figures.values()])


def _rounded(rate: float) -> str:
    return format_count(round(rate))


def _same(value: Any) -> Any:
    return value
