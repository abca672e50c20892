"""The operator under test: called on fresh copies of its inputs, with its random numbers fixed."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.utils import _pytree as pytree

from linkboy import _calls, _random

WIDE = torch.float64
BESIDE, INWARDS = (1, 2, 3), 3  # attempts at inputs beside those given
Leaves = list[Any]


class Trial:
    """An operator and its inputs, taken apart into leaves.

    Args:
        fn: the operator; the parameters and buffers of a module become inputs as well.
        args: its positional arguments; tensors may be nested in lists, tuples and dicts.
        kwargs: its keyword arguments.
        surrogate: the function whose derivatives `fn` is meant to have, or `None`.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        surrogate: Callable[..., Any] | None,
    ) -> None:
        self.fn, self.surrogate = fn, surrogate
        self.is_module = isinstance(fn, nn.Module)
        if isinstance(fn, nn.Module):
            state = (dict(fn.named_parameters()), dict(fn.named_buffers()))
            args = (*state, *args)
            self.fn = _with_state(fn)
            self.surrogate = surrogate and _without_state(surrogate)
        paths, self._spec = pytree.tree_flatten_with_path((args, kwargs))
        given = [leaf for _, leaf in paths]
        self.names = [_name(path, self.is_module) for path, _ in paths]
        # Containers that pytree takes for leaves, such as a UserDict or a dataclass: their tensors become further leaves.
        self._containers: dict[int, tuple[Any, slice]] = {}
        for i, (leaf, name) in enumerate(list(zip(given, self.names, strict=True))):
            inside = [] if isinstance(leaf, Tensor) else list(_calls.named_tensors(leaf))
            if inside:
                self._containers[i] = leaf, slice(len(given), len(given) + len(inside))
                given += [x for _, x in inside]
                self.names += [f"{name}.{path}" for path, _ in inside]
        self.diff = [i for i, x in enumerate(given) if isinstance(x, Tensor) and x.requires_grad]
        self.buffers = [i for i, (path, _) in enumerate(paths) if self.is_module and path[:2] == _BUFFERS]
        self.state = [i for i, (path, _) in enumerate(paths) if self.is_module and path[:2] in (_PARAMETERS, _BUFFERS)]
        self.leaves: Leaves = [x.detach().clone() if isinstance(x, Tensor) else x for x in given]
        self.dtype = self.native = given[self.diff[0]].dtype.to_real() if self.diff else torch.float32
        self.random = False  # set by the check of random numbers

    @property
    def complex(self) -> bool:
        """Whether a differentiable input is complex."""
        return any(self.leaves[i].is_complex() for i in self.diff)

    @property
    def tolerance(self) -> float:
        """Relative difference that rounding explains in `dtype`."""
        return 1e-7 if self.dtype == WIDE else 1e-2 if self.dtype.itemsize < 4 else 1e-3

    def fresh(
        self,
        dtype: torch.dtype | None = None,
        *,
        diff: Sequence[int] | None = None,
        change: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Leaves:
        """Return copies of the inputs, in `dtype` where they are floating point, that require grad at `diff`.

        `change(i, tensor)` may return another tensor for leaf `i`.
        """
        leaves = list(self.leaves)
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                copy = cast(leaf, dtype or self.dtype)
                copy = copy.clone() if change is None else change(i, copy.clone())
                leaves[i] = copy.requires_grad_(i in (self.diff if diff is None else diff))
        return leaves

    def call(self, leaves: Leaves, fn: Callable[..., Any] | None = None) -> list[Tensor]:
        """Run the operator, or `fn` in its place, from a fixed seed; return the tensors it gives, in order."""
        args, kwargs = self.arguments(leaves)
        _random.seed(0)
        return _calls.tensors_in((fn or self.fn)(*args, **kwargs))

    def arguments(self, leaves: Leaves) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments and keyword arguments that the leaves make up."""
        kept = list(leaves)
        for i, (container, place) in self._containers.items():
            inside = iter(kept[place])
            kept[i] = _calls.map_tensors(container, lambda _, inside=inside: next(inside))
        return pytree.tree_unflatten(kept[: self._spec.num_leaves], self._spec)

    def beside(self, attempt: int) -> "Trial":
        """Return the same trial at other inputs: moved by one percent, and those that are 0 by up to 0.15.

        They move upwards in the first two attempts, and towards 0 in the third, as a domain that ends at them may demand.
        """

        def move(i: int, x: Tensor) -> Tensor:
            if i not in self.diff:
                return x
            generator = torch.Generator().manual_seed(1000 * attempt + i)  # two equal inputs become different ones
            noise = torch.rand(x.shape, generator=generator, dtype=WIDE).to(x.device, x.dtype) + 0.5
            inwards = attempt == INWARDS and not x.is_complex()
            return x + noise * torch.where(x == 0, 0.1, 0.01 * (x.abs() + 0.1) * (-x.sign() if inwards else 1)).to(
                x.dtype
            )

        other = copy.copy(self)
        other.leaves = [x.detach() if isinstance(x, Tensor) else x for x in self.fresh(WIDE, diff=[], change=move)]
        return other

    def of_inputs(self, leaves: Leaves, fn: Callable[..., Any] | None = None) -> Callable[..., tuple[Tensor, ...]]:
        """Return the operator as a function of its differentiable inputs alone, giving its floating point outputs."""

        def function(*inputs: Tensor) -> tuple[Tensor, ...]:
            replaced = list(leaves)
            for i, x in zip(self.diff, inputs, strict=True):
                replaced[i] = x
            return tuple(y for y in self.call(replaced, fn) if y.is_floating_point() or y.is_complex())

        return function

    def inputs(self, leaves: Leaves) -> list[Tensor]:
        """Return the differentiable inputs."""
        return [leaves[i] for i in self.diff]


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert floating point to `dtype` and complex to its complex counterpart; leave the rest."""
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def differentiable(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs that lead back to an input."""
    return [y for y in outputs if y.requires_grad]


def functions_behind(outputs: Sequence[Tensor]) -> list[BackwardCFunction]:
    """Return the ctx of each autograd.Function that the outputs came through, those of registered operators included."""
    found: list[BackwardCFunction] = []
    seen: set[object] = set()
    nodes = [y.grad_fn for y in outputs if y.grad_fn is not None]
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            found.append(node)
        nodes += [other for other, _ in node.next_functions if other is not None]
    return found


def cotangents(outputs: Sequence[Tensor], number: int = 1) -> list[Tensor]:
    """Return an incoming gradient for each output, drawn from a seed of its own."""
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(y.shape, dtype=y.dtype, generator=generator).to(y.device) for y in outputs]


def gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], incoming: Sequence[Tensor] | None = None, **options: bool
) -> list[Tensor | None]:
    """Return the gradient of each input, `None` where no output depends on it or none leads back."""
    asked = [x for x in inputs if x.requires_grad]
    ends = differentiable(outputs)
    if not ends or not asked:
        return [None] * len(inputs)
    if incoming is None:
        # Drawn for the outputs that lead nowhere as well: each keeps its own where fewer inputs require grad.
        numbers = [y for y in outputs if y.is_floating_point() or y.is_complex()]
        incoming = [g for g, y in zip(cotangents(numbers), numbers, strict=True) if y.requires_grad]
    found = iter(torch.autograd.grad(ends, asked, incoming, allow_unused=True, **options))
    return [next(found) if x.requires_grad else None for x in inputs]


def difference(got: Sequence[Tensor | None], expected: Sequence[Tensor | None], tolerance: float) -> str:
    """Return where two lists of tensors differ by more than `tolerance`, relative to the larger of 1 and the largest value.

    `None`, a missing gradient, equals zeros. The string is empty if all agree.
    """
    for place, (a, b) in enumerate(zip(got, expected, strict=True)):
        if a is None and b is None:
            continue
        which = f"number {place} " if len(got) > 1 else ""
        a = torch.zeros_like(b) if a is None else a.detach()  # pyright: ignore[reportArgumentType]
        b = torch.zeros_like(a) if b is None else b.detach()
        if a.shape != b.shape:
            return f"{which}got shape {tuple(a.shape)}, expected {tuple(b.shape)}"
        wide = torch.complex128 if a.is_complex() or b.is_complex() else WIDE
        a, b = a.to(wide), b.to(wide)
        finite = b[b.isfinite()].abs()
        scale = max(1.0, finite.max().item()) if finite.numel() else 1.0
        wrong = ~torch.isclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
        if wrong.any():
            return f"{which}got {_short(a[wrong][0].item())}, expected {_short(b[wrong][0].item())}"
    return ""


def said(error: BaseException) -> str:
    """Return the kind and the first line of an exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else ""
    return f"{type(error).__name__}: {first[:157] + '...' if len(first) > 160 else first}".rstrip(": ")


@contextlib.contextmanager
def global_state_kept() -> Iterator[None]:
    """Restore torch's switches when the block ends."""
    before = switches()
    try:
        yield
    finally:
        torch.set_grad_enabled(before["grad mode"])
        torch.set_default_dtype(before["default dtype"])
        torch.use_deterministic_algorithms(
            before["deterministic algorithms"], warn_only=torch.is_deterministic_algorithms_warn_only_enabled()
        )


def switches() -> dict[str, Any]:
    """Return torch's switches that an operator has no business to turn."""
    return {
        "grad mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


_PARAMETERS = (pytree.SequenceKey(0), pytree.SequenceKey(0))
_BUFFERS = (pytree.SequenceKey(0), pytree.SequenceKey(1))


def _name(path: tuple[Any, ...], is_module: bool) -> str:
    if is_module and path[:2] in (_PARAMETERS, _BUFFERS):
        return f"{'parameter' if path[:2] == _PARAMETERS else 'buffer'} {path[2].key!r}"
    if path[0].idx == 1:
        return f"{path[1].key}{pytree.keystr(path[2:])}"
    place = path[1].idx - (2 if is_module else 0)
    return f"args[{place}]{pytree.keystr(path[2:])}"


def _with_state(module: nn.Module) -> Callable[..., Any]:
    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(module, (parameters, buffers), args, kwargs)

    return call


def _without_state(surrogate: Callable[..., Any]) -> Callable[..., Any]:
    return lambda parameters, buffers, *args, **kwargs: surrogate(*args, **kwargs)


def _short(value: complex) -> str:
    return f"{value:.6g}"
