"""Watch the losses of torch, the tables that rows are read from, and the maxima that a metric takes."""

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from linkboy._watch import LossCall
from linkboy._watch._graph import fill_values, op_of
from linkboy._watch._observer import measured
from linkboy._watch._places import user_line
from linkboy.doctor._part import Part

ELEMENTWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
WATCHED_LOSSES = (
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "kl_div",
    *ELEMENTWISE,
)
FACTORIES = ("zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "empty", "empty_like", "arange")
METHODS = ("new_zeros", "new_ones", "new_full", "fill_", "zero_")


class Losses(Part):
    """Patches the losses, embeddings and maxima of torch."""

    def __init__(self, watcher: Any) -> None:
        super().__init__(watcher)
        self.sites: Counter[str] = Counter()  # calls of each line since the last backward pass
        self.read_rows: dict[int, set[int]] = {}
        self._handmade: dict[int, StorageWeakRef] = {}
        self._class_logits: tuple[int, tuple[int, ...]] | None = None

    def patch(self) -> None:
        """Patch them."""
        for name in WATCHED_LOSSES:
            self.patches.wrap(F, name, lambda original, name=name: self._loss(original, name))
        self.patches.wrap(F, "embedding", lambda original: self._embedding(original, 0))
        self.patches.wrap(F, "embedding_bag", lambda original: self._embedding(original, 7))
        for owner in (torch, Tensor):
            for name in ("argmax", "max"):
                self.patches.wrap(owner, name, self._best)
        for name in ("__sub__", "__rsub__"):
            self.patches.wrap(Tensor, name, self._difference)
        for name in FACTORIES:
            self.patches.wrap(torch, name, self._factory)
        for name in METHODS:
            self.patches.wrap(Tensor, name, self._factory)
        self.observer.made_by_hand = self.is_handmade
        self.observer.on_loss = self._loss_in_graph

    def is_handmade(self, tensor: Tensor) -> bool:
        """Return whether a tensor was made by `torch.ones`, `torch.zeros` and the like."""
        known = self._handmade.get(tensor.untyped_storage()._cdata)
        return known is not None and not known.expired()

    def _factory(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def factory(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            if not torch.compiler.is_compiling() and type(made) is Tensor and made.numel() <= 65536 and self.on():
                with contextlib.suppress(RuntimeError, NotImplementedError, TypeError):
                    known = StorageWeakRef(made.untyped_storage())
                    self._handmade[known.cdata] = known
                    if len(self._handmade) > 4096:
                        self._handmade = {key: ref for key, ref in self._handmade.items() if not ref.expired()}
            return made

        return factory

    def _loss(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if not torch.compiler.is_compiling() and self.on():
                with self.looking():
                    given = kwargs.get("input", args[0] if args else None)
                    target = kwargs.get("target", args[1] if len(args) > 1 else None)
                    if isinstance(result, Tensor) and isinstance(given, Tensor) and isinstance(target, Tensor):
                        self._note_loss(name, result, given, target, kwargs)
            return result

        return loss

    def _note_loss(self, name: str, result: Tensor, given: Tensor, target: Tensor, kwargs: dict[str, Any]) -> None:
        place = user_line()
        if name == "cross_entropy" and given.dim() == 2:
            self._class_logits = (given.untyped_storage()._cdata, tuple(given.shape))
        if result.grad_fn is not None:
            _tell(result.grad_fn, place)
            self.sites[place] += 1
            if name == "kl_div" and not kwargs.get("log_target", False):
                distribution = bool((given >= 0).all()) and any(
                    bool((given.detach().float().sum(dim) - 1).abs().max() < 1e-2) for dim in range(given.dim())
                )
                call = LossCall("kl_div", place, self.record.backwards, self.record.steps, distribution=distribution)
                self.record.losses.append(call)
            if name == "l1_loss":  # torch builds it of operations that keep no target
                self._note_absolute(given, target, place)
            return
        if torch.is_grad_enabled():
            return  # nothing to train in it
        self.rows.evaluated_target(target)
        number = self.observer.last_without_gradient
        if number is not None and given.untyped_storage()._cdata in self.observer.eval_outputs:
            root = self.record.roots[number]
            if self.observer.last_mode and root.noisy:
                root.eval_losses += 1
                root.eval_place = root.eval_place or place

    def _note_absolute(self, given: Tensor, target: Tensor, place: str) -> None:
        call = LossCall("l1", place, self.record.backwards, self.record.steps, shape=tuple(given.shape))
        call.made_by_hand = self.is_handmade(target)
        fill_values(call, given, target, full=measured(self.record.steps))
        self.record.losses.append(call)
        self.rows.loss(call, target)

    def _difference(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def difference(tensor: Tensor, other: Any) -> Any:
            result = original(tensor, other)
            if (
                isinstance(other, Tensor)
                and tensor.requires_grad != other.requires_grad
                and tensor.shape == other.shape
                and measured(self.record.steps)
                and not torch.compiler.is_compiling()
                and not self.observer.stack
                and self.on()
            ):
                with self.looking():  # the target of a loss that is written by hand
                    self.rows.compared(other if tensor.requires_grad else tensor)
            return result

        return difference

    def _loss_in_graph(self, call: LossCall, target: Tensor | None) -> None:
        if not call.place:
            call.place = user_line()
        self.rows.loss(call, target)

    def _embedding(self, original: Callable[..., Any], place: int) -> Callable[..., Any]:
        def embedding(input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            result = original(input, weight, *args, **kwargs)
            if not torch.compiler.is_compiling() and torch.is_grad_enabled() and self.on():
                padding = kwargs.get("padding_idx", args[place] if len(args) > place else None)
                with self.looking():
                    self.rows.embedded(input, weight.shape[0], padding)
                    if weight.is_leaf and input.numel() <= 65536:
                        read = self.read_rows.setdefault(self.observer.leaf_number(weight), set())
                        read.update(input.detach().flatten().tolist())
            return result

        return embedding

    def _best(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def best(input: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling() and self._class_logits is not None and self.on():
                dim = kwargs.get("dim", args[0] if args else None)
                if isinstance(dim, int) and input.dim() == 2:
                    self._note_best(input, dim % 2)
            return original(input, *args, **kwargs)

        return best

    def _note_best(self, input: Tensor, dim: int) -> None:
        storage, shape = self._class_logits or (0, ())
        same = input.untyped_storage()._cdata == storage or _comes_from_softmax(input, shape)
        output = input.untyped_storage()._cdata in self.observer.eval_outputs
        if same or (output and tuple(input.shape[1:]) == tuple(shape[1:])):
            self.facts.metric_dims[f"{dim}  {user_line()}"] += 1
            self.facts.metric_shape = tuple(input.shape)
        if output and not torch.is_grad_enabled() and self.observer.last_mode and input.shape[0] >= 8:
            number = self.observer.last_without_gradient
            if number is not None and self.record.roots[number].noisy:
                self.record.roots[number].eval_losses += 1
                root = self.record.roots[number]
                root.eval_place = root.eval_place or user_line()


def _tell(node: Any, place: str, depth: int = 6) -> None:
    """Write the line of a loss into the nodes that it made."""
    if node is None or depth == 0:
        return
    with contextlib.suppress(AttributeError, TypeError):
        node.metadata.setdefault("linkboy", place)
    if op_of(node) in ("Add", "Mul", "Div", "Mean", "Sum", "Neg", "MaskedFill", "Abs"):
        for below, _ in node.next_functions:
            if below is not None and getattr(below, "variable", None) is None and op_of(below) != "LogSoftmax":
                _tell(below, place, depth - 1)


def _comes_from_softmax(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    node = tensor.grad_fn
    return node is not None and tuple(tensor.shape) == shape and op_of(node) in ("Softmax", "LogSoftmax")
