"""Watch a program: patches that tell an observer what torch is asked to do, and nothing of what it answers is "
"changed."""

import contextlib
import dis
import gc
import inspect
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, Subset

from linkboy._calls import Arguments, map_tensors, tensors_in
from linkboy._walk import is_norm, unwrapped
from linkboy._watch import LossCall, OptimizerFacts, TrainingObserver
from linkboy._watch._graph import op_of
from linkboy._watch._places import in_library, user_line
from linkboy.doctor._facts import Facts, LoaderFacts, SchedulerFacts, facts_of
from linkboy.doctor._patching import Patches
from linkboy.doctor._rows import Rows, named_inputs

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
LARGEST_EXAMPLE = 64 * 2**20
TRACED_STEPS = 2  # in which torch records the line of every operation
ALIVE_GRAPHS = 8


class Stop(BaseException):
    """Ends a watched program once enough steps were seen; not an `Exception`, so that few programs catch it."""


class Example:
    """The first batch that a model was trained on, copied; what the model is asked again with.

    Attributes:
        model: the model.
        arguments: copies of the arguments.
    """

    def __init__(self, model: nn.Module, arguments: Arguments) -> None:
        self.model, self.arguments = model, arguments


class Watcher:
    """Watches the program of this thread from `start` to `stop`.

    Args:
        steps: the number of steps after which `Stop` is raised; `None` never stops.
        passes: passes over the training loader that are awaited, even if the steps were made.
        batches: batches after which a pass over a loader ends; 0 never ends one.
    """

    active: "Watcher | None" = None

    def __init__(self, *, steps: int | None = None, passes: int = 0, batches: int = 0) -> None:
        self.steps, self.passes, self.batches = steps, passes, batches
        self.observer = _Observer(self)
        self.record = self.observer.record
        self.facts: Facts = facts_of(self.record)
        self.rows = Rows(self.facts)
        self.patches = Patches()
        self.examples: dict[int, Example] = {}
        self.datasets: list[Any] = []
        self.eval_loaders: list[Any] = []
        self.train_loaders: list[Any] = []
        self.functions: dict[str, tuple[Any, tuple[Any, ...], str]] = {}
        self.swallowed = 0
        self._stack = contextlib.ExitStack()
        self._process, self._thread = os.getpid(), threading.get_ident()
        self._quiet = 0
        self._loader: LoaderFacts | None = None
        self._schedulers: dict[int, tuple[Any, SchedulerFacts]] = {}
        self._scheduling = 0
        self._handmade: dict[int, Any] = {}
        self._states: list[tuple[Any, int, str, int]] = []
        self._graphs: list[tuple[Any, int]] = []
        self._scaled = False
        self._in_scaler = False
        self._class_logits: tuple[int, tuple[int, ...]] | None = None
        self._read_rows: dict[int, set[int]] = {}
        self._moved: dict[int, dict[str, Any]] = {}
        self._anomaly: bool | None = None
        self._loss_sites: Counter[str] = Counter()
        self.on_swallowed: Callable[[], None] | None = None
        self.stopped = 0
        self.pause_after: int | None = None
        self.paused = False

    # -------------------------------------------------------------------------------------------------------- start, stop
    def start(self) -> None:
        """Begin to watch.

        Raises:
            RuntimeError: something is watched already.
        """
        if Watcher.active is not None:
            raise RuntimeError("a training is watched already; end that watch before another one begins")
        Watcher.active = self
        self._stack.enter_context(self.observer.module_calls())
        for handle in (
            register_optimizer_step_pre_hook(self._step_begins),
            register_optimizer_step_post_hook(self._step_ended),
        ):
            self._stack.callback(handle.remove)
        self._stack.callback(self.patches.remove)
        self._patch_training()
        self._patch_losses()
        self._patch_data()
        self._patch_state()
        self._patch_compilers()
        self._anomaly = torch.is_anomaly_enabled()
        if not self._anomaly:
            torch.autograd.set_detect_anomaly(True, check_nan=False)
            self._stack.callback(self._end_tracing)

    def stop(self) -> None:
        """End the watch; everything that was patched is as before."""
        Watcher.active = None
        self._stack.close()

    def _end_tracing(self) -> None:
        if self._anomaly is False:
            self._anomaly = None
            torch.autograd.set_detect_anomaly(False)

    def on(self) -> bool:
        """Return whether the caller is the program that is watched, and not a worker, a thread, a compiler or "
        "ourselves."""
        return (
            not torch.compiler.is_compiling()
            and not self._quiet
            and not self.paused
            and not self.observer.busy
            and threading.get_ident() == self._thread
            and os.getpid() == self._process
        )

    def here(self) -> bool:
        """Return whether the caller is in the process that is watched."""
        return os.getpid() == self._process

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """See nothing of what the block does."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    # ----------------------------------------------------------------------------------------------------------- training
    def _patch_training(self) -> None:
        patches = self.patches
        patches.wrap(torch.autograd, "backward", self._backward)
        patches.wrap(torch.autograd, "grad", self._grad)
        patches.wrap(Optimizer, "__init__", self._optimizer_made)
        patches.wrap(LRScheduler, "__init__", self._scheduler_made)
        for owner in (torch.nn.utils, torch.nn.utils.clip_grad):
            for name in ("clip_grad_norm_", "clip_grad_value_"):
                patches.wrap(owner, name, self._clip)
        scaler = torch.amp.GradScaler
        patches.wrap(scaler, "scale", self._scale)
        patches.wrap(scaler, "unscale_", self._unscale)
        patches.wrap(scaler, "step", self._scaler_step)
        patches.set(torch.autograd.Function, "apply", classmethod(self._apply(vars(torch.autograd.Function)["apply"])))

    def _backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or not self.on():
                return original(tensors, *args, **kwargs)
            with self.quiet():
                self.observer.backward_begins(tensors)
                self._note_graph(tensors)
            traced = self._anomaly is False
            if traced:
                torch.autograd.set_detect_anomaly(False)
            try:
                return original(tensors, *args, **kwargs)
            finally:
                if traced:
                    torch.autograd.set_detect_anomaly(True, check_nan=False)
                with self.quiet():
                    self._after_backward()

        return backward

    def _grad(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def grad(*args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling() and self.on():
                self._loss_sites.clear()  # what is differentiated by hand is used
            return original(*args, **kwargs)

        return grad

    def _after_backward(self) -> None:
        self.observer.backward_ended()
        loader = self._loader
        self.rows.backward(-1 if loader is None else loader.dataset)
        if loader is not None:
            loader.backwards += 1
        for place, made in self._loss_sites.items():
            used = sum(
                call.place == place and call.backward == self.record.backwards - 1 for call in self.record.losses[-64:]
            )
            self.facts.loss_uses.append((place, made, used))
        self._loss_sites.clear()
        limit = 20 * (self.steps or 0)
        if self.steps and self.record.backwards >= max(limit, 200) and not self.record.steps:
            self._raise_stop()

    def _note_graph(self, tensors: Any) -> None:
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        for root in roots[:1]:
            if root.grad_fn is not None:
                self._note_head(root)
                sentinel = _Sentinel()
                with contextlib.suppress(AttributeError, TypeError):
                    metadata: Any = root.grad_fn.metadata
                    metadata["linkboy sentinel"] = sentinel
                    del metadata
                    self._graphs.append((weakref.ref(sentinel), self.record.steps))

    def _note_head(self, root: Tensor) -> None:
        """Note whether a loss is divided as a whole, and how large the differences of a mean of squares are."""
        node: Any = root.grad_fn
        if op_of(node) == "Div" and len([below for below, _ in node.next_functions if below is not None]) == 1:
            extra = self.record.extra
            extra["divided_roots"] = extra.get("divided_roots", 0) + 1
        while node is not None and op_of(node) in ("Mean", "Sum", "Div"):
            node = node.next_functions[0][0]
        if node is None or op_of(node) not in ("Pow", "Mul", "Abs") or self.record.steps % 10 > 3:
            return
        saved = getattr(node, "_saved_self", None)
        if isinstance(saved, Tensor) and saved.numel() > 1 and self.observer.output_rms is not None:
            residual = float(saved.detach().float().square().mean().sqrt())
            self.facts.residuals.append(
                (float(root.detach()) if root.numel() == 1 else 0.0, residual, self.observer.output_rms)
            )

    def _optimizer_made(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __init__(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(optimizer, *args, **kwargs)
            if self.on():
                with self.quiet():
                    self.observer.optimizer(optimizer, place=user_line())

        return __init__

    def _step_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self.on():
            return
        closure = kwargs.get("closure") or (
            args[1] if len(args) > 1 else args[0] if args and callable(args[0]) else None
        )
        with self.quiet():
            facts = self.observer.optimizer(optimizer)
            if self._scaled and not self._in_scaler and facts.since_step:
                self.facts.unscaled_steps += 1
                self.facts.unscaled_place = self.facts.unscaled_place or user_line()
            self.observer.step_begins(optimizer, closure=closure is not None and not isinstance(closure, Optimizer))
            self._look_at_gradients(optimizer, facts)

    def _step_ended(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self.on():
            return
        with self.quiet():
            facts = self.observer.optimizer(optimizer)
            self.observer.step_ended(optimizer)
            self.rows.note_ids()
            self.rows.step()
            self._scaled = False
            self._count_graphs()
            if self.record.steps >= TRACED_STEPS:
                self._end_tracing()
        if self.pause_after is not None and facts.steps >= self.pause_after:
            self.paused = True
            self._end_tracing()
        if self._enough(facts):
            self._raise_stop()

    def _raise_stop(self) -> None:
        if not self.stopped:
            with self.quiet():
                self.states_alive()  # while the program still holds what it holds
        self.stopped += 1
        if self.stopped > 2 and self.on_swallowed is not None:
            self.on_swallowed()
        raise Stop

    def _enough(self, facts: OptimizerFacts) -> bool:
        if self.steps is None:
            return False
        most = max((each.steps for each in self.record.optimizers), default=0)
        if most < self.steps and self.record.steps < 4 * self.steps:
            return False
        loader = self.facts.loader_of_training()
        waits = loader is not None and self.batches > 0 and loader.passes < self.passes and most < 4 * self.steps
        del facts
        return not waits

    def _look_at_gradients(self, optimizer: Optimizer, facts: OptimizerFacts) -> None:
        """Note how far apart the gradients of the matrices are, and rows that never get one."""
        sizes: list[tuple[float, str]] = []
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                grad = tensor.grad
                if grad is None or grad.layout is not torch.strided or grad.dim() < 2 or grad.device.type == "meta":
                    continue
                if facts.steps < 12 or facts.steps % 10 == 0:
                    leaf = self.observer.leaf(tensor)
                    rms = float(grad.detach().float().square().mean().sqrt())
                    sizes.append((rms, leaf.name))
                    self._note_silent_rows(tensor, grad)
        alive = [each for each in sizes if each[0] > 0]
        if len(alive) >= 2:
            small, large = min(alive), max(alive)
            self.facts.gradient_ratio.append((small[0] / large[0], small[1], large[1]))

    def _note_silent_rows(self, tensor: Tensor, grad: Tensor) -> None:
        known = self._moved.setdefault(self.observer.leaf_number(tensor), {})
        silent = (grad.detach() == 0).flatten(1).all(1)
        before = known.get("silent")
        known["silent"] = silent if before is None or before.shape != silent.shape else before & silent
        known["hooked"] = bool(getattr(tensor, "_backward_hooks", None)) or bool(
            getattr(tensor, "_post_accumulate_grad_hooks", None)
        )

    def _values_moved(self, optimizer: Optimizer, facts: OptimizerFacts, changes: dict[int, dict[str, Any]]) -> None:
        """Keep the first and the last value of a matrix some of whose rows never got a gradient."""
        del optimizer
        for number, change in changes.items():
            known = self._moved.get(number)
            if known is None or not facts.weight_decay or not bool(known["silent"].any()):
                continue
            known.setdefault("first", change["before"])
            known["last"] = change["now"].clone()

    # ---------------------------------------------------------------------------------------------------------- schedules
    def _scheduler_made(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __init__(scheduler: LRScheduler, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            for kind in type(scheduler).__mro__:
                step = vars(kind).get("step")
                if step is not None and not getattr(step, "linkboy", False) and kind is not object:
                    self.patches.wrap(kind, "step", self._scheduler_step)
            self._scheduling += 1
            try:
                original(scheduler, *args, **kwargs)
            finally:
                self._scheduling -= 1
            if self.on() and not self._scheduling:
                self._scheduler(scheduler, user_line())

        return __init__

    def _scheduler(self, scheduler: Any, place: str = "") -> SchedulerFacts:
        known = self._schedulers.get(id(scheduler))
        if known is not None and known[0] is scheduler:
            return known[1]
        facts = SchedulerFacts(type(scheduler).__name__, place)
        facts.period = int(getattr(scheduler, "T_max", 0) or 0)
        self._schedulers[id(scheduler)] = (scheduler, facts)
        self.facts.schedulers.append(facts)
        return facts

    def _scheduler_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            outermost = not self._scheduling and self.on()
            if outermost:
                self._note_scheduler_step(scheduler)
            self._scheduling += 1
            try:
                return original(scheduler, *args, **kwargs)
            finally:
                self._scheduling -= 1

        step.linkboy = True  # type: ignore[attr-defined]
        return step

    def _note_scheduler_step(self, scheduler: Any) -> None:
        facts = self._scheduler(scheduler)
        optimizer: Any = getattr(scheduler, "optimizer", None)
        while optimizer is not None and not isinstance(optimizer, Optimizer) and hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        if not isinstance(optimizer, Optimizer):
            return
        of = self.observer.optimizer(optimizer)
        facts.optimizer = next(i for i, each in enumerate(self.record.optimizers) if each is of)
        facts.steps += 1
        facts.early += of.steps == 0
        facts.skipped_by_scaler = facts.skipped_by_scaler or self.facts.scaler_steps > of.steps
        facts.at.append(of.steps)
        facts.passes_at.append(0 if self._loader is None else self._loader.passes)
        facts.place_step = facts.place_step or user_line()

    # ------------------------------------------------------------------------------------------------------ clips, scalers
    def _clip(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.on():
                return original(parameters, *args, **kwargs)
            given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            self._note_clip(given)
            with self.quiet():
                return original(given, *args, **kwargs)

        return clip

    def _note_clip(self, tensors: list[Any]) -> None:
        ids = {id(tensor) for tensor in tensors}
        mine = [
            facts
            for optimizer, facts in self.observer._live_optimizers()
            if any(id(t) in ids for group in optimizer.param_groups for t in group["params"])
        ]
        self.facts.clips += 1
        self.facts.clip_place = self.facts.clip_place or user_line()
        self.facts.late_clips += bool(mine) and all(facts.steps and not facts.since_step for facts in mine)
        self.facts.scaled_clips += self._scaled

    def _scale(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def scale(scaler: Any, outputs: Any) -> Any:
            if self.on() and scaler.is_enabled():
                self._scaled = True
                self.record.in_scaler = True
            return original(scaler, outputs)

        return scale

    def _unscale(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def unscale_(scaler: Any, optimizer: Any) -> Any:
            if self.on():
                self._scaled = False
            return original(scaler, optimizer)

        return unscale_

    def _scaler_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if self.on():
                self.facts.scaler_steps += 1
            before, self._in_scaler = self._in_scaler, True
            try:
                return original(scaler, optimizer, *args, **kwargs)
            finally:
                self._in_scaler = before

        return step

    def _apply(self, original: Any) -> Callable[..., Any]:
        """Return what takes the place of a class method, which is one of Python or, from torch 2.15 on, one of C."""

        def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling() and cls.__name__ not in self.functions and self.on():
                self._keep_function(cls, args, kwargs)
            return original.__get__(None, cls)(*args, **kwargs)

        return apply

    def _keep_function(self, cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        code = getattr(getattr(cls, "forward", None), "__code__", None)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if code is None or in_library(code.co_filename) or kwargs or not any(t.requires_grad for t in tensors):
            return
        if sum(t.numel() for t in tensors) > 2**20:
            return
        kept = tuple(a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in args)
        place = f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}  class {cls.__name__}"  # noqa: PTH119
        self.functions[cls.__name__] = (cls, kept, place)

    # -------------------------------------------------------------------------------------------------------------- losses
    def _patch_losses(self) -> None:
        for name in WATCHED_LOSSES:
            self.patches.wrap(F, name, lambda original, name=name: self._loss(original, name))
        self.patches.wrap(F, "embedding", lambda original: self._embedding(original, 0))
        self.patches.wrap(F, "embedding_bag", lambda original: self._embedding(original, 7))
        for owner in (torch, Tensor):
            for name in ("argmax", "max"):
                self.patches.wrap(owner, name, lambda original, name=name: self._best(original, name))
        for name in FACTORIES:
            self.patches.wrap(torch, name, self._factory)
        for name in METHODS:
            self.patches.wrap(Tensor, name, self._factory)
        self.observer.made_by_hand = self.is_handmade
        self.observer.on_step = self._values_moved
        self.observer.on_loss = self._loss_in_graph

    def is_handmade(self, tensor: Tensor) -> bool:
        """Return whether a tensor was made by `torch.ones`, `torch.zeros` and the like."""
        known = self._handmade.get(tensor.untyped_storage()._cdata)
        return known is not None and known() is not None

    def _factory(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def factory(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            if not torch.compiler.is_compiling() and type(made) is Tensor and made.numel() <= 65536 and self.on():
                with contextlib.suppress(RuntimeError, NotImplementedError, TypeError):
                    self._handmade[made.untyped_storage()._cdata] = weakref.ref(made)
                    if len(self._handmade) > 4096:
                        self._handmade = {key: ref for key, ref in self._handmade.items() if ref() is not None}
            return made

        return factory

    def _loss(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if not torch.compiler.is_compiling() and self.on():
                with self.quiet():
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
            self._loss_sites[place] += 1
            if name == "kl_div" and not kwargs.get("log_target", False):
                distribution = bool((given >= 0).all()) and any(
                    bool((given.detach().float().sum(dim) - 1).abs().max() < 1e-2) for dim in range(given.dim())
                )
                call = LossCall("kl_div", place, self.record.backwards, self.record.steps, distribution=distribution)
                self.record.losses.append(call)
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

    def _loss_in_graph(self, call: LossCall, node: Any, given: Any, target: Tensor | None) -> None:
        del node, given
        if not call.place:
            call.place = user_line()
        self.rows.loss(call, target)

    def _embedding(self, original: Callable[..., Any], place: int) -> Callable[..., Any]:
        def embedding(input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            result = original(input, weight, *args, **kwargs)
            if not torch.compiler.is_compiling() and torch.is_grad_enabled() and self.on():
                padding = kwargs.get("padding_idx", args[place] if len(args) > place else None)
                with self.quiet():
                    self.rows.embedded(input, weight.shape[0], padding)
                    if weight.is_leaf and input.numel() <= 65536:
                        read = self._read_rows.setdefault(self.observer.leaf_number(weight), set())
                        read.update(input.detach().flatten().tolist())
            return result

        return embedding

    def _best(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def best(input: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not torch.compiler.is_compiling() and self._class_logits is not None and self.on():
                dim = kwargs.get("dim", args[0] if args else None)
                if isinstance(dim, int) and input.dim() == 2:
                    self._note_best(input, dim % 2)
            return original(input, *args, **kwargs)

        del name
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

    # ---------------------------------------------------------------------------------------------------------------- data
    def _patch_data(self) -> None:
        self.patches.wrap(DataLoader, "__iter__", self._iterate)

    def _iterate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __iter__(loader: Any) -> Any:  # noqa: N807
            iterator = original(loader)
            if not self.on():
                return iterator
            with self.quiet():
                facts = self._loader_facts(loader)
            facts.passes += 1
            return _Pass(self, facts, iterator)

        return __iter__

    def _loader_facts(self, loader: Any) -> LoaderFacts:
        for known, facts in self._loaders():
            if known is loader or _same_loader(known, loader):
                return facts
        number = self._dataset_number(loader.dataset)
        facts = LoaderFacts(number, place=user_line(), workers=loader.num_workers, batch_size=loader.batch_size)
        with contextlib.suppress(TypeError, NotImplementedError):
            facts.batches = len(loader)
        if not isinstance(loader.dataset, IterableDataset):
            facts.in_order = isinstance(loader.sampler, SequentialSampler)
        self.facts.loaders.append(facts)
        self.train_loaders.append(loader)
        return facts

    def _loaders(self) -> Iterator[tuple[Any, LoaderFacts]]:
        yield from zip(self.train_loaders, self.facts.loaders, strict=True)

    def _dataset_number(self, dataset: Any) -> int:
        for number, known in enumerate(self.datasets):
            if known is dataset or (_is_subset(known) and _is_subset(dataset) and _same_subset(known, dataset)):
                return number
        self.datasets.append(dataset)
        return len(self.datasets) - 1

    def batch_taken(self, facts: LoaderFacts) -> None:
        """Note that a loader handed out a batch."""
        facts.taken += 1
        self._loader = facts

    def may_cut(self, taken: int) -> bool:
        """Return whether a pass may end after so many batches: not while gradients wait for their step."""
        if not self.batches or taken < self.batches:
            return False
        return taken >= 40 * self.batches or not any(facts.since_step for facts in self.record.optimizers)

    def dataset_now(self) -> int:
        """Return the number of the dataset whose loader handed out the last batch, -1 where there is none."""
        return -1 if self._loader is None else self._loader.dataset

    # --------------------------------------------------------------------------------------------------------------- state
    def _patch_state(self) -> None:
        self.patches.wrap(nn.Module, "state_dict", self._state_dict)
        self.patches.wrap(nn.Module, "load_state_dict", self._load_state_dict)

    def _state_dict(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def state_dict(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not self.on():
                return original(module, *args, **kwargs)
            with self.quiet():
                state = original(module, *args, **kwargs)
                with contextlib.suppress(TypeError):
                    self._states.append((weakref.ref(state), self.record.steps, user_line(), id(module)))
            return state

        return state_dict

    def _load_state_dict(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load_state_dict(module: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.on():
                return original(module, state_dict, *args, **kwargs)
            with self.quiet():
                self._note_load(module, state_dict)
                result = original(module, state_dict, *args, **kwargs)
                own = set(module.state_dict())
                self.facts.loads.append((len(own.intersection(state_dict)), len(state_dict), user_line()))
            return result

        return load_state_dict

    def _note_load(self, module: nn.Module, state: Any) -> None:
        own = {tensor.data_ptr() for tensor in module.parameters() if tensor.numel()}
        if not any(
            isinstance(t, Tensor) and t.numel() and t.data_ptr() in own for t in getattr(state, "values", list)()
        ):
            return
        made = [(step, place) for reference, step, place, _ in self._states if reference() is state]
        if not made:
            made = [(step, place) for _, step, place, owner in self._states if owner == id(module)][-1:]
        for step, place in made:
            if self.record.steps - step >= 2:
                self.facts.stale_loads.append((self.record.steps - step, place, user_line()))

    def saved(self, thing: Any) -> None:
        """Note what a program writes to a file: a state that went on training is not the one that was meant."""
        for reference, step, place, _ in self._states:
            state = reference()
            if state is not None and self.record.steps - step >= 2 and _holds(thing, state):
                self.facts.stale_loads.append((self.record.steps - step, place, user_line()))
                return

    def states_alive(self) -> None:
        """Note a state that is still held long after it was made, while the model it belongs to went on training."""
        models = {id(m): m for example in self.examples.values() for m in [example.model]}
        for reference, step, place, owner in self._states:
            state, age = reference(), self.record.steps - step
            model = models.get(owner)
            if state is None or model is None or step == 0 or age < 2 or self.facts.stale_loads:
                continue
            own = {tensor.data_ptr() for tensor in model.parameters() if tensor.numel()}
            if any(isinstance(t, Tensor) and t.data_ptr() in own for t in state.values()):
                self.facts.stale_loads.append((age, place, ""))

    # -------------------------------------------------------------------------------------------------------------- graphs
    def _count_graphs(self) -> None:
        alive = {step for reference, step in self._graphs if reference() is not None and step < self.record.steps}
        if len(alive) >= ALIVE_GRAPHS and len(alive) > self.facts.graphs_alive:
            gc.collect()
            alive = {step for reference, step in self._graphs if reference() is not None and step < self.record.steps}
            if len(alive) >= ALIVE_GRAPHS:
                self.facts.graphs_alive = max(self.facts.graphs_alive, len(alive))
        self._graphs = [each for each in self._graphs if each[0]() is not None]

    # ----------------------------------------------------------------------------------------------------------- compilers
    def _patch_compilers(self) -> None:
        for owner, name in (
            (torch.jit, "script"),
            (torch.jit, "trace"),
            (torch.fx, "symbolic_trace"),
            (torch.export, "export"),
        ):
            self.patches.wrap(owner, name, self._suspended)
        self.patches.wrap(torch, "compile", self._compile)

    def _suspended(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def compiled(*args: Any, **kwargs: Any) -> Any:
            with self.patches.suspended():
                return original(*args, **kwargs)

        return compiled

    def _compile(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def compile(*args: Any, **kwargs: Any) -> Any:  # noqa: A001
            self._end_tracing()  # the compiler would record it as well
            return original(*args, **kwargs)

        return compile

    # ---------------------------------------------------------------------------------------------------------------- calls
    def called(self, number: int, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note the rows of a call of a model, and keep the first batch it is trained on."""
        inputs = named_inputs(args, kwargs, _argument_names(module))
        trains = torch.is_grad_enabled() and module.training
        if not torch.is_grad_enabled():  # what another part of the model made is not a row of the data
            made = self.observer.eval_outputs
            inputs = (
                []
                if any(t.layout is torch.strided and t.untyped_storage()._cdata in made for _, t in inputs)
                else inputs
            )
        place = "" if trains else user_line()
        self.rows.called(inputs, trains=trains, dataset=self.dataset_now(), root=number, place=place)
        if torch.is_grad_enabled() and number not in self.examples and len(self.examples) < 8:
            self._keep_example(number, module, args, kwargs)
        del output

    def _keep_example(self, number: int, module: nn.Module, args: Any, kwargs: Any) -> None:
        tensors = [tensor for _, tensor in named_inputs(args, kwargs, [])]
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in((args, kwargs)))
        if total > LARGEST_EXAMPLE or (not tensors and tensors_in((args, kwargs))):
            return
        whole = self.observer.root_module(number)
        if whole is not None and unwrapped(module) is whole:
            given = Arguments(tuple(args), dict(kwargs))
            copied = Arguments(*map_tensors((given.args, given.kwargs), lambda t: t.detach().clone()))
            self.examples[number] = Example(whole, copied)


