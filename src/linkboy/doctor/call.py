"""`check_training`: train some steps on a model of one's own, say what is wrong, and put everything back."""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, IterableDataset

from linkboy import _random
from linkboy._calls import arguments_of
from linkboy._checks import check_number, describe
from linkboy._untouched import untouched
from linkboy.doctor._finish import check_words, finish
from linkboy.doctor._watcher import Watcher
from linkboy.doctor.report import TrainingCheck
from linkboy.training._batches import check_trains
from linkboy.training._objective import loss_of, no_loss
from linkboy.training._settings import needs_closure

Batches = Any


def check_training(
    model: nn.Module,
    loss_fn: Callable[..., Any] | None,
    optimizer: Optimizer,
    batches: Batches,
    *,
    val_batches: Batches | None = None,
    scheduler: Any = None,
    unpack: Callable[[Any], tuple[Any, Any]] | None = None,
    accumulate: int = 1,
    steps: int = 8,
    ignore: Iterable[str] = (),
) -> TrainingCheck:
    """Train some real steps, say what silently goes wrong, and put everything back.

    Weights, buffers, the state of the optimizer and the schedule, random streams, modes and attributes that `forward` changed
    are those from before, also if a step raises. The loop is a right one: what it can show are faults of the model, the loss,
    the optimizer and the data. `watch_training` and `linkboy doctor` watch a loop of one's own.

    Args:
        model: the model.
        loss_fn: a function of output and target, reduced or not; `None` where the model returns its loss.
        optimizer: the optimizer.
        batches: a loader, any iterable of batches, or one batch: an input and a target, or a mapping.
        val_batches: the same for validation, which is run in eval mode without gradient.
        scheduler: a schedule of the rate, stepped after each step.
        unpack: a function from a batch to input and target; by default the last entry is the target.
        accumulate: batches of a step, each loss divided by their number.
        steps: optimizer steps to train.
        ignore: words of findings that are left out, such as `"same-batch"`.

    Returns:
        A `TrainingCheck`, with `ok`, `findings` and the questions asked.

    Raises:
        TypeError: an argument is not what it must be.
        ValueError: a number or a word is not allowed, there is no batch, or the loss depends on no parameter that trains.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batch = torch.randn(16, 4), torch.randint(0, 3, (16,))
        >>> check = check_training(model, nn.CrossEntropyLoss(), optimizer, batch)
        >>> check.ok, [found.word for found in check.findings]
        (False, ['double-softmax'])
    """
    _check_arguments(model, loss_fn, optimizer, accumulate, steps)
    ignored = check_words("ignore", ignore)
    watcher = Watcher()
    with torch.enable_grad(), _put_back(model, loss_fn, optimizer, scheduler):
        watcher.start()
        try:
            _train(model, loss_fn, optimizer, batches, val_batches, scheduler, unpack, accumulate, steps)
        finally:
            watcher.stop()
        return finish(watcher, source="check_training", ignore=ignored)


def assert_training(
    model: nn.Module, loss_fn: Callable[..., Any] | None, optimizer: Optimizer, batches: Batches, **options: Any
) -> None:
    """Raise an `AssertionError` with the page of `check_training` if it is not `ok`.

    Args:
        model: as for `check_training`.
        loss_fn: as for `check_training`.
        optimizer: as for `check_training`.
        batches: as for `check_training`.
        options: the other arguments of `check_training`.

    Raises:
        AssertionError: something was found.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batch = torch.randn(16, 4), torch.randint(0, 3, (16,))
        >>> assert_training(model, nn.CrossEntropyLoss(), optimizer, batch)
    """
    check = check_training(model, loss_fn, optimizer, batches, **options)
    if not check.ok:
        raise AssertionError(str(check))


