"""Remember a model, its optimizer and its configs by reference, and put all of it back."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer

from linkboy._untouched import remember


class Snapshot:
    """The state of objects at one moment, without a copy of any weight.

    Edits change structure, so giving back references gives back the bits. Attributes are kept with the contents of
    the dicts, lists and sets among them, one level deep, and those containers stay the same objects. A tensor whose
    data an edit replaces must be announced with `keep_data`.

    Args:
        model: every module below it is remembered.
        optimizer: its groups and its state, by reference.
        objects: more objects with a `__dict__`, such as configs.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None = None, objects: Iterable[object] = ()) -> None:
        self._undo: list[Callable[[], None]] = []
        self._known: set[int] = set()
        self._kept: list[object] = []  # alive for as long as their ids are in use
        for module in model.modules():
            self.keep(module)
        for thing in objects:
            self.keep(thing)
        if optimizer is not None:
            self._undo.append(_optimizer_state(optimizer))

    def keep(self, thing: object) -> None:
        """Remember the attributes of one more object, once."""
        if id(thing) not in self._known and not isinstance(thing, torch.jit.ScriptModule):
            self._known.add(id(thing))
            self._kept.append(thing)
            self._undo.append(remember(thing))

    def keep_data(self, module: nn.Module) -> None:
        """Remember attributes and the data behind the tensors of a module that is about to be cast or moved."""
        for part in module.modules():
            self.keep(part)
        for tensor in [*module.parameters(), *module.buffers()]:
            if not nn.parameter.is_lazy(tensor):
                self._undo.append(_data(tensor))

    def restore(self) -> None:
        """Put everything back; an interrupt on the way is delivered once that is done."""
        try:
            self._restore()
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        for undo in reversed(self._undo):
            undo()


def _data(tensor: torch.Tensor) -> Callable[[], None]:
    data, gradient = tensor.data, tensor.grad

    def undo() -> None:
        if tensor.data_ptr() != data.data_ptr() or tensor.dtype != data.dtype or tensor.device != data.device:
            tensor.data = data
            tensor.grad = gradient

    return undo


def _optimizer_state(optimizer: Optimizer) -> Callable[[], None]:
    groups = [(group, dict(group)) for group in optimizer.param_groups]
    lists = [(value, list(value)) for group, _ in groups for value in group.values() if isinstance(value, list)]
    state = [(tensor, entry, dict(entry)) for tensor, entry in optimizer.state.items()]
    rest = {key: value for key, value in optimizer.__dict__.items() if key not in ("param_groups", "state")}

    def undo() -> None:
        optimizer.param_groups[:] = [group for group, _ in groups]
        for group, before in groups:
            group.clear()
            group.update(before)
        for values, before in lists:
            values[:] = before
        optimizer.state.clear()
        for tensor, entry, before in state:
            entry.clear()
            entry.update(before)
            optimizer.state[tensor] = entry
        optimizer.__dict__.update(rest)

    return undo
