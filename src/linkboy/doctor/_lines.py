"""Remember at which lines of the program things were made, filled, cut, switched and emptied, for the places of a finding."""

import dis
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from linkboy._watch import _graph
from linkboy._watch._observer import held_tensors
from linkboy._watch._places import in_library, line_text, user_frame, user_line
from linkboy.doctor._part import Part

CUTS = ("detach", "numpy", "item", "tolist", "argmax", "__array__")
FILLS = ("normal_", "uniform_", "fill_", "zero_", "mul_")
MAKERS = ("tensor", "zeros", "ones", "full", "empty", "rand", "randn")
SQUASHERS = (nn.Softmax, nn.Sigmoid)
MOST_CUTS = 64  # tensors whose graph is walked when they leave it
EARLY_STEPS = 3


class Lines(Part):
    """Patches what makes modules and parameters, and what takes a tensor out of its graph."""

    def __init__(self, watcher: Any) -> None:
        super().__init__(watcher)
        self.cuts: dict[str, set[int]] = {}  # line: ids of the trained tensors below what was cut there
        self.without_gradient: dict[int, str] = {}  # by id of a module: where it ran without gradient inside a model
        self._made: dict[int, tuple[Any, str]] = {}
        self._filled: dict[int, str] = {}
        self._switched: dict[int, str] = {}
        self._loaders: dict[int, tuple[Any, str]] = {}
        self._squashers: list[tuple[Any, str]] = []
        self._switching = False
        self._codes: dict[Any, None] = {}

    def patch(self) -> None:
        """Patch them."""
        patches = self.patches
        for name in dir(nn.init):
            if name.endswith("_") and not name.startswith("_"):
                patches.wrap(nn.init, name, self._filling)
        for name in MAKERS:
            patches.wrap(torch, name, self._making)
        patches.wrap(Tensor, "requires_grad_", self._making)
        for name in FILLS:
            patches.wrap(Tensor, name, self._filling)
        for name in CUTS:
            patches.wrap(Tensor, name, self._cutting)
        patches.wrap(torch, "argmax", self._cutting)
        patches.wrap(nn.Module, "train", self._switch)
        for owner in (Optimizer, nn.Module):
            patches.wrap(owner, "zero_grad", self._emptying)
        patches.wrap(DataLoader, "__init__", self._loader_made)
        for handle in (
            register_module_parameter_registration_hook(self._parameter_registered),
            register_module_module_registration_hook(self._module_registered),
        ):
            self.watcher.at_end(handle.remove)

    # ------------------------------------------------------------------------------------------------------ made, filled
    def _parameter_registered(self, module: nn.Module, name: str, parameter: Any) -> None:
        if isinstance(parameter, Tensor) and not torch.compiler.is_compiling() and self.on():
            self._made[id(parameter)] = weakref.ref(parameter), user_line()

    def _making(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            if type(made) is Tensor and made.requires_grad and made.is_leaf and _early(self):
                self._made[id(made)] = weakref.ref(made), user_line()
            return made

        return make

    def name_tensors(self) -> None:
        """Call trained tensors that no model holds by the variables of the program that hold them."""
        frame = user_frame()
        while frame is not None:
            if not in_library(frame.f_code.co_filename):
                for name, value in [*frame.f_locals.items(), *frame.f_globals.items()]:
                    for tensor, place in () if name.startswith("_") else held_tensors(value, name):
                        self.observer.name_if_unnamed(tensor, place)
            frame = frame.f_back

    def _module_registered(self, module: nn.Module, name: str, child: Any) -> None:
        if isinstance(child, SQUASHERS) and self.on():
            self._squashers.append((weakref.ref(child), user_line()))

    def _filling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def fill(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(tensor, *args, **kwargs)
            if not self.record.steps and type(tensor) in (nn.Parameter, Tensor) and _early(self):
                self._filled[tensor.untyped_storage()._cdata] = user_line()
            return result

        return fill

    def place_of(self, tensor: Tensor) -> str:
        """Return the line that filled a tensor last before the first step, or that made it."""
        if tensor.layout is torch.strided and (line := self._filled.get(tensor.untyped_storage()._cdata)):
            return line
        return self.made_at(tensor)

    def made_at(self, tensor: Tensor) -> str:
        """Return the line at which a parameter was put into a module."""
        known = self._made.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else ""

    def squashers(self) -> dict[str, str]:
        """Return where the only softmax and the only sigmoid of the program were put into a module."""
        found: dict[str, list[str]] = {}
        for reference, line in self._squashers:
            if (module := reference()) is not None:
                found.setdefault(type(module).__name__.lower(), []).append(line)
        return {kind: lines[0] for kind, lines in found.items() if len(set(lines)) == 1}

    # --------------------------------------------------------------------------------------------------------------- cuts
    def _cutting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def cut(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            if type(tensor) is Tensor and tensor.grad_fn is not None and len(self.cuts) < MOST_CUTS and _early(self):
                with self.looking():
                    line = user_line()
                    if line and line not in self.cuts:
                        leaves = _graph.walk([tensor], deep=True).leaves.values()
                        self.cuts[line] = {self.observer.leaf_number(leaf) for leaf, _ in leaves}
            return original(tensor, *args, **kwargs)

        return cut

    def entered(self, module: nn.Module, stack: list[nn.Module]) -> None:
        """Note the code of a module, and whether it runs without gradient inside a model that was called with one."""
        code = getattr(getattr(type(module), "forward", None), "__code__", None)  # a scripted module's class has none
        if code is not None and not in_library(code.co_filename):
            self._codes[code] = None
        if len(stack) > 1 and not torch.is_grad_enabled() and id(module) not in self.without_gradient:
            self.without_gradient[id(module)] = user_line()

    # ------------------------------------------------------------------------------------------------------ modes, gradients
    def _switch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def train(module: nn.Module, mode: bool = True) -> Any:
            if self._switching or not self.on():
                return original(module, mode)
            if not mode:
                self._switched[id(module)] = user_line()
            self._switching = True
            try:
                return original(module, mode)
            finally:
                self._switching = False

        return train

    def switched_at(self, module: nn.Module) -> str:
        """Return where a model was put into eval mode last."""
        return self._switched.get(id(module), "")

    def _emptying(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def zero_grad(owner: Any, *args: Any, **kwargs: Any) -> Any:
            if self.on():
                for facts in self.record.optimizers:
                    if not facts.place_zero or (facts.since_step and not facts.wiped):
                        facts.place_zero = user_line()
            return original(owner, *args, **kwargs)

        return zero_grad

    # --------------------------------------------------------------------------------------------------------------- loaders
    def _loader_made(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __init__(loader: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(loader, *args, **kwargs)
            if self.on():
                self._loaders[id(loader)] = weakref.ref(loader), user_line()

        return __init__

    def loader_made_at(self, loader: Any) -> str:
        """Return where a loader was made."""
        known = self._loaders.get(id(loader))
        return known[1] if known is not None and known[0]() is loader else ""

    # --------------------------------------------------------------------------------------------------------------- code
    def see_code(self) -> None:
        """Keep the code that runs now, in which a misspelled attribute may be set."""
        frame = user_frame()
        while frame is not None:
            if not in_library(frame.f_code.co_filename):
                self._codes[frame.f_code] = None
            frame = frame.f_back

    def attribute_set_at(self, attribute: str) -> str:
        """Return the line that sets an attribute of some name, as the compiled code of the program has it."""
        for code in _all_codes(self._codes):
            for line, instruction in lines_of(code):
                if instruction.opname == "STORE_ATTR" and instruction.argval == attribute:
                    return line_text(code.co_filename, line)
        return ""


def _early(lines: Lines) -> bool:
    return not torch.compiler.is_compiling() and lines.record.steps < EARLY_STEPS and lines.on()


def _all_codes(codes: Iterable[Any]) -> Iterator[Any]:
    for code in codes:
        yield code
        yield from _all_codes(each for each in code.co_consts if isinstance(each, type(code)))


def lines_of(code: Any) -> Iterator[tuple[int, dis.Instruction]]:
    """Yield the instructions of some code, each with its line."""
    line = code.co_firstlineno
    starts = dict(dis.findlinestarts(code))
    for instruction in dis.get_instructions(code):
        line = starts.get(instruction.offset) or line
        yield line, instruction


# ------------------------------------------------------------------------------------------------------------- who holds
def holder(frame: FrameType | None, is_old: Callable[[Any], bool]) -> tuple[str, str]:
    """Return the variable of a program that holds the graphs of earlier steps, and the line that gives them to it.

    Args:
        frame: the frame that runs; its callers are looked at as well.
        is_old: whether a node of a graph is the root of an earlier step's.
    """
    while frame is not None:
        if not in_library(frame.f_code.co_filename):
            for name, value in [*frame.f_locals.items(), *frame.f_globals.items()]:
                if not name.startswith("_") and (found := _held_in(value, is_old)) is not None:
                    return name + found, _given_at(frame.f_code, name)
        frame = frame.f_back
    return "", ""


def _held_in(value: Any, is_old: Callable[[Any], bool], depth: int = 2) -> str | None:
    """Return the path inside a value to what holds several old graphs: empty for itself, `None` where nothing does."""
    if isinstance(value, Tensor):
        if value.grad_fn is None:
            return None
        nodes = _graph.walk([value], deep=True, most=4000).nodes
        return "" if sum(map(is_old, nodes)) >= 3 else None
    if isinstance(value, (list, tuple)):
        tensors = [each for each in value[-64:] if isinstance(each, Tensor) and each.grad_fn is not None]
        return "" if len(tensors) >= 4 else None
    if isinstance(value, dict):
        return next((f"[{key!r}]{found}" for key, each in list(value.items())[:64]
                     if (found := _held_in(each, is_old, 0)) is not None), None) if depth else None  # fmt: skip
    if depth and hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)) and not callable(value):
        for key, each in list(vars(value).items())[:64]:
            if (found := _held_in(each, is_old, 0)) is not None:
                return f".{key}{found}"
    return None


def _given_at(code: Any, name: str) -> str:
    """Return the line that stores into a variable what it held before, or calls a method of it with something."""
    loaded = stored = 0
    for line, instruction in lines_of(code):
        if instruction.argval != name:
            continue
        if instruction.opname.startswith("LOAD"):
            loaded = line
            stored = stored or (line if _method_follows(code, instruction.offset) else 0)
        elif instruction.opname.startswith("STORE") and line == loaded:
            return line_text(code.co_filename, line)
    return line_text(code.co_filename, stored) if stored else ""


def _method_follows(code: Any, offset: int) -> bool:
    following = next((each for each in dis.get_instructions(code) if each.offset > offset), None)
    return following is not None and following.opname in ("LOAD_METHOD", "LOAD_ATTR") and following.argval in (
        "append", "extend", "add", "update", "insert", "appendleft",
    )  # fmt: skip
