"""Fill a record from what happens: calls of modules, backward passes and optimizer steps.

Whoever owns the loop calls the methods (`fit`), or patches call them (`linkboy.doctor`). Nothing here changes a value, draws a
random number or keeps a graph alive: of tensors with a graph only plain values are kept, and of parameters weak references.
"""

import contextlib
import difflib
import math
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim import Optimizer

from linkboy._calls import tensors_in
from linkboy._tensors import transforms_active
from linkboy._walk import unwrapped
from linkboy._watch import _graph
from linkboy._watch._places import in_library, user_frame, user_line
from linkboy._watch._record import Leaf, LossCall, NotFinite, OptimizerFacts, OutputRows, Record, Root, Units

HEAVY = 0.9  # share of zeros from which on a dropout leaves next to nothing
MOST_VALUES = 5_000_000  # parameters whose values are compared in full before and after a step
EARLY, EVERY = 12, 10  # steps that are measured: the first ones, and then one in ten
UNNAMED = "a tensor"
SMALL = 65536  # numbers of a gradient that is copied
WALKS = 4
FIT_WALKS = 2  # those of `fit`, which sees by the gradients as well what takes part
_STATELESS = ("SGD", "LBFGS", "ASGD", "Rprop")


def measured(number: int) -> bool:
    """Return whether a step is one of those that are looked at closely."""
    return number < EARLY or number % EVERY == 0


