"""`fit`: the pieces put together around the loop."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from linkboy.memory import is_out_of_memory
from linkboy.training import batches, processes, streams
from linkboy.training.averaging import EarlyStopping
from linkboy.training.checkpoint import Checkpointer
from linkboy.training.data import training_source
from linkboy.training.evaluation import Evaluator, Metrics
from linkboy.training.history import History
from linkboy.training.loop import Loop
from linkboy.training.placement import placed
from linkboy.training.session import Session
from linkboy.training.settings import Callback, Settings
from linkboy.training.signals import StopSignals

OUT_OF_MEMORY = (
    "the batch does not fit: halve the loader's batch size and double accumulate, which gives the same gradients; "
    "linkboy.retry_on_oom does that around a function that makes model, loader and fit"
)


def fit(
    model: nn.Module,
    loss_fn: batches.Loss,
    optimizer: Optimizer,
    train_loader: Iterable[Any],
    *,
    val_loader: Iterable[Any] | None = None,
    metrics: Metrics | None = None,
    epochs: int = 1,
    max_steps: int | None = None,
    scheduler: LRScheduler | None = None,
    sample_weight: batches.SampleWeight | None = None,
    unpack: batches.Unpack | None = None,
    accumulate: int = 1,
    clip_grad_norm: float | None = None,
    precision: str = "fp32",
    ema: float | None = None,
    compile: bool = False,
    on_nan: str = "stop",
    early_stopping: EarlyStopping | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | os.PathLike[str] | Checkpointer | None = None,
    resume: str | os.PathLike[str] = "auto",
    log_every: int = 50,
    log: Sequence[str] = ("csv", "tensorboard"),
    seed: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> History:
    """Train a plain module with a plain optimizer on a plain loader, exactly, and resumably to the same bits.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from linkboy.training import fit
        >>> inputs = torch.randn(64, 3)
        >>> data = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> history = fit(model, nn.MSELoss(reduction="none"), optimizer, loader, epochs=20, seed=0, progress=False)
        >>> history.rows[-1]["train_loss"] < 0.01
        True
    """
    settings = Settings(
        loss_fn=loss_fn, metrics=metrics or {}, epochs=epochs, max_steps=max_steps, scheduler=scheduler,
        sample_weight=sample_weight, unpack=unpack, accumulate=accumulate, clip_grad_norm=clip_grad_norm,
        precision=precision, ema=ema, compile=compile, on_nan=on_nan, early_stopping=early_stopping,
        callbacks=tuple(callbacks), resume=resume, log_every=log_every, log=tuple(log), seed=seed, progress=progress,
    )  # fmt: skip
    settings.check(model, optimizer, validated=val_loader is not None)
    processes.join()
    drawn = seed if seed is not None else processes.broadcast(int(torch.randint(2**31, ()).item()))
    with contextlib.ExitStack() as stack:
        placement = stack.enter_context(placed(model, optimizer, device=device, precision=precision, training=True))
        stack.enter_context(_left_as_found(model, optimizer, placement.device))
        session = Session(settings, checkpoint, stack)
        session.find_checkpoint()
        session.settle_seed(drawn)
        streams.seed_everything(streams.mix(session.seed, processes.process_index()), placement.device)
        validation = None
        if val_loader is not None:
            validation = Evaluator(
                model, val_loader, settings.metrics, loss_fn=loss_fn, unpack=unpack, sample_weight=sample_weight,
                device=placement.device,
            )  # fmt: skip
        source = training_source(train_loader, session.seed)
        signals = stack.enter_context(StopSignals())
        loop = Loop(settings, model, optimizer, placement, source, validation, signals)
        session.begin(loop)
        try:
            loop.run(session)
        except Exception as error:
            if is_out_of_memory(error):
                error.add_note(OUT_OF_MEMORY)
            raise
        return session.finish(loop)


@contextlib.contextmanager
def _left_as_found(model: nn.Module, optimizer: Optimizer, device: torch.device) -> Iterator[None]:
    """Put modes and random streams back to what they were, and leave no gradient behind."""
    modes = [(module, module.training) for module in model.modules()]
    before = streams.capture(device)
    try:
        yield
    finally:
        streams.restore(before, device)
        for module, training in modes:
            module.training = training
        optimizer.zero_grad()
