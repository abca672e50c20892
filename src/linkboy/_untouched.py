"""Run a model and leave it, and the random generators, as they were."""

import contextlib
import random
import sys
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Give every module its attributes back when the block ends: flags, hooks, tensors, what `forward` hung on it.

    Attributes, not their contents: a buffer that was written in place is not restored, so run on copies of buffers.

    Examples:
        >>> model = nn.Dropout()
        >>> with untouched(model):
        ...     _ = model.eval()
        >>> model.training
        True
    """
    before = []
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            tables = {k: dict(v) for k, v in module.__dict__.items() if k.startswith("_") and isinstance(v, dict)}
            before.append((module, type(module), dict(module.__dict__), tables))
    try:
        yield
    finally:
        for module, kind, attributes, tables in before:
            if type(module) is not kind:
                module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for key, table in tables.items():
                held = module.__dict__[key]
                if list(map(id, held.values())) != list(map(id, table.values())) or list(held) != list(table):
                    held.clear()
                    held.update(table)


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """Give the random generators of torch, Python and NumPy their state back when the block ends.

    Examples:
        >>> with same_random_numbers():
        ...     first = torch.rand(1)
        >>> torch.equal(torch.rand(1), first)
        True
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    numpy = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