class TrainingObserver:
    """What is known of a running training; `record` is the part that checks may see.

    Args:
        fit: whether `fit` drives it, which owns the loop and is looked at in a few steps only.
    """

    def __init__(self, *, fit: bool = False) -> None:
        self.record = Record(fit=fit)
        self.thread = threading.get_ident()
        self.pending: list[tuple[int, bool]] = []  # models called with gradient since the last step, and their mode
        self.busy = False  # set while the observer itself runs torch
        self.stack: list[nn.Module] = []
        self._leaf_of: dict[int, tuple[Any, Leaf]] = {}  # by id: a weak reference, and what is known
        self._numbers: dict[int, int] = {}
        self._root_of: dict[int, tuple[Any, int]] = {}
        self._inside: dict[int, set[int]] = {}
        self._optimizer_of: dict[int, tuple[Any, OptimizerFacts]] = {}
        self._ran: set[int] = set()
        self._named: dict[int, tuple[int, str, nn.Module]] = {}
        self._emptied: dict[int, bool] = {}
        self._filled: dict[int, bool] = {}
        self._used: dict[int, list[Tensor]] = {}
        self._taken: dict[int, list[Tensor]] = {}  # by `autograd.grad`, since the last step
        self._before: dict[int, list[tuple[int, Tensor, Tensor, bool]]] = {}
        self._alive: dict[str, Tensor] = {}
        self._marks: dict[int, list[tuple[int, int]]] = {}
        self._steep: list[tuple[str, str]] = []
        self._asked: set[int] = set()  # tensors of optimizers that asked for a gradient in a backward pass of this step
        self.made_by_hand: Callable[[Tensor], bool] = lambda tensor: False
        self.on_loss: Callable[[LossCall, Tensor | None], None] | None = None
        self.on_step: Callable[[OptimizerFacts, dict[int, dict[str, Any]]], None] | None = None

    # ---------------------------------------------------------------------------------------------------------- modules
    @contextlib.contextmanager
    def module_calls(self) -> Iterator[None]:
        """Watch every call of a module while the block runs."""
        # torch.compile warns of global hooks; these are ours, and what the script prints must stay its own.
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks", UserWarning)
        silenced = warnings.filters[0]
        first = register_module_forward_pre_hook(self._enter)
        last = register_module_forward_hook(self._leave, with_kwargs=True, always_call=True)
        try:
            yield
        finally:
            if silenced in warnings.filters:
                warnings.filters.remove(silenced)  # type: ignore[attr-defined]  # a list, whatever its annotation
            first.remove()
            last.remove()
            # torch's handle forgets this one mark, for which every later torch.compile would warn of a global hook.
            modules._global_forward_hooks_with_kwargs.pop(last.id, None)
            self.stack.clear()

    def _mine(self) -> bool:
        return (
            not torch.compiler.is_compiling()
            and not self.busy
            and threading.get_ident() == self.thread
            and not transforms_active()
        )

    def _enter(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():  # asked first, so that compiled code is not cut here
            return
        if not self._mine():
            return
        self._ran.add(id(module))
        if self.stack and (self.record.walks < WALKS):
            self._note_inner(module)
        self.stack.append(module)

    def _leave(self, module: nn.Module, args: Any, *others: Any) -> None:
        # torch passes no kwargs after a forward that raised
        kwargs, output = others if len(others) == 2 else ({}, None)
        if torch.compiler.is_compiling():
            return
        if not self._mine() or not self.stack:
            return
        while self.stack and self.stack.pop() is not module:
            pass
        if not self.stack:
            self.called(module, args, kwargs, output)

    def called(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> int | None:
        """Record a call of a model by the program; return the index of the model, `None` for a loss module."""
        number = self.root_number(module)
        if number is None:
            return None
        root = self.record.roots[number]
        root.calls += 1
        training = _mode(module, root)
        root.modes["train" if training else "eval"] += 1
        if torch.is_grad_enabled():
            outputs = tensors_in(output)
            if any(tensor.requires_grad for tensor in outputs):
                self.pending.append((number, training))
                if self.record.walks < WALKS:
                    self._note_lent(module, number)
                if measured(self.record.steps):
                    self._watch_rows(number, outputs)
        return number

    def _note_lent(self, module: nn.Module, number: int) -> None:
        """Name the tensors of an optimizer that stand in for a model's own in this call, as `functional_call` has it."""
        for path, owner in unwrapped(module).named_modules():
            for key, tensor in owner._parameters.items():
                known = None if tensor is None else self._leaf_of.get(id(tensor))
                if known is None or known[0]() is not tensor or known[1].root is not None or not known[1].optimizers:
                    continue
                leaf = known[1]
                leaf.root, leaf.registered, leaf.owner = number, True, path
                leaf.name, leaf.ran = f"{path}.{key}".lstrip("."), leaf.ran or id(owner) in self._ran

    def called_whole(self, module: nn.Module, output: Any) -> None:
        """Record a call of a model whose parts are not watched; all of them count as run."""
        self._ran.update(id(each) for each in module.modules())
        self.called(module, (), {}, output)

    def root_number(self, module: nn.Module) -> int | None:
        """Return the index of a model, made at its first call; `None` for what holds nothing to train."""
        module = unwrapped(module)
        known = self._root_of.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        if not any(True for _ in module.parameters()):
            return None
        for other in list(self._root_of.values()):  # a part of a model that was seen before is that model
            whole = other[0]()
            if whole is not None and id(module) in self._modules_in(whole):
                return other[1]
        return self._new_root(module)

    def _new_root(self, module: nn.Module) -> int:
        number = len(self.record.roots)
        kind = type(module).__name__
        name = self._variable(module) or kind
        facts = Root(name, kind, library=_is_library(module), place=user_line())
        facts.noisy = tuple(
            f"{type(each).__name__} {path}".strip() for path, each in module.named_modules() if _is_noisy(each)
        )
        facts.heavy = tuple(
            (f"{type(each).__name__} {path}".strip(), each.p)
            for path, each in module.named_modules()
            if isinstance(each, _DropoutNd) and each.p >= HEAVY
        )
        self.record.roots.append(facts)
        self._root_of[id(module)] = (weakref.ref(module), number)
        return number

    def _variable(self, module: nn.Module) -> str:
        """Return the variable of the program that holds a module, looked for around the line that runs."""
        frame = user_frame()
        for _ in range(3):
            if frame is None:
                return ""
            for names in (frame.f_locals, frame.f_globals):
                found = next(
                    (name for name, value in list(names.items()) if value is module and not name.startswith("_")), ""
                )
                if found and not _is_self(frame, module):
                    return found
            frame = frame.f_back and user_frame(frame.f_back)
        return ""

    def _modules_in(self, module: nn.Module) -> set[int]:
        known = self._inside.get(id(module))
        if known is None:
            known = self._inside[id(module)] = {id(each) for each in module.modules()}
        return known

    def _note_inner(self, module: nn.Module) -> None:
        """Record a module that runs inside a model without being one of its modules."""
        outer = unwrapped(self.stack[0])
        if id(module) in self._modules_in(outer):
            return
        self._inside.pop(id(outer), None)  # it may have been put in place since
        if id(module) in self._modules_in(outer):
            return
        direct = list(module.parameters(recurse=False))
        number = self.root_number(outer)
        for parameter in direct:
            leaf = self.leaf(parameter)
            if leaf.registered and leaf.root in (None, number):
                leaf.registered = False
                leaf.held_by = _attribute_holding(outer, module) or f"a {type(module).__name__} made inside forward"
                leaf.owner = type(module).__name__
                leaf.ran = True

    # ----------------------------------------------------------------------------------------------------------- leaves
    def leaf(self, tensor: Tensor) -> Leaf:
        """Return what is known of a trained tensor, which begins to be known here."""
        known = self._leaf_of.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        facts = Leaf(UNNAMED, tuple(tensor.shape), is_parameter=isinstance(tensor, nn.Parameter))
        facts.requires_grad, facts.born = tensor.requires_grad, self.record.backwards
        number = len(self.record.leaves)
        self._leaf_of[id(tensor)] = (weakref.ref(tensor), facts)
        self._numbers[id(tensor)] = number
        self.record.leaves[number] = facts
        return facts

    def name_if_unnamed(self, tensor: Tensor, name: str) -> None:
        """Give a trained tensor that is known a name, if it has none."""
        known = self._leaf_of.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1].name == UNNAMED:
            known[1].name = name

    def live_leaves(self) -> list[tuple[Tensor, Leaf]]:
        """Return the trained tensors that are still there, with what is known of them."""
        known = [(reference(), leaf) for reference, leaf in self._leaf_of.values()]
        return [(tensor, leaf) for tensor, leaf in known if tensor is not None]

    def leaf_number(self, tensor: Tensor) -> int:
        """Return the number of a trained tensor in the record."""
        self.leaf(tensor)
        return self._numbers[id(tensor)]

    def name_leaves(self) -> None:
        """Give every tensor of the models that were called its name there, and what its module is."""
        for reference, number in list(self._root_of.values()):
            module = reference()
            if module is None:
                continue
            several = len(self.record.roots) > 1
            prefix = f"{self.record.roots[number].name}." if several else ""
            total = 0
            installed: dict[str, bool] = {}  # whether the nearest module around a path that is not torch's is installed
            for path, owner in module.named_modules():
                above = installed.get(path.rpartition(".")[0], False)
                library = installed[path] = above if _of_torch(owner) else _is_library(owner)
                for key, parameter in owner._parameters.items():
                    if parameter is None:
                        continue
                    leaf = self.leaf(parameter)
                    if leaf.root is None or leaf.root == number:
                        leaf.root, leaf.registered, leaf.held_by = number, True, ""
                        leaf.owner = path
                        leaf.name = prefix + (f"{path}.{key}" if path else key)
                        leaf.library = leaf.library or library
                    leaf.ran = leaf.ran or id(owner) in self._ran
                    leaf.requires_grad = parameter.requires_grad
                    if not self.record.fit:
                        leaf.misspelled = leaf.misspelled or _misspelled(parameter, owner, module)
                    total += leaf.numel
                if not _of_torch(owner):
                    self._note_plain_tensors(owner, path, number, prefix)
            self.record.roots[number].parameter_count = total

    def _note_plain_tensors(self, owner: nn.Module, path: str, number: int, prefix: str) -> None:
        for key, value in vars(owner).items():
            if key.startswith("_"):
                continue
            for tensor, place in held_tensors(value, key):
                known = self._leaf_of.get(id(tensor))
                if known is not None and known[0]() is tensor and known[1].root is None:
                    known[1].root, known[1].registered, known[1].held_by = number, False, place
                    known[1].name = prefix + (f"{path}.{place}" if path else place)

    # ------------------------------------------------------------------------------------------------------- optimizers
    def optimizer(self, optimizer: Optimizer, *, place: str = "") -> OptimizerFacts:
        """Return what is known of an optimizer, which begins to be known here."""
        known = self._optimizer_of.get(id(optimizer))
        if known is not None and known[0]() is optimizer:
            facts = known[1]
        else:
            facts = OptimizerFacts(type(optimizer).__name__, place)
            self._optimizer_of[id(optimizer)] = (weakref.ref(optimizer), facts)
            self.record.optimizers.append(facts)
            groups = optimizer.param_groups
            facts.weight_decay = max((float(group.get("weight_decay") or 0) for group in groups), default=0.0)
            facts.stateful = facts.kind not in _STATELESS or any(group.get("momentum") for group in groups)
        return facts

    def _hold(self, optimizer: Optimizer, facts: OptimizerFacts) -> None:
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        if len(tensors) == len(facts.leaves):
            return
        index = next(i for i, each in enumerate(self.record.optimizers) if each is facts)
        facts.leaves = [self.leaf_number(tensor) for tensor in tensors]
        for number in facts.leaves:
            leaf = self.record.leaves[number]
            if index not in leaf.optimizers:
                leaf.optimizers.append(index)

    def _live_optimizers(self) -> Iterator[tuple[Optimizer, OptimizerFacts]]:
        for reference, facts in list(self._optimizer_of.values()):
            optimizer = reference()
            if optimizer is not None:
                yield optimizer, facts

    # --------------------------------------------------------------------------------------------------------- backward
    def backward_begins(self, tensors: Tensor | Sequence[Tensor]) -> None:
        """Look at the graph of some losses, and at the gradients that are already there."""
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        record, number = self.record, self.record.backwards
        deep = number < WALKS or number % EVERY == 0
        for optimizer, facts in self._live_optimizers():
            self._hold(optimizer, facts)
            empty = gradients_empty(optimizer)
            self._emptied[id(facts)] = self._emptied.get(id(facts), False) or empty
            self._marks[id(facts)] = _marks(optimizer)
            if measured(facts.steps):
                asking = (t for group in optimizer.param_groups for t in group["params"] if t.requires_grad)
                self._asked.update(map(id, asking))
        walked = _graph.walk(roots, deep=deep, scaled=record.in_scaler)
        self._read_losses(walked, full=measured(record.steps))
        if deep:
            self._read_graph(walked, roots)
        self._read_value(roots, walked.scale)
        record.backwards += 1

    def look_at_graph(self, losses: Tensor, optimizer: Optimizer, *, leaves: bool) -> None:
        """Look at the graph of some losses, for a loop that holds the gradients itself.

        Args:
            losses: what `backward` will be called on; need not be reduced.
            optimizer: the optimizer of the loop.
            leaves: whether the tensors of the graph are those of the model; FSDP2 has others in it.
        """
        record = self.record
        self._hold(optimizer, self.optimizer(optimizer))
        deep = record.walks < FIT_WALKS
        walked = _graph.walk([losses], deep=deep)
        self._read_losses(walked, full=True)
        if not bool(losses.detach().isfinite().all()):
            self._steep = list(_graph.steep_places(walked.nodes))
        if deep:
            record.walks += 1
            record.squashed += _graph.squashed(walked.nodes)
            record.broadcasts += _graph.broadcasts([losses])
            self.name_leaves()
            if leaves:
                self._note_leaves(walked)
        record.backwards += 1

    def skipped(self, what: str) -> None:
        """Note a step that a loop left out because its loss or its gradient was not finite."""
        reason, place = next(iter(self._steep), ("", ""))
        self.record.not_finite = NotFinite(what, f"the {what}", self.record.steps, place, reason)

    def step_seen(self, optimizer: Optimizer, *, leaves: bool) -> None:
        """Close a step of a loop that empties the gradients itself, while they are still there.

        Args:
            optimizer: the optimizer of the loop.
            leaves: as for `look_at_graph`; where the graph does not tell, the gradients do.
        """
        facts = self.optimizer(optimizer)
        mine = set(facts.leaves)
        for tensor, leaf in self.live_leaves():
            if leaf.root is None and not leaf.optimizers:
                continue
            seen = tensor.grad is not None
            if not leaves:
                leaf.walks, leaf.in_graphs = leaf.walks + 1, leaf.in_graphs + seen
            elif seen and not leaf.in_graphs and self._numbers[id(tensor)] in mine:
                leaf.in_graphs = 1
        facts.backwards += any(t.grad is not None for group in optimizer.param_groups for t in group["params"])
        facts.empty += gradients_empty(optimizer, most=1 << 30)
        self._close_step(facts)

    def _read_losses(self, walked: _graph.Walked, *, full: bool) -> None:
        for node, call, given, target in walked.losses:
            call.backward, call.step = self.record.backwards, self.record.steps
            call.made_by_hand = target is not None and self.made_by_hand(target)
            _graph.fill_values(call, given, target, full=full)
            if call.reduction == "none":
                call.part_at = _graph.part_taken(walked.nodes, node)
            call.index = len(self.record.losses)
            self.record.losses.append(call)
            node.register_prehook(_coefficient_into(call))
            if self.on_loss is not None:
                self.on_loss(call, target)

    def _read_graph(self, walked: _graph.Walked, roots: Sequence[Tensor]) -> None:
        record = self.record
        record.walks += 1
        record.squashed += _graph.squashed(walked.nodes)
        record.broadcasts += _graph.broadcasts(roots)
        if len(record.softmaxes) < 64:
            record.softmaxes += _graph.softmax_dims(walked.nodes)
        self._steep = list(_graph.steep_places(walked.nodes))
        for nth, (where, alive, samples) in enumerate(_graph.relu_results(walked.nodes)):
            self._note_units(f"{nth}:{len(alive)}", where, alive, samples)
        self.name_leaves()
        self._note_leaves(walked)

    def _note_units(self, key: str, where: str, alive: Tensor, samples: int) -> None:
        known = self._alive.get(key)
        self._alive[key] = alive if known is None else known | alive
        facts = self.record.units.get(key) or Units(where, len(alive), 0, 0, 0)
        facts.place = facts.place or where
        facts.samples, facts.batches = facts.samples + samples, facts.batches + 1
        facts.dead = int((~self._alive[key]).sum())
        self.record.units[key] = facts

    def _note_leaves(self, walked: _graph.Walked) -> None:
        record = self.record
        reached: set[int] = set()
        for tensor, _ in walked.leaves.values():
            leaf = self.leaf(tensor)
            leaf.in_graphs += 1
            reached.add(self._numbers[id(tensor)])
        roots = {record.leaves[number].root for number in reached} - {None}
        groups = {index for number in reached for index in record.leaves[number].optimizers}
        for leaf in record.leaves.values():
            if leaf.root in roots or groups.intersection(leaf.optimizers):
                leaf.walks += 1
        for tensor, users in walked.leaves.values():
            leaf = self.leaf(tensor)
            if not leaf.optimizers and leaf.registered and not leaf.feeds_trained:
                leaf.feeds_trained = _graph.reaches(users, lambda other: bool(self.leaf(other).optimizers))

    def _read_value(self, roots: Sequence[Tensor], scale: float) -> None:
        record = self.record
        if not roots or roots[0].numel() != 1 or roots[0].is_meta:
            return
        if roots[0].device.type != "cpu" and not measured(record.steps):
            return  # reading would wait for the device
        value = roots[0].detach().item()
        if isinstance(value, (int, float)):
            record.loss_values.append(float(value) / scale)
            if not math.isfinite(value) and record.not_finite is None:
                what, place = next(iter(self._steep), ("", ""))
                record.not_finite = NotFinite("loss", "the loss", record.steps, place or user_line(), what)

    def backward_ended(self) -> None:
        """Note which optimizers the backward pass filled."""
        for optimizer, facts in self._live_optimizers():
            if self._marks.pop(id(facts), None) != _marks(optimizer):
                facts.backwards += 1
                facts.since_step += 1
                if not gradients_empty(optimizer):
                    self._filled[id(facts)] = True

    def trains(self, tensors: Iterable[Tensor]) -> bool:
        """Return whether an optimizer holds one of some tensors."""
        wanted = set(map(id, tensors))
        held = (
            t for optimizer, _ in self._live_optimizers() for group in optimizer.param_groups for t in group["params"]
        )
        return any(id(tensor) in wanted for tensor in held)

    def gradients_taken(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """Note gradients that the program has taken itself, to give them to its optimizers."""
        taken = dict(zip(map(id, tensors), gradients, strict=True))
        for optimizer, facts in self._live_optimizers():
            mine = [taken.get(id(t)) for group in optimizer.param_groups for t in group["params"]]
            dense = [g for g in mine if g is not None and g.layout is torch.strided and g.numel() <= SMALL]
            if dense:
                facts.backwards += 1
                facts.since_step += 1
                self._taken[id(facts)] = [gradient.detach().clone() for gradient in dense[:2]]

    # ------------------------------------------------------------------------------------------------------------- rows
    def _watch_rows(self, root: int, outputs: Iterable[Tensor]) -> None:
        for output in outputs:
            if output.requires_grad and output.grad_fn is not None and output.dim() >= 1 and output.shape[0] >= 4:
                output.register_hook(_rows_into(self.record, root, self.record.steps))
                return

    # ------------------------------------------------------------------------------------------------------------ steps
    def step_begins(self, optimizer: Optimizer, *, closure: bool = False) -> None:
        """Look at the gradients that a step is about to use, and keep values to compare with."""
        facts = self.optimizer(optimizer)
        self._hold(optimizer, facts)
        facts.closure = facts.closure or closure
        facts.lrs.append(max((float(group.get("lr") or 0) for group in optimizer.param_groups), default=0.0))
        if not facts.place_step:
            facts.place_step = user_line()
        if not closure:
            self._note_gradients_used(optimizer, facts)
        facts.per_step.append(facts.since_step)
        if measured(facts.steps):
            self._keep_values(optimizer, facts)
        self._look_for_non_finite(optimizer, facts)

    def step_ended(self, optimizer: Optimizer) -> None:
        """Compare the values with those before the step, and close it."""
        facts = self.optimizer(optimizer)
        changes = self._compare_values(facts)
        self._used[id(facts)] = [g.detach().clone() for g in some_gradients(optimizer, 2)]
        self._emptied[id(facts)] = self._filled[id(facts)] = False
        self._note_moved(changes)
        if facts.closure and not self.record.backwards:  # the closure has run, and differentiated nothing
            facts.empty += gradients_empty(optimizer)
        self._asked.difference_update(id(t) for group in optimizer.param_groups for t in group["params"])
        self._close_step(facts)
        if self.on_step is not None:
            self.on_step(facts, changes)

    def _note_moved(self, changes: dict[int, dict[str, Any]]) -> None:
        for number, change in changes.items():
            leaf = self.record.leaves[number]
            leaf.moved = leaf.moved or (change["frozen"] and change["change"] > 0)

    def _close_step(self, facts: OptimizerFacts) -> None:
        facts.steps += 1
        facts.since_step = 0
        mine = {leaf.root for leaf in self._leaves_of(facts)}
        waiting: dict[
            int, bool
        ] = {}  # models of an optimizer that steps later, as those of an encoder and a decoder do
        for number, training in self.pending:
            if number in mine:
                self.record.roots[number].training.append(training)
            elif self._steps_of(number) >= len(self.record.roots[number].training):
                waiting[number] = training
        self.pending = list(waiting.items())
        self.record.steps += 1

    def _steps_of(self, root: int) -> int:
        """Return how many steps an optimizer has made that holds a part of a model; -1 where none does."""
        holders = {index for leaf in self.record.leaves.values() if leaf.root == root for index in leaf.optimizers}
        return max((self.record.optimizers[index].steps for index in holders), default=-1)

    def _leaves_of(self, facts: OptimizerFacts) -> list[Leaf]:
        return [self.record.leaves[number] for number in facts.leaves]

    def _note_gradients_used(self, optimizer: Optimizer, facts: OptimizerFacts) -> None:
        """Note a step on top of used gradients, on none, or on those of the step before."""
        empty, reached = gradients_empty(optimizer), facts.since_step > 0
        # of many gradients a few were looked at, and an initialisation may leave just those at zero
        facts.empty += empty and gradients_empty(optimizer, most=1 << 30)
        if facts.steps and reached and not empty and self._on_top(optimizer, facts):
            facts.stale += 1
        if reached and empty and self._filled.get(id(facts), False):
            facts.wiped += 1
        if facts.steps and not reached and not empty and self._same_as_used(optimizer, facts):
            facts.doubled += 1
            facts.place_again = facts.place_again or user_line()

    def _on_top(self, optimizer: Optimizer, facts: OptimizerFacts) -> bool:
        """Return whether what a step uses was added to the gradient that the step before had used."""
        taken = self._taken.pop(id(facts), None)
        if taken is None:
            return not self._emptied.get(id(facts), False)
        used, now = self._used.get(id(facts), []), some_gradients(optimizer, 2)
        return len(used) == len(taken) == len(now) and all(
            torch.allclose(sum_, before + new, rtol=1e-3) for sum_, before, new in zip(now, used, taken, strict=True)
        )

    def _same_as_used(self, optimizer: Optimizer, facts: OptimizerFacts) -> bool:
        used, now = self._used.get(id(facts), []), some_gradients(optimizer, 2)
        return len(used) == len(now) > 0 and all(map(torch.equal, used, now))

    def _keep_values(self, optimizer: Optimizer, facts: OptimizerFacts) -> None:
        tensors = [
            t for group in optimizer.param_groups for t in group["params"] if isinstance(t, Tensor) and t.numel()
        ]
        total = sum(tensor.numel() for tensor in tensors)
        share = min(1.0, MOST_VALUES / max(total, 1))
        kept = []
        for tensor in tensors:
            view = tensor.detach()
            if share < 1 and view.dim():
                view = view[: max(1, int(share * view.shape[0]))]
            if view.layout is torch.strided and view.is_floating_point():
                kept.append(
                    (
                        self.leaf_number(tensor),
                        view.clone(),
                        view,
                        not tensor.requires_grad and id(tensor) not in self._asked,
                    )
                )
        self._before[id(facts)] = kept

    def _compare_values(self, facts: OptimizerFacts) -> dict[int, dict[str, Any]]:
        """Return what the step changed, and add the change of all matrices as a share of their size."""
        changes: dict[int, dict[str, Any]] = {}
        moved = size = 0.0
        for number, before, now, frozen in self._before.pop(id(facts), []):
            change, weight = float((now - before).norm()), float(before.norm())
            changes[number] = {"change": change, "weight": weight, "before": before, "now": now}
            changes[number]["frozen"] = frozen
            if before.dim() >= 2 and before.numel() >= 16 and weight != 0:  # also where it is not a number
                moved, size = moved + change**2, size + weight**2
        if changes and size == 0 and any(change["change"] for change in changes.values()):
            facts.from_zero = True
        elif size > 0 and math.isfinite(moved):
            facts.relative.append(math.sqrt(moved / size))
        return changes

    def _look_for_non_finite(self, optimizer: Optimizer, facts: OptimizerFacts) -> None:
        record = self.record
        if record.not_finite is not None or record.in_scaler:
            return
        gradients = [t.grad for group in optimizer.param_groups for t in group["params"] if t.grad is not None]
        gradients = [g for g in gradients if g.layout is torch.strided and g.is_floating_point() and not g.is_meta]
        if not gradients or (gradients[0].device.type != "cpu" and not measured(facts.steps)):
            return
        norms = torch._foreach_norm(gradients)  # type: ignore[attr-defined]  # public in all but name
        if bool(torch.stack([norm.to(norms[0].device, torch.float32) for norm in norms]).isfinite().all()):
            return
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None and not bool(tensor.grad.isfinite().all()):
                    what, place = next(iter(self._steep), ("", ""))
                    name = self.leaf(tensor).name
                    record.not_finite = NotFinite("gradient", name, record.steps, place or facts.place_step, what)
                    return


def _is_self(frame: FrameType, module: nn.Module) -> bool:
    """Return whether a frame runs a method of a module, in which it has the name of the first parameter, whatever that is."""
    own = getattr(type(module), frame.f_code.co_name, None)
    return getattr(own, "__code__", None) is frame.f_code


def gradients_empty(optimizer: Optimizer, most: int = 8) -> bool:
    """Return whether the gradients of an optimizer are all `None` or zero; of many, a few are looked at."""
    looked = 0
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            if tensor.grad is None:
                continue
            looked += 1
            if tensor.grad.layout is not torch.strided or bool(tensor.grad.flatten()[:256].any()):
                return False  # nearly always, and at once
            if bool(tensor.grad.any()):
                return False
            if looked >= most:
                return True
    return True


def _marks(optimizer: Optimizer) -> list[tuple[int, int]]:
    """Return what differs once a backward pass has written into the gradients."""
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    if len(tensors) > 64:
        tensors = tensors[:32] + tensors[-32:]
    return [(0, 0) if t.grad is None else (id(t.grad), t.grad._version) for t in tensors]


def some_gradients(optimizer: Optimizer, most: int) -> list[Tensor]:
    """Return the first gradients of an optimizer that are small enough to be copied."""
    found: list[Tensor] = []
    for group in optimizer.param_groups:
        for tensor in group["params"]:
            if tensor.grad is not None and tensor.grad.layout is torch.strided and tensor.grad.numel() <= SMALL:
                found.append(tensor.grad)
                if len(found) == most:
                    return found
    return found


def _coefficient_into(call: LossCall) -> Callable[[Any], None]:
    def note(gradients: Any) -> None:
        gradient = gradients[0] if gradients else None
        if gradient is None:
            return
        if gradient.numel() == 1:
            call.coefficient = float(gradient) / call.scale
        else:
            rows = gradient.detach().reshape(gradient.shape[0], -1)
            silent = (rows == 0).all(1)
            call.silent = tuple(silent.nonzero().flatten().tolist())
            call.coefficient = float(gradient.detach().float().sum()) / call.scale

    return note


def _rows_into(record: Record, root: int, step: int) -> Callable[[Tensor], None]:
    def note(gradient: Tensor) -> None:
        if gradient is None or gradient.layout is not torch.strided or gradient.dim() < 1:
            return
        rows = gradient.detach().reshape(gradient.shape[0], -1)
        silent = tuple((rows == 0).all(1).nonzero().flatten().tolist())
        record.output_rows.append(OutputRows(root, step, gradient.shape[0], silent))

    return note


def _mode(module: nn.Module, root: Root) -> bool:
    if module.training or not root.noisy:
        return bool(module.training)
    return any(each.training for each in module.modules() if _is_noisy(each))


def _is_noisy(module: nn.Module) -> bool:
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, _NormBase):
        return module.track_running_stats and module.running_mean is not None
    dropout = getattr(module, "dropout", 0.0)
    return isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) and isinstance(dropout, float) and dropout > 0