def _check_arguments(model: object, loss_fn: object, optimizer: object, accumulate: object, steps: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {describe(model)}")
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of output and target, or None, got {describe(loss_fn)}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {describe(optimizer)}")
    check_number("accumulate", accumulate, minimum=1, integer=True)
    check_number("steps", steps, minimum=1, integer=True)


def _train(
    model: nn.Module,
    loss_fn: Callable[..., Any] | None,
    optimizer: Optimizer,
    batches: Batches,
    val_batches: Batches | None,
    scheduler: Any,
    unpack: Callable[[Any], tuple[Any, Any]] | None,
    accumulate: int,
    steps: int,
) -> None:
    stream = _endless(batches)
    group: list[Any] = []

    def losses() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for batch in group:
            loss = _loss(model, loss_fn, batch, unpack)
            check_trains(loss)
            (loss / accumulate if accumulate > 1 else loss).backward()
            total = total + loss.detach().cpu()
        return total / accumulate

    for step in range(steps):
        model.train()
        group[:] = itertools.islice(stream, accumulate)
        if needs_closure(optimizer):
            optimizer.step(cast(Any, losses))  # torch's annotation wants a float
        else:
            losses()
            optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
        if val_batches is not None and step in (steps // 2, steps - 1):
            model.eval()
            with torch.no_grad():
                for _, batch in zip(range(4), _each(val_batches), strict=False):
                    _loss(model, loss_fn, batch, unpack)


def _loss(
    model: nn.Module, loss_fn: Callable[..., Any] | None, batch: Any, unpack: Callable[[Any], tuple[Any, Any]] | None
) -> Tensor:
    if loss_fn is None:
        output = arguments_of(batch, model, name="batches").call(model)
        loss = output if isinstance(output, Tensor) else loss_of(output)
        if loss is None:
            raise ValueError(no_loss(output))
        return loss.mean()
    inputs, target = unpack(batch) if unpack is not None else _split(batch)
    try:
        output = arguments_of(inputs, model, name="batches").call(model)
    except TypeError as error:
        if unpack is None and len(batch) > 2 and "argument" in str(error):
            error.add_note(
                f"a batch of {len(batch)} parts was taken for {len(batch) - 1} inputs and a target; pass unpack= otherwise"
            )
        raise
    loss = loss_fn(output, target)
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn must return a tensor, got {describe(loss)}; leave out .item()")
    return loss.mean()


def _split(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return (batch[0] if len(batch) == 2 else tuple(batch[:-1])), batch[-1]
    raise TypeError(
        f"a batch must be a tuple of inputs and a target, got {describe(batch)}; pass unpack=, a function that "
        "splits it"
    )


def _is_batch(batches: Any) -> bool:
    if isinstance(batches, Tensor):
        return True
    if isinstance(batches, (tuple, list)):
        return len(batches) >= 1 and (isinstance(batches[0], (Tensor, dict)) or hasattr(batches[0], "__array__"))
    return isinstance(batches, dict)


def _each(batches: Any) -> Iterator[Any]:
    if _is_batch(batches):
        return iter([batches])
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        raise TypeError(
            f"batches must be a loader, an iterable of batches or one batch, got {describe(batches)}, whose items are samples; "
            "pass DataLoader(it, batch_size=32, shuffle=True)"
        )
    try:
        return iter(batches)
    except TypeError:
        raise TypeError(
            f"batches must be a loader, an iterable of batches or one batch, got {describe(batches)}"
        ) from None


def _endless(batches: Any) -> Iterator[Any]:
    kept: list[Any] = []
    again = not _is_batch(batches) and iter(batches) is batches if hasattr(batches, "__iter__") else False
    while True:
        count = 0
        for batch in kept if again and kept else _each(batches):
            count += 1
            if again and len(kept) < 256:
                kept.append(batch)
            yield batch
        if count == 0:
            raise ValueError("batches must hold at least one batch, got none")


@contextlib.contextmanager
def _put_back(model: nn.Module, loss_fn: Any, optimizer: Optimizer, scheduler: Any) -> Iterator[None]:
    """Restore everything that training changes when the block ends."""
    modules = [each for each in (model, loss_fn) if isinstance(each, nn.Module)]
    tensors = {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}
    tensors |= {id(t): t for group in optimizer.param_groups for t in group["params"]}
    values = [(tensor, tensor.detach().clone(), tensor.grad) for tensor in tensors.values()]
    gradients = [None if grad is None else grad.detach().clone() for _, _, grad in values]
    state, groups = dict(optimizer.state), [dict(group) for group in optimizer.param_groups]
    slots = {key: copy.deepcopy(value) for key, value in state.items()}
    schedule = None if scheduler is None else copy.deepcopy(scheduler.state_dict())
    with _random.same_random_numbers(), contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(untouched(module))
        try:
            yield
        finally:
            with torch.no_grad():
                for (tensor, value, _), _grad in zip(values, gradients, strict=True):
                    tensor.copy_(value)
            for (tensor, _, grad), before in zip(values, gradients, strict=True):
                tensor.grad = grad
                if grad is not None and before is not None:
                    with torch.no_grad():
                        grad.copy_(before)
            optimizer.state.clear()
            optimizer.state.update(slots)
            if scheduler is not None:
                scheduler.load_state_dict(schedule)
            for group, before in zip(optimizer.param_groups, groups, strict=True):
                group.clear()
                group.update(before)
