"""Try again with half the batch when memory runs out."""

import concurrent.futures
import functools
import inspect
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from linkboy._checks import check_number
from linkboy._compat import available_accelerator
from linkboy._oom import is_out_of_memory
from linkboy.memory.release import release_memory
from linkboy.memory.report import RetryAttempt, RetryReport

Result = TypeVar("Result")

FINE, OUT_OF_MEMORY, OTHER_ERROR = 0, 1, 2
_NOT_RUN: dict[Callable[[Any], bool], str] = {
    inspect.isgeneratorfunction: "generator function",
    inspect.iscoroutinefunction: "coroutine function",
    inspect.isasyncgenfunction: "asynchronous generator function",
}


def retry_on_oom(
    fn: Callable[[int, int], Result], batch_size: int, *, accumulate: int = 1, minimum: int = 1
) -> RetryReport[Result]:
    """Call `fn(batch_size, accumulate)`, with half the batch and more accumulation whenever memory runs out.

    The effective batch `batch_size * accumulate` never shrinks. Before each new attempt everything of the failed one is
    released: its exception, the frames of its traceback with their tensors, and what the device caches kept. Nothing is
    remembered: the next call starts at the size it is given. With `torch.distributed` initialised, all processes
    agree after each attempt, so that they continue with the same sizes; each must pass the same numbers, and `fn` must
    not leave a collective half done when it fails.

    Args:
        fn: does the work; called with `(batch_size, accumulate)`. It must be safe to call again after a failure:
            no optimizer step before the last thing that may fail.
        batch_size: size of the first attempt.
        accumulate: accumulation steps of the first attempt.
        minimum: smallest batch size to try.

    Returns:
        A `RetryReport`: `.result`, `.batch_size`, `.accumulate`, `.effective_batch`, `.attempts`.

    Raises:
        TypeError: `fn` cannot be called with two numbers, or gives a generator, a coroutine, a `map` or a future, which have
            not run; or a size is not an integer.
        ValueError: a size is below 1, or `minimum` is above `batch_size`.
        Exception: memory runs out at `minimum` too: the exception of that attempt, with a note on all of them. Any
            other exception of `fn` passes through untouched.

    Examples:
        >>> def step(batch_size, accumulate):
        ...     if batch_size > 50:
        ...         raise MemoryError("no room")
        ...     return batch_size * accumulate
        >>> report = retry_on_oom(step, 100)
        >>> report.batch_size, report.accumulate, report.result, len(report.attempts)
        (50, 2, 100, 2)

    Differs from accelerate's `find_executable_batch_size`: halves (that takes 10 % off), keeps the effective batch,
    cleans after the exception is gone, forgets the reduced size, and reads `MemoryError`, cuBLAS and NCCL failures.
    """
    _check_runs_when_called(fn)
    check_number("batch_size", batch_size, minimum=1, integer=True)
    check_number("accumulate", accumulate, minimum=1, integer=True)
    check_number("minimum", minimum, minimum=1, integer=True)
    if minimum > batch_size:
        raise ValueError(f"minimum must be at most batch_size {batch_size}, got {minimum}")
    requested = batch_size * accumulate
    attempts: list[RetryAttempt] = []
    while True:
        start = time.perf_counter()
        result, failure = _attempt(fn, batch_size, accumulate, minimum, attempts)
        attempts.append(RetryAttempt(batch_size, accumulate, time.perf_counter() - start, failure))
        if not failure:
            sizes = (batch_size, accumulate, batch_size * accumulate, requested)
            return RetryReport(result, *sizes, tuple(attempts))  # type: ignore[arg-type]  # a result without failure
        del result
        release_memory(trim=False)
        batch_size = max(batch_size // 2, minimum)
        accumulate = -(-requested // batch_size)


def _check_runs_when_called(fn: object) -> None:
    if not callable(fn):
        raise TypeError(f"fn must be a function of (batch_size, accumulate), got {type(fn).__name__}")
    inner: object = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    for kind, what in _NOT_RUN.items():
        if kind(inner) or kind(vars(type(inner)).get("__call__")):
            raise TypeError(_not_run(what))
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return  # of a builtin, whose arguments are not known
    try:
        signature.bind(0, 0)
    except TypeError:
        raise TypeError(
            f"fn must be a function of (batch_size, accumulate), got one of {signature}; "
            "write lambda batch_size, accumulate: ..."
        ) from None


def _not_run(what: str) -> str:
    return f"fn must do its work when it is called, got a {what}, of which nothing has run; let fn itself go through it"


def _attempt(
    fn: Callable[[int, int], Result], batch_size: int, accumulate: int, minimum: int, before: list[RetryAttempt]
) -> tuple[Result | None, str]:
    """Call once; return the result, or the failure as text, with nothing left of the exception."""
    try:
        result = fn(batch_size, accumulate)
    except Exception as error:
        if not is_out_of_memory(error):
            _agree(OTHER_ERROR)
            raise
        verdict = _agree(OUT_OF_MEMORY)
        if batch_size <= minimum or verdict == OTHER_ERROR:
            error.add_note(_history(before, batch_size, accumulate))
            raise
        _clear_frames(error)
        return None, f"{type(error).__name__}: {_first_line(error)}"
    if inspect.isgenerator(result) or inspect.isawaitable(result) or inspect.isasyncgen(result):
        what = type(result).__name__.replace("_", " ")
        if inspect.isgenerator(result) or inspect.iscoroutine(result):
            result.close()  # a coroutine that was never awaited would warn
        raise TypeError(_not_run(what))
    if isinstance(result, (map, filter)):
        raise TypeError(_not_run(type(result).__name__))
    if isinstance(result, concurrent.futures.Future):
        raise TypeError(
            "fn must do its work when it is called, got a Future, whose work may still run; return its result()"
        )
    verdict = _agree(FINE)
    if verdict == OTHER_ERROR:
        raise RuntimeError("another process stopped with an error that is not out of memory; its own message says why")
    if verdict == OUT_OF_MEMORY and batch_size <= minimum:
        error = torch.OutOfMemoryError(f"another process ran out of memory at batch_size {batch_size}")
        error.add_note(_history(before, batch_size, accumulate))
        raise error
    return (result, "") if verdict == FINE else (None, "another process ran out of memory")


def _agree(outcome: int) -> int:
    """Return the worst outcome of all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return outcome
    on_device = dist.get_backend() in ("nccl", "xccl")
    device = available_accelerator() if on_device else torch.device("cpu")
    worst = torch.tensor(outcome, device=device)
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    return int(worst)


def _clear_frames(error: BaseException) -> None:
    """Drop the local variables that the tracebacks of an exception and of all it is chained to keep alive."""
    waiting, seen = [error], set[int]()
    while waiting:
        link = waiting.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        traceback.clear_frames(link.__traceback__)
        waiting += [other for other in (link.__context__, link.__cause__) if other is not None]


def _history(before: list[RetryAttempt], batch_size: int, accumulate: int) -> str:
    tried = [(attempt.batch_size, attempt.accumulate) for attempt in before] + [(batch_size, accumulate)]
    return "retry_on_oom ran out of memory at batch_size x accumulate = " + ", ".join(f"{b} x {a}" for b, a in tried)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
