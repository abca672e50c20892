"""The processes that train together: which one this is, and the few values they exchange.

`torchrun` starts the processes and gives each its index in environment variables; without it there is one process and every
function here is trivial. Numbers travel over gloo, so that asking for them never waits for a GPU.
"""

import atexit
import contextlib
import datetime
import functools
import os
import sys
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from linkboy._compat import available_accelerator

T = TypeVar("T")

_LONGEST_WAIT = datetime.timedelta(seconds=20)


def process_index() -> int:
    """Return the index of this process among those that train together, 0 for the first or only one.

    Before a process group exists, the environment that `torchrun` sets tells it.

    Examples:
        >>> from linkboy.training import process_index
        >>> process_index()
        0
    """
    return dist.get_rank() if _joined() else int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Return the number of processes that train together.

    Examples:
        >>> from linkboy.training import process_count
        >>> process_count()
        1
    """
    return dist.get_world_size() if _joined() else int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process is the one that prints and writes.

    Examples:
        >>> from linkboy.training import is_main_process
        >>> if is_main_process():
        ...     print("written once, however many processes train")
        written once, however many processes train
    """
    return process_index() == 0


def wait_for_everyone() -> None:
    """Wait until every process has reached this call; a single process goes on at once.

    Examples:
        >>> from linkboy.training import wait_for_everyone
        >>> wait_for_everyone()
    """
    join()
    if _joined():
        dist.barrier()


def join() -> None:
    """Join the group that `torchrun` announced, once; that group, or one that is open already, is left at exit."""
    if not _joined():
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
            return
        on_gpu = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    _leave_at_exit()


def broadcast(value: T) -> T:
    """Return process 0's `value` on every process."""
    if process_count() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """Return the `value` of every process, in their order."""
    if process_count() == 1:
        return [value]
    values: list[Any] = [None] * process_count()
    dist.all_gather_object(values, value)
    return values


def add_up(*numbers: float) -> list[float]:
    """Return the sums of `numbers` over all processes, in float64."""
    if process_count() == 1:
        return list(numbers)
    vector = torch.tensor(numbers, dtype=torch.float64, device=_message_device())
    dist.all_reduce(vector)
    return vector.tolist()


def peer_is_gone(error: BaseException) -> bool:
    """Return whether an error says that another process has ended, so that its own error is the one to read."""
    lost = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Connection refused",
        "NCCL communicator was aborted",
    )
    return process_count() > 1 and isinstance(error, RuntimeError) and any(text in str(error) for text in lost)


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _message_device() -> torch.device:
    # A group that the user opened for nccl alone cannot carry host memory.
    if "gloo" in str(dist.get_backend_config()):
        return torch.device("cpu")
    return available_accelerator() or torch.device("cpu")


@functools.cache
def _leave_at_exit() -> None:
    atexit.register(_leave)


def _leave() -> None:
    """Destroy the group, as one that is still open at exit can abort the process.

    A process that leaves while another still talks to it would abort that one: so they wait for each other, but not where
    this one failed, and not for long where another did.
    """
    if not _joined():
        return
    if getattr(sys, "last_value", None) is None:  # set by an exception that nobody caught
        with contextlib.suppress(RuntimeError):
            if (waiting := dist.barrier(async_op=True)) is not None:
                waiting.wait(_LONGEST_WAIT)
    dist.destroy_process_group()
