"""See each torch call that the user wrote as it happens, and where in the source it stands."""

import ast
import itertools
import linecache
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Shape = tuple[Any, ...]

_functorch: Any = torch._C._functorch  # type: ignore[attr-defined]  # private, as _is_alias_of is
_is_alias: Callable[[Tensor, Tensor], bool] | None = getattr(torch._C, "_is_alias_of", None)
_count_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


# These read or set something and return no tensor of their own; they are half of what a forward pass calls.
NOT_CALLS = frozenset((
    "size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "storage_offset", "data_ptr",
    "item", "tolist", "element_size", "numpy", "__len__", "__bool__", "__int__", "__float__", "__index__",
    "__repr__", "__str__", "__format__", "__hash__", "__contains__", "__array__", "__iter__", "__dlpack__",
    "__dlpack_device__", "register_hook", "register_post_accumulate_grad_hook", "untyped_storage", "storage",
    "get_device", "is_floating_point", "is_complex", "is_signed", "is_tensor", "is_storage", "is_nonzero",
    "is_same_size", "is_set_to", "equal", "allclose", "has_names", "_is_view", "_is_zerotensor", "is_inference",
    "is_conj", "is_neg", "is_pinned", "is_shared", "__reduce_ex__", "__deepcopy__", "__setstate__",
    "_set_grad_enabled", "__setitem__", "__set__", "__delete__", "retain_grad", "result_type", "can_cast", "finfo",
    "iinfo", "storage_type", "_has_compatible_shallow_copy_type", "sym_size", "sym_numel", "sym_stride",
    "_nested_tensor_size",
))  # fmt: skip

# Properties that return a rearranged view.
VIEW_GETTERS = frozenset(("T", "mT", "H", "mH"))

# What a library does for its caller is attributed to the caller's line.
_LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
_NOT_THE_USERS = (*_LIBRARIES, "<frozen ", "<eval_with_key>")  # the last is what torch.fx generates
_is_library: dict[str, bool] = {}  # by file: one lookup for each frame instead of eight comparisons


class Call:
    """One call: its arguments, the tensors among them (`inputs`), their shapes `before` the call, and its `outputs`."""

    __slots__ = ("args", "before", "inputs", "kwargs", "name", "outputs", "place")

    def __init__(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        inputs: list[Tensor],
        before: list[Shape],
        outputs: Sequence[Tensor] = (),
    ) -> None:
        self.name, self.args, self.kwargs, self.inputs, self.before = name, args, kwargs, inputs, before
        self.outputs = outputs
        self.place: Place | None = None

    def argument(self, position: int, keyword: str) -> Any:
        """Return an argument by position or keyword, `None` where it was not given."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(keyword)


class CallMode(TorchFunctionMode):
    """Calls `called` after each torch call and `failed` where one raises; subclasses override these.

    The mode reads no values and keeps no tensors, so results, memory and the timing of a device are unchanged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = Places()
        self._names: dict[Any, str] = {}
        self._dispatch_modes = 0

    def __enter__(self) -> Self:
        self._dispatch_modes = _count_dispatch_modes()
        super().__enter__()
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_dynamo_compiling():  # a graph cannot hold this mode; see `trace_shapes`
            return func(*args, **kwargs)
        name = self._names.get(func)
        if name is None:
            name = self._names[func] = _name_of(func)
        # A mode such as FakeTensorMode is off the stack while it works. Its own calls are seen if what the user called is
        # not, such as `Variable(x)` or `torch.from_numpy(a)`, and come only where its cache has no answer yet.
        if not name or _count_dispatch_modes() < self._dispatch_modes:
            return func(*args, **kwargs)
        inputs = _operands(args)
        if kwargs:
            inputs += _operands(kwargs.values())
        before = shapes_of(inputs)
        try:
            output = func(*args, **kwargs)
        except Exception as error:
            self.failed(Call(name, args, kwargs, inputs, before), error)
            raise
        outputs = [output] if type(output) is Tensor else _operands((output,))
        if self.wanted(name, before, outputs):
            self.called(Call(name, args, kwargs, inputs, before, outputs))
        return output

    def wanted(self, name: str, before: list[Shape], outputs: list[Tensor]) -> bool:
        """Return whether to record a call; this is asked for every call, so it must be quick."""
        return bool(outputs)

    def called(self, call: Call) -> None:
        """Record a call that is wanted."""

    def failed(self, call: Call, error: Exception) -> None:
        """Record a call that raised."""


def _name_of(func: Any) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        return attribute if attribute in VIEW_GETTERS else ""
    return "" if name in NOT_CALLS else name


