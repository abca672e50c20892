"""`fit`: the pieces put together around the loop."""

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from linkboy import _random
from linkboy._oom import is_out_of_memory
from linkboy.training import _batches, _processes
from linkboy.training._checkpoint import Checkpointer
from linkboy.training._early_stopping import EarlyStopping
from linkboy.training._evaluate import Evaluator, Metrics
from linkboy.training._findings import OnFinding
from linkboy.training._logs import LogKind
from linkboy.training._loop import Loop
from linkboy.training._placement import Accelerator, Device, Precision, placed, same_modes
from linkboy.training._session import Session
from linkboy.training._settings import Callback, Settings, as_list
from linkboy.training._signals import StopSignals
from linkboy.training._sources import check_loader, mix, training_source
from linkboy.training.report import History

OUT_OF_MEMORY = (
    "the batch does not fit: halve the loader's batch size and double accumulate, which gives the same gradients; "
    "linkboy.retry_on_oom does that around a function that makes model, loader and fit"
)


def fit(
    model: nn.Module,
    loss_fn: _batches.Loss | None,
    optimizer: Optimizer,
    train_loader: Iterable[Any],
    *,
    val_loader: Iterable[Any] | None = None,
    metrics: Metrics | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    max_minutes: float | None = None,
    validate_every: int | None = None,
    sanity: bool = True,
    scheduler: LRScheduler | ReduceLROnPlateau | None = None,
    sample_weight: _batches.SampleWeight | None = None,
    unpack: _batches.Unpack | None = None,
    accumulate: int = 1,
    clip_grad_norm: float | None = None,
    precision: Precision | None = None,
    ema: float | None = None,
    compile: bool = False,
    on_nan: Literal["raise", "skip"] = "raise",
    on_finding: OnFinding = "warn",
    early_stopping: EarlyStopping | None = None,
    callbacks: Sequence[Callback] = (),
    state: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpointer | None = None,
    resume: Literal["auto", "never"] | str | os.PathLike[str] = "auto",
    log_every: int = 50,
    log: LogKind | Sequence[LogKind] = ("csv", "tensorboard"),
    seed: int | None = None,
    device: Device = None,
    accelerator: Accelerator | None = None,
    ddp: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> History:
    """Train a plain module with a plain optimizer on a plain loader: exact gradients, and a bit-identical resume.

    The gradient of a step is that of `sum(w * l) / sum(w)` over every loss element of every micro-batch of the step on every
    process. Neither `accumulate` nor the number of processes changes it, nor a short last group, nor unequal batches. Without
    weights every element counts 1. Started with `torchrun`, the same call trains on many processes: the samples of an epoch
    are divided among them, none is seen twice, only the main process prints and writes, and all return the same `History`.

    With `checkpoint`, a run that was stopped or killed resumes when the same call is made again, and its result is bit-identical
    to that of a run that was never stopped: weights, optimizer, scheduler, averages, random streams, history. SIGTERM and
    Ctrl-C end the run after the current step; it is saved, and `History.stopped` names the signal.

    Args:
        model: any module; it is in training mode during the call, except for modules that were in evaluation
            mode inside a model in training mode, such as a frozen BatchNorm. A model split by `fully_shard` (FSDP2) stays split.
        loss_fn: function of `(output, target)` that returns losses *not reduced*, one per sample or element
            (`reduction="none"`). It runs outside autocast, on outputs in float32. Labels that `nn.CrossEntropyLoss` or
            `nn.NLLLoss` ignores are left out of the mean, and class weights count in it, as in torch's own mean; its
            parameters, where it has some and the optimizer holds them, train and are saved with the model.
        optimizer: made from the model's parameters.
        train_loader: a `DataLoader`. It is rebuilt around its dataset, collate function and workers so that order and
            augmentation are functions of `(seed, process, epoch, batch)`; its batch size is that of one process. A dataset
            with `__getitems__` gets whole index lists. Anything else that can be iterated once per epoch works too, but
            resumes by fetching the batches it has seen again, and `History.exact` is `False`.
        val_loader: evaluated after each epoch, every sample once.
        metrics: name to function of `(output, target)` over all validation outputs at once, on the CPU.
        epochs: number of epochs in total: a run resumed after epoch 1 of 3 runs two more. `None` is 1, or with `max_steps` as
            many as these take.
        max_steps: number of steps in total; the run ends there even inside an epoch.
        max_minutes: minutes after which this call ends as at a signal: after the step under way, saved, to be resumed by the
            same call. The clock of the main process counts.
        validate_every: steps between two validations inside an epoch, whose figures are lines of `History.log`.
        sanity: whether to validate on one batch before anything is trained, so that what is wrong there shows at once. A
            metric that fails on it is tried on all batches, as it may need more rows.
        scheduler: a learning-rate scheduler, stepped once after each optimizer step on any number of processes; a
            `ReduceLROnPlateau` once after each epoch, with the figure that `early_stopping` names, else `val_loss`, else
            `train_loss`. One whose length fits the number of epochs gets a note.
        sample_weight: function of the batch that returns weights with the dimensions of the losses, each equal or 1.
        unpack: function of the batch that returns `(input, target)` or `(input, target, weight)`; `None` when the batch is
            that already. A tuple or list of inputs is passed as `model(*inputs)`, a mapping as `model(**inputs)`.
        accumulate: micro-batches per step.
        clip_grad_norm: largest norm of the gradient of a step, applied once to the normalised, unscaled gradient.
        precision: `"fp32"`, the default; `"bf16"` or `"fp16"` run the forward pass under autocast, fp16 with a loss scaler
            (GPU only).
        ema: decay of a running average of the weights, such as 0.999; validation and the model on return use the average.
        compile: whether to run the model through `torch.compile`.
        on_nan: what to do when a loss (on a CPU with `clip_grad_norm`, also a gradient) is not finite: `"raise"`, with
            step, samples and layer, or `"skip"`: leave the step out on all processes and count it. On a GPU `"raise"` looks
            every `log_every` steps and before each checkpoint, `"skip"` waits for the device in each step.
        on_finding: what to do about something that silently goes wrong, seen in the first eight steps: the words `unoptimized`,
            `unregistered`, `cut`, `unused`, `frozen-moved`, `double-softmax`, `double-sigmoid`, `raw-nll`, `broadcast`,
            `ignored-samples`, `nan` (with `on_nan="skip"`), `exploding`, `eval-in-training` and `unshuffled` of the doctor, and
            padding that the mean counts. `"warn"`, `"raise"` a `ValueError`, or `"off"`. They are in `History.findings`.
        early_stopping: an `EarlyStopping`, which decides when to stop and which weights to restore.
        callbacks: functions of `(event, state)`, called on every process. They may freeze, unfreeze and give the optimizer
            parameters, which counts from the next step and is restored by a resume. Events are `"step"`, `"log"`, `"epoch"` and
            `"checkpoint"`, the state is a `TrainingState`.
        state: name to any object with `state_dict` and `load_state_dict`, such as a sampler or a callback of your own: saved
            and restored with the run.
        checkpoint: a directory, saved to after the last step of each epoch and before its validation, or a `Checkpointer`.
            The end of a run is always saved.
        resume: `"auto"` continues from the newest whole checkpoint if there is one; `"never"` refuses a directory that has
            some; a path names a checkpoint or a directory of them.
        log_every: steps between two log lines.
        log: `"csv"`, `"tensorboard"` or both, to be written into the checkpoint directory; nothing is written without a
            checkpoint.
        seed: seeds order, augmentation and dropout; `None` draws one. The caller's random streams are not changed.
        device: `None` for the accelerator of this process (`LOCAL_RANK` under `torchrun`), else the CPU. The model
            returns to the device that it came from.
        accelerator: an `accelerate.Accelerator` of your own, which then decides device and precision and wraps the model;
            plain data parallelism only. Without one linkboy makes none.
        ddp: options of torch's `DistributedDataParallel`, on several processes. Without them parameters that take no part in
            the first step are found, and `find_unused_parameters` is set where there are some.
        progress: whether to show a bar and a line per epoch, on standard error.

    Returns:
        A `History`, the same on every process.

    Raises:
        FloatingPointError: a loss, a gradient or a parameter is not finite.
        OSError: a checkpoint could not be written; the earlier ones are untouched.
        BlockingIOError: another run is writing to the checkpoint directory.
        TypeError: an argument is of the wrong type.
        ValueError: an argument does not fit another, a batch or loss has the wrong form, or the checkpoint is damaged or
            belongs to another run.

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

    Differs from accelerate's loop, whose `accumulate` divides by the number of micro-batches, so that unequal batches, a short
    last group and weights give another gradient, and whose saved state does not restore the same samples and dropout.
    """
    if epochs is None:
        epochs = 1 if max_steps is None else sys.maxsize
    settings = Settings(
        loss_fn=loss_fn, metrics={} if metrics is None else metrics, epochs=epochs, max_steps=max_steps,
        max_minutes=max_minutes, validate_every=validate_every, sanity=sanity, ddp={} if ddp is None else ddp,
        scheduler=scheduler, sample_weight=sample_weight, unpack=unpack, accumulate=accumulate, clip_grad_norm=clip_grad_norm,
        ema=ema, compile=compile, on_nan=on_nan, on_finding=on_finding, early_stopping=early_stopping,
        callbacks=as_list("callbacks", "functions", callbacks), state=state or {}, resume=resume, log_every=log_every,
        log=(log,) if isinstance(log, str) else as_list("log", "names", log), seed=seed, progress=progress,
    )  # fmt: skip
    settings.check(model, optimizer, validated=val_loader is not None)
    _processes.join()
    drawn = seed if seed is not None else _processes.broadcast(int(torch.randint(2**31, ()).item()))
    with contextlib.ExitStack() as stack:
        placement = stack.enter_context(
            placed(
                model, optimizer, device=device, precision=precision, accelerator=accelerator, loss_fn=loss_fn, ddp=ddp
            )
        )
        stack.callback(optimizer.zero_grad)  # leave no gradient behind
        stack.enter_context(same_modes(model))
        stack.enter_context(_random.same_random_numbers())
        session = Session(settings, checkpoint, stack)
        session.find_checkpoint()
        session.settle_seed(drawn)
        _random.seed(mix(session.seed, _processes.process_index()), placement.device)
        validation = None
        if val_loader is not None:
            check_loader("val_loader", val_loader, passes=True)
            validation = Evaluator(
                placement, val_loader, settings.metrics, loss_fn=loss_fn, unpack=unpack, sample_weight=sample_weight,
                by_model=loss_fn is None, argument="val_loader",
            )  # fmt: skip
        source = training_source(train_loader, session.seed)
        signals = stack.enter_context(StopSignals())
        loop = Loop(settings, optimizer, placement, source, validation, signals)
        session.begin(loop)
        try:
            loop.rehearse()
            loop.run(session)
        except Exception as error:
            if is_out_of_memory(error):
                error.add_note(OUT_OF_MEMORY)
            if _processes.peer_is_gone(error):
                error.add_note("another process has ended; its own error is the first")
            raise
        return session.finish(loop)
