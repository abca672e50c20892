"""Watch the calls of models: their inputs and outputs, and what is tied in them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linkboy._calls import tensors_in
from linkboy._walk import is_norm
from linkboy._watch import Record, TrainingObserver
from linkboy._watch._places import user_line
from linkboy.doctor._facts import facts_of


class CallObserver(TrainingObserver):
    """An observer that tells the watcher of calls as well."""

    def __init__(self, watcher: Any) -> None:
        super().__init__()
        self.watcher = watcher
        self.last_without_gradient: int | None = None
        self.last_mode = False
        self.eval_outputs: set[int] = set()
        self.output_rms: float | None = None
        self.ties: list[tuple[str, str, int, int]] = []
        self.ties_asked = False
        self._first_layer = False

    def _mine(self) -> bool:
        return self.watcher.on()

    def _enter(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        if not self.stack:
            self._first_layer = self.record.steps < 6
        super()._enter(module, args)
        if self.record.steps < 2 and self.stack and self.stack[-1] is module:
            self.watcher.lines.entered(module, self.stack)
        if self._first_layer and self.stack and module._parameters and args and isinstance(args[0], Tensor):
            self._first_layer = False
            if torch.is_grad_enabled() and not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                with self.watcher.looking():
                    note_input(self.record, module, args[0])

    def called(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> int | None:
        number = None
        with self.watcher.looking():
            number = super().called(module, args, kwargs, output)
            if number is None:
                return None
            self.watcher.called(number, module, args, kwargs)
            outputs = tensors_in(output)
            if not torch.is_grad_enabled():
                self.last_without_gradient, self.last_mode = number, module.training
                self.eval_outputs = {t.untyped_storage()._cdata for t in outputs if t.layout is torch.strided}
            elif outputs and outputs[0].is_floating_point() and self.record.steps % 10 <= 3:
                self.output_rms = float(outputs[0].detach().float().square().mean().sqrt())
        return number

    def step_begins(self, optimizer: Optimizer, *, closure: bool = False) -> None:
        if not self.ties_asked:
            self.ties_asked = True
            self._note_gains()
            self._note_copies()
            for reference, _ in list(self._root_of.values()):
                model = reference()
                if model is not None:
                    self.ties += broken_ties(model)
        super().step_begins(optimizer, closure=closure)

    def _note_gains(self) -> None:
        """Note how much each matrix enlarges what goes through it, and what each bias adds, before anything is learned."""
        for tensor, leaf in self.live_leaves():
            if tensor.is_meta or not tensor.is_floating_point() or tensor.layout is not torch.strided:
                continue
            value = tensor.detach()
            if value.dim() >= 2 and value.numel():
                leaf.gain = float(value.float().square().mean().sqrt()) * (value.numel() / len(value)) ** 0.5
            elif value.dim() == 1 and value.numel():
                leaf.offset = float(value.float().mean())

    def _note_copies(self) -> None:
        """Note the matrices that began as copies of trained ones, as those of a target network or an average do."""
        matrices = [(tensor, leaf) for tensor, leaf in self.live_leaves() if tensor.dim() >= 2 and not tensor.is_meta]
        trained = [tensor for tensor, leaf in matrices if leaf.optimizers]
        for tensor, leaf in matrices:
            if not leaf.optimizers and leaf.in_graphs:
                leaf.copied = any(
                    t.shape == tensor.shape and t.device == tensor.device and torch.equal(t, tensor) for t in trained
                )

    def root_module(self, number: int) -> nn.Module | None:
        """Return the model of an index, if it is still there."""
        for reference, index in self._root_of.values():
            if index == number:
                return reference()
        return None


def broken_ties(model: nn.Module) -> list[tuple[str, str, int, int]]:
    """Return the embeddings and output layers whose two tensors hold equal rows: both names, equal rows, all rows."""
    found = []
    modules = list(model.named_modules())
    tables = [(path, m.weight) for path, m in modules if isinstance(m, nn.Embedding)]
    layers = [(path, m.weight) for path, m in modules if isinstance(m, nn.Linear)]
    for name, table in tables:
        for other, weight in layers:
            if weight is table or weight.shape != table.shape or weight.data_ptr() == table.data_ptr() or table.is_meta:
                continue
            rows = (table.detach() == weight.detach()).all(1) & (table.detach() != table.detach()[:, :1]).any(1)
            if int(rows.sum()) >= max(2, 0.5 * len(table)):
                found.append((f"{name}.weight", f"{other}.weight", int(rows.sum()), len(table)))
    return found


def note_input(record: Record, module: nn.Module, given: Tensor) -> None:
    """Note an input of the first layer that has weights, if its numbers are far from the scale a layer is made for."""
    facts = facts_of(record)
    facts.inputs_asked += 1
    given = given.detach()
    if is_norm(module) or not given.is_floating_point() or given.dim() < 2 or not given.numel() or given.requires_grad:
        return
    record.extra.setdefault("input_rms", float(given.float().square().mean().sqrt()))
    high = float(given.abs().max())
    if high < 100 or high != high:
        return
    if float(given.min()) >= 0 and high <= 255 and bool((given == given.round()).all()) and given[0].numel() >= 16:
        facts.raw_inputs.append(("bytes", high, user_line()))
        return
    if given.dim() == 2 and given.shape[1] >= 2 and given.shape[0] >= 2:
        sizes = given.float().square().mean(0).sqrt()
        rest = float(sizes.median())
        if float(sizes.max()) > 1e3 * max(rest, 1e-12):
            facts.raw_inputs.append(
                (f"column {int(sizes.argmax())}", float(sizes.max()) / max(rest, 1e-12), user_line())
            )
    elif float(given.float().square().mean().sqrt()) >= 1000:
        facts.raw_inputs.append(("values", high, user_line()))