def _is_library(module: nn.Module) -> bool:
    code = getattr(getattr(type(module), "forward", None), "__code__", None)
    return code is not None and in_library(code.co_filename)


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.")


_LIKE = "requires_grad"


def _misspelled(parameter: Tensor, owner: nn.Module, model: nn.Module) -> str:
    """Return an attribute that someone set in order to freeze, and that freezes nothing."""
    if not parameter.requires_grad:
        return ""
    for name, value in getattr(parameter, "__dict__", {}).items():
        if value is False and name != _LIKE and difflib.SequenceMatcher(None, name, _LIKE).ratio() > 0.75:
            return name
    for name, value in vars(owner).items():
        if value is False and difflib.SequenceMatcher(None, name, _LIKE).ratio() > 0.75:
            return f"{type(owner).__name__}.{name}"
    return ""


def held_tensors(value: Any, key: str) -> Iterator[tuple[Tensor, str]]:
    """Yield the trained tensors in an attribute, also in a list or dict."""
    if isinstance(value, Tensor):
        if value.requires_grad and value.is_leaf:
            yield value, key
    elif isinstance(value, (list, tuple)) and len(value) <= 256:
        for number, item in enumerate(value):
            if isinstance(item, Tensor):
                yield from held_tensors(item, f"{key}[{number}]")
    elif isinstance(value, dict) and len(value) <= 256:
        for name, item in value.items():
            if isinstance(item, Tensor):
                yield from held_tensors(item, f"{key}[{name!r}]")


def _attribute_holding(outer: nn.Module, module: nn.Module) -> str:
    """Return the attribute of a model whose list or dict holds a module, such as `self.blocks`."""
    for path, each in outer.named_modules():
        for key, value in vars(each).items():
            if key.startswith("_"):
                continue
            items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
            for item in items:
                if isinstance(item, nn.Module) and (item is module or any(m is module for m in item.modules())):
                    kind = type(value).__name__
                    return f"the {kind} {path + '.' if path else ''}{key}"
    return ""
