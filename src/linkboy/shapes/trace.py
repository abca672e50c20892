"""Record every shape step of the code in a block, with its place in the source."""

import contextlib
import inspect
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from linkboy._checks import check_choice
from linkboy._report import format_bytes
from linkboy.shapes._calls import Call, CallMode, Place, Shape, is_view_of, shape_of, shapes_of
from linkboy.shapes._rows import Kind, Step, plain_shapes
from linkboy.shapes.hazards import Hazard, failed_for_strides, failure_note, is_reshaping, judge, may_matter
from linkboy.shapes.report import ShapeTrace

_NOTE = "linkboy: "  # how a note on an exception begins, so that nested traces give it once
_UNSEEN = {
    "backward": "backward() ran: its steps are not calls that you wrote, so they are not in the trace",
    "multi_head_attention_forward": (
        "multi_head_attention_forward is one row: the calls inside it are not seen (deep=True shows them)"
    ),
}  # fmt: skip
_NOTHING_SEEN = (
    "no calls were seen: the tracer does not see calls inside torch.jit.script, in other threads or in compiled graphs"
)


@contextlib.contextmanager
def trace_shapes(
    *,
    hazards: Literal["warn", "raise", "collect"] = "warn",
    ops: Literal["changes", "all"] = "changes",
    under: object = None,
    deep: bool = False,
) -> Iterator[ShapeTrace]:
    """Show each shape step in a block of your code, and warn about what shapes do silently.

    Calls are recorded as you wrote them, on the line where you wrote them; what torch's own modules do inside is
    attributed to the line that calls them. Shapes are stored and tensors are not: results are bit-identical, no
    activation is kept alive, and no value is read, so no device has to wait.

    Torch does not show the tracer the steps inside Python functions of `torch.nn.functional` (each is one row), inside
    `torch.jit.script`, in other threads, and in backward. Functions compiled before the block run eagerly inside it;
    if `torch.compile` is first used inside the block, its graphs are not seen.

    Args:
        hazards: `"warn"` gives one warning for each hazard and source line, on that line; `"raise"` makes it a
            `ValueError`; `"collect"` only lists it. Hazards of level `"info"` are only ever listed.
        ops: `"changes"` keeps calls that change or rearrange a shape, and hazards; `"all"` keeps every call.
        under: keeps only calls in one file: its path, a Python module, or a class, function or `nn.Module` from it.
        deep: also runs torch's DebugMode (private to torch) and keeps its text, down to the aten operators; this is
            slow.

    Yields:
        A `ShapeTrace`, which fills while the block runs and can also be read after an exception. An exception from a
        torch call passes through with a note (PEP 678): the place, the operation, shapes and strides of the operands.

    Raises:
        ValueError: `hazards` or `ops` is none of the above, or `hazards="raise"` and a hazard was found.
        TypeError: `under` has no source file.
        RuntimeError: `deep=True`, and this torch has no DebugMode.

    Examples:
        >>> x = torch.zeros(2, 3, 4)
        >>> with trace_shapes() as trace:
        ...     y = x.transpose(1, 2).reshape(2, 12)
        >>> [(row.op, row.kind, row.nbytes) for row in trace.rows]
        [('transpose', 'view', 0), ('reshape', 'copy', 96)]
        >>> trace.hazards[0].rule
        'reshape-copy'
    """
    check_choice("hazards", hazards, ("warn", "raise", "collect"))
    check_choice("ops", ops, ("changes", "all"))
    trace = ShapeTrace()
    dynamo_loaded = "torch._dynamo" in sys.modules
    with contextlib.ExitStack() as stack:
        debug = stack.enter_context(_debug_mode()) if deep else None
        stack.enter_context(_eagerly() if dynamo_loaded else contextlib.nullcontext())
        tracer = stack.enter_context(_Tracer(trace, hazards, everything=ops == "all", file=_file_of(under)))
        try:
            yield trace
        finally:
            if debug is not None:
                trace.deep = debug.debug_string(show_stack_trace=True)
            if not dynamo_loaded and "torch._dynamo" in sys.modules:
                trace._notes.append("torch.compile was first used inside the block: its graphs were not seen")
            if not tracer.seen:
                trace._notes.append(_NOTHING_SEEN)
            elif under is not None and not trace._steps:
                trace._notes.append(f"no recorded call is in the file of under={under!r}")