class _Sentinel:
    """Lives as long as the node that holds it."""


class _Observer(TrainingObserver):
    """An observer that tells the watcher of calls as well."""

    def __init__(self, watcher: Watcher) -> None:
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
        if self._first_layer and self.stack and module._parameters and args and isinstance(args[0], Tensor):
            self._first_layer = False
            if torch.is_grad_enabled() and not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                with self.watcher.quiet():
                    note_input(self.watcher.facts, module, args[0])

    def called(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> int | None:
        with self.watcher.quiet():
            number = super().called(module, args, kwargs, output)
            if number is None:
                return None
            self.watcher.called(number, module, args, kwargs, output)
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
            for reference, number in list(self._root_of.values()):
                model = reference()
                if model is not None:
                    del number
                    self.ties += broken_ties(model)
        super().step_begins(optimizer, closure=closure)

    def root_module(self, number: int) -> nn.Module | None:
        """Return the model of an index, if it is still there."""
        for reference, index in self._root_of.values():
            if index == number:
                return reference()
        return None


def broken_ties(model: nn.Module) -> list[tuple[str, str, int, int]]:
    """Return embeddings and output layers of one shape that hold equal rows in two tensors: names, equal rows, "
    "all rows."""
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


def note_input(facts: Facts, module: nn.Module, given: Tensor) -> None:
    """Note an input of the first layer that has weights, if its numbers are far from the scale a layer is made for."""
    facts.inputs_asked += 1
    given = given.detach()
    if is_norm(module) or not given.is_floating_point() or given.dim() < 2 or not given.numel() or given.requires_grad:
        return
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


class _Pass:
    """One pass over a loader: hands out its batches, and may end early."""

    def __init__(self, watcher: Watcher, facts: LoaderFacts, iterator: Any) -> None:
        self._watcher, self._facts, self._iterator, self._taken = watcher, facts, iterator, 0

    def __iter__(self) -> "_Pass":
        return self

    def __next__(self) -> Any:
        watcher = self._watcher
        more = self._facts.batches is None or self._taken < self._facts.batches
        if more and watcher.may_cut(self._taken) and Watcher.active is watcher and _in_for_loop(sys._getframe(1)):
            self._facts.cut += 1
            raise StopIteration
        batch = next(self._iterator)
        self._taken += 1
        watcher.batch_taken(self._facts)
        return batch

    def __len__(self) -> int:
        return len(self._iterator)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def _in_for_loop(frame: FrameType) -> bool:
    """Return whether a for loop asks for the next item; a call of `next` may not expect an end."""
    return frame.f_code.co_code[frame.f_lasti] == dis.opmap["FOR_ITER"]


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


def _same_loader(known: Any, loader: Any) -> bool:
    """Return whether a loader that is made again for every epoch is the one that was seen before."""
    same_data = known.dataset is loader.dataset or (
        _is_subset(known.dataset) and _is_subset(loader.dataset) and _same_subset(known.dataset, loader.dataset)
    )
    return same_data and known.batch_size == loader.batch_size and type(known.sampler) is type(loader.sampler)


def _is_subset(dataset: Any) -> bool:
    return isinstance(dataset, Subset)


def _same_subset(one: Any, other: Any) -> bool:
    return one.dataset is other.dataset and one.indices is other.indices


def _holds(thing: Any, state: Any) -> bool:
    if thing is state:
        return True
    if isinstance(thing, dict):
        return any(value is state or (isinstance(value, dict) and _holds(value, state)) for value in thing.values())
    return isinstance(thing, (list, tuple)) and any(value is state for value in thing)


def _argument_names(module: nn.Module) -> list[str]:
    try:
        return [
            p.name
            for p in inspect.signature(module.forward).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return []