def _operands(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among the operands of a torch call.

    The tracer runs this twice for every call, and torch functions take tensors alone or in lists and tuples only, so it
    looks into nothing else; `linkboy._calls.tensors_in`, which knows every container, costs five to six times as much.
    """
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif type(value) in (list, tuple) or isinstance(value, tuple):
            found += _operands(value)
    return found


def shapes_of(tensors: Sequence[Tensor]) -> list[Shape]:
    """Return the shapes of tensors."""
    try:
        return [tensor.shape for tensor in tensors]
    except RuntimeError:
        return [shape_of(tensor) for tensor in tensors]


def shape_of(tensor: Tensor) -> Shape:
    """Return the shape of a tensor; a nested tensor may have none."""
    try:
        return tensor.shape
    except RuntimeError:
        return (tensor.size(0), "nested")


def is_view_of(output: Tensor, inputs: Iterable[Tensor]) -> bool:
    """Return whether `output` shares memory with one of `inputs`, below the wrappers of vmap and grad."""
    output = _unwrapped(output)
    return any(_share_memory(output, _unwrapped(tensor)) for tensor in inputs)


def _share_memory(first: Tensor, second: Tensor) -> bool:
    if _is_alias is not None:
        return _is_alias(first, second)
    return first.untyped_storage()._cdata == second.untyped_storage()._cdata


def _unwrapped(tensor: Tensor) -> Tensor:
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


class Place:
    """One place in the source; its text is read when it is first asked for.

    Attributes:
        file: the file as Python names it; for a notebook cell or stdin, a made-up name.
        line: first line of the sub-expression.
        end_line: last line of the sub-expression.
        function: qualified name of the function around it, `<module>` outside of one.
    """

    __slots__ = ("_code", "_columns", "_text", "end_line", "file", "function", "line")

    def __init__(self, code: CodeType, instruction: int, line: int) -> None:
        self._code = code  # kept alive, so that its id is not reused
        self.file, self.function = code.co_filename, code.co_qualname
        first, last, start, end = next(itertools.islice(code.co_positions(), instruction // 2, None))
        self.line, self.end_line = first or line, last or line
        self._columns = None if start is None or end is None else (start, end)  # absent under -X no_debug_ranges
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The sub-expression on one line; the whole line if columns are unknown, empty if there is no source."""
        if self._text is None:
            linecache.checkcache(self.file)
            self._text = self._cut([linecache.getline(self.file, n) for n in range(self.line, self.end_line + 1)])
        return self._text

    @property
    def column(self) -> int:
        """Number of characters before the sub-expression on its line; of bytes where there is no source."""
        if self._columns is None:
            return 0
        line = linecache.getline(self.file, self.line).encode()
        return len(line[: self._columns[0]].decode(errors="replace")) if line else self._columns[0]

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"

    def _cut(self, lines: list[str]) -> str:
        if self._columns is None or not all(lines):
            return " ".join(lines[0].split()) if lines else ""
        raw = [line.encode() for line in lines]  # columns count bytes of UTF-8
        raw[-1] = raw[-1][: self._columns[1]]
        raw[0] = raw[0][self._columns[0] :]
        text = b"".join(raw).decode(errors="replace")
        return " ".join(_without_comments(text).split()) if len(raw) > 1 else text


def _without_comments(text: str) -> str:
    try:
        return ast.unparse(ast.parse(f"({text})", mode="eval"))
    except SyntaxError:
        return text


class Places:
    """Finds the place of the call that is running; each trace has its own cache."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Place] = {}

    def current(self) -> Place | None:
        """Return the place in the nearest frame outside torch and linkboy, or `None` if there is no such frame."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if not _in_library(code):
                key = (id(code), frame.f_lasti)  # hashing a code object hashes all its constants
                place = self._known.get(key)
                if place is None:
                    place = self._known[key] = Place(code, frame.f_lasti, frame.f_lineno)
                return place
            frame = frame.f_back
        return None


def user_place(error: BaseException) -> Place | None:
    """Return the innermost place outside torch and linkboy that an exception passed through."""
    place, step = None, error.__traceback__
    while step is not None:
        if not _in_library(step.tb_frame.f_code):
            place = Place(step.tb_frame.f_code, step.tb_lasti, step.tb_lineno)
        step = step.tb_next
    return place


def _in_library(code: CodeType) -> bool:
    library = _is_library.get(code.co_filename)
    if library is None:
        library = _is_library[code.co_filename] = code.co_filename.startswith(_NOT_THE_USERS)
    return library