class _Tracer(CallMode):
    def __init__(self, trace: ShapeTrace, hazards: str, *, everything: bool, file: str | None) -> None:
        super().__init__()
        self._trace, self._hazards, self._everything, self._file = trace, hazards, everything, file
        self._matters: dict[str, bool] = {}
        self._met: set[tuple[str, Place]] = set()

    @property
    def seen(self) -> bool:
        """Whether any call was seen, recorded or not."""
        return bool(self._matters)

    def wanted(self, name: str, before: list[Shape], outputs: list[Tensor]) -> bool:
        matters = self._matters.get(name)
        if matters is None:
            matters = self._matters[name] = may_matter(name)
            if name in _UNSEEN:
                self._trace._notes.append(_UNSEEN[name])
        if not outputs:
            return False
        return self._everything or matters or (bool(before) and shapes_of(outputs[:1]) != before[:1])

    def called(self, call: Call) -> None:
        place = call.place = self.places.current()
        if place is None or (self._file is not None and place.file != self._file):
            return
        kind = _kind_of(call) if is_reshaping(call.name) else ""
        verdict = judge(call, kind)
        nbytes = sum(map(_dense_bytes, call.outputs)) if kind == "copy" else 0
        rules = () if verdict is None else (verdict[0],)
        step = Step(call.name, place, call.before, shapes_of(call.outputs), kind, nbytes, rules)
        self._trace._steps.append(step)
        if verdict is not None:
            self._report(*verdict, call, kind, nbytes)

    def failed(self, call: Call, error: Exception) -> None:
        call.place = self.places.current()
        if not any(note.startswith(_NOTE) for note in getattr(error, "__notes__", ())):
            error.add_note(failure_note(call, error))
        if call.place is not None and failed_for_strides(call, error):
            size = format_bytes(call.inputs[0].nbytes)
            advice = (
                f"a view needs another memory layout; use reshape, which copies {size}, or view before moving the dims"
            )
            self._trace._hazards.append(_hazard("view-non-contiguous", "error", advice, call, call.place, "", 0))

    def _report(self, rule: str, level: Any, advice: str, call: Call, kind: Kind, nbytes: int) -> None:
        place = call.place
        if place is None or (rule, place) in self._met:
            return
        self._met.add((rule, place))
        hazard = _hazard(rule, level, advice, call, place, kind, nbytes)
        self._trace._hazards.append(hazard)
        if level == "warn" and self._hazards == "raise":
            raise ValueError(str(hazard))
        if level == "warn" and self._hazards == "warn":
            message = f"`{place.text}`: {advice} [{rule}]" if place.text else f"{advice} [{rule}]"
            warnings.warn_explicit(message, UserWarning, place.file, place.line)


def _hazard(rule: str, level: Any, advice: str, call: Call, place: Place, kind: Kind, nbytes: int) -> Hazard:
    shapes = plain_shapes([*call.before, shape_of(call.outputs[0]) if call.outputs else ()])
    is_view = kind in ("view", "same")
    where = place.file, place.line, place.text
    return Hazard(rule, level, call.name, *where, shapes[:-1], shapes[-1], is_view, nbytes, advice)


def _kind_of(call: Call) -> Kind:
    output = call.outputs[0]
    if any(output is tensor for tensor in call.inputs):
        return "same"
    return "view" if is_view_of(output, call.inputs) else "copy"


def _dense_bytes(tensor: Tensor) -> int:
    return tensor.nbytes if tensor.layout is torch.strided else 0  # torch does not say it for sparse and jagged tensors


def _file_of(under: object) -> str | None:
    if under is None or isinstance(under, (str, os.PathLike)):
        return None if under is None else str(Path(under).resolve())
    target = type(under) if isinstance(under, nn.Module) else under
    if isinstance(target, (ModuleType, type, FunctionType)):
        with contextlib.suppress(TypeError, OSError):
            return inspect.getsourcefile(target)
    raise TypeError(
        "under must be a path, a Python module, or a class, function or nn.Module with a source file, "
        f"got {type(under).__name__}"
    )


def _eagerly() -> contextlib.AbstractContextManager[Any]:
    """Run compiled functions as they were written, so that their calls are seen."""
    return torch.compiler.set_stance("force_eager")


def _debug_mode() -> Any:
    try:
        from torch.utils._debug_mode import DebugMode
    except ImportError:
        raise RuntimeError(
            f"deep=True needs torch 2.10 or newer, found {torch.__version__}; leave deep out, or run: pip install 'torch>=2.10'"
        ) from None
    return DebugMode(record_torchfunction=False, record_stack_trace=True)
