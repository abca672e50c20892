"""Watch a program: patches tell an observer what torch is asked to do, and change nothing of what it answers."""

import contextlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from linkboy._calls import Arguments, map_tensors, tensors_in
from linkboy._tensors import transforms_active
from linkboy._walk import unwrapped
from linkboy._watch import OptimizerFacts
from linkboy._watch._places import in_library, user_line
from linkboy.doctor._calls_seen import CallObserver
from linkboy.doctor._facts import Facts, facts_of
from linkboy.doctor._graphs import Graphs
from linkboy.doctor._lines import Lines
from linkboy.doctor._loaders import Loaders
from linkboy.doctor._losses import Losses
from linkboy.doctor._patching import Patches
from linkboy.doctor._rates import Rates
from linkboy.doctor._rows import Rows, named_inputs
from linkboy.doctor._states import States

LARGEST_EXAMPLE = 64 * 2**20
MASKED_STEPS = 12  # in which gradients that the program sets to zero are told from those that are zero
TRACED_STEPS = 2  # in which torch records the line of every operation


class Stop(BaseException):
    """Ends a watched program once enough steps were seen; not an `Exception`, so that few programs catch it."""


class Example:
    """The first batch that a model was trained on, copied; what the model is asked again with.

    Attributes:
        model: the model.
        arguments: copies of the arguments.
        dims: how many dims their tensors have together.
    """

    def __init__(self, model: nn.Module, arguments: Arguments, dims: int) -> None:
        self.model, self.arguments, self.dims = model, arguments, dims


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
        self.observer = CallObserver(self)
        self.record = self.observer.record
        self.facts: Facts = facts_of(self.record)
        self.rows = Rows(self.facts)
        self.patches = Patches()
        self.examples: dict[int, Example] = {}
        self.functions: dict[str, tuple[Any, tuple[Any, ...], str]] = {}
        self.failed: dict[str, None] = {}  # what went wrong in watching
        self._stack = contextlib.ExitStack()
        self._process, self._thread = os.getpid(), threading.get_ident()
        self._quiet = 0
        self._moved: dict[int, dict[str, Any]] = {}
        self._anomaly: bool | None = None
        self._calls_backward = False
        self.on_swallowed: Callable[[], None] | None = None
        self.stopped = 0
        self.pause_after: int | None = None
        self.paused = False
        self.losses, self.rates, self.loaders = Losses(self), Rates(self), Loaders(self)
        self.states, self.graphs, self.lines = States(self), Graphs(self), Lines(self)

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
        self.observer.on_step = self._values_moved
        self._patch_training()
        for part in (self.losses, self.rates, self.loaders, self.states, self.lines):
            part.patch()
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
        """Return whether the watched program is the caller: no worker, thread or compiler, and not the watcher itself."""
        return (
            not torch.compiler.is_compiling()
            and not self._quiet
            and not self.paused
            and not self.observer.busy
            and threading.get_ident() == self._thread
            and os.getpid() == self._process
            and not transforms_active()
        )

    def at_end(self, function: Callable[[], object]) -> None:
        """Call a function when the watch ends."""
        self._stack.callback(function)

    @property
    def running(self) -> bool:
        """Whether this watch has begun and not ended."""
        return Watcher.active is self

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

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Look at something, seeing nothing of what that does; what goes wrong here is ours, and not the program's."""
        with self.quiet():
            try:
                yield
            except Exception as error:
                if os.environ.get("LINKBOY_DEBUG"):
                    raise
                self.failed[f"watching: {type(error).__name__}: {error}"] = None

    # ----------------------------------------------------------------------------------------------------------- training
    def _patch_training(self) -> None:
        patches = self.patches
        patches.wrap(torch.autograd, "backward", self._backward)
        patches.wrap(torch.autograd, "grad", self._grad)
        patches.wrap(Optimizer, "__init__", self._optimizer_made)
        patches.set(torch.autograd.Function, "apply", classmethod(self._apply(vars(torch.autograd.Function)["apply"])))

    def _backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or not self.on():
                return original(tensors, *args, **kwargs)
            self._calls_backward = True
            with self._differentiating(tensors):
                return original(tensors, *args, **kwargs)

        return backward

    def _grad(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or not self.on():
                return original(outputs, inputs, *args, **kwargs)
            self.losses.sites.clear()  # what is differentiated by hand is used
            create_graph = kwargs.get("create_graph", args[2] if len(args) > 2 else False)
            wanted: list[Any] = [inputs] if isinstance(inputs, (Tensor, GradientEdge)) else list(inputs)
            # A program that never calls backward trains by what it takes here.
            if self._calls_backward or create_graph or not self.observer.trains(wanted):
                return original(outputs, wanted, *args, **kwargs)
            with self._differentiating(outputs):
                found = original(outputs, wanted, *args, **kwargs)
                with self.looking():
                    self.observer.gradients_taken(wanted, found)
            return found

        return grad

    @contextlib.contextmanager
    def _differentiating(self, roots: Any) -> Iterator[None]:
        """Look at the graph of some losses before the block differentiates them, and at what that has filled."""
        with self.looking():
            self.observer.backward_begins(roots)
            self.graphs.begins(roots)
        traced = self._anomaly is False
        if traced:
            torch.autograd.set_detect_anomaly(False)
        try:
            yield
        finally:
            if traced:
                torch.autograd.set_detect_anomaly(True, check_nan=False)
            with self.looking():
                self._after_backward()

    def _after_backward(self) -> None:
        self.observer.backward_ended()
        self.rates.backward_ended()
        self._note_rows_without_gradient()
        loader = self.loaders.last
        self.rows.backward(-1 if loader is None else loader.dataset)
        if loader is not None:
            loader.backwards += 1
        for place, made in self.losses.sites.items():
            used = sum(
                call.place == place and call.backward == self.record.backwards - 1 for call in self.record.losses[-64:]
            )
            self.facts.loss_uses.append((place, made, used))
        self.losses.sites.clear()
        limit = 20 * (self.steps or 0)
        if self.steps and self.record.backwards >= max(limit, 200) and not self.record.steps:
            self._raise_stop()

    def _optimizer_made(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __init__(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(optimizer, *args, **kwargs)
            if self.on():
                with self.looking():
                    self.observer.optimizer(optimizer, place=user_line())

        return __init__

    def _step_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self.on():
            return
        closure = kwargs.get("closure") or (
            args[1] if len(args) > 1 else args[0] if args and callable(args[0]) else None
        )
        with self.looking():
            facts = self.observer.optimizer(optimizer)
            self.rates.step_begins(optimizer, facts)
            if self.rates.scaled and not self.rates.in_scaler and facts.since_step:
                self.facts.unscaled_steps += 1
                self.facts.unscaled_place = self.facts.unscaled_place or user_line()
            if self.record.steps < TRACED_STEPS:
                self.lines.see_code()
            if not facts.steps:
                self.lines.name_tensors()
            self.observer.step_begins(optimizer, closure=closure is not None and not isinstance(closure, Optimizer))
            self._look_at_gradients(optimizer, facts)

    def _step_ended(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self.on():
            return
        facts = self.observer.optimizer(optimizer)
        with self.looking():
            self.observer.step_ended(optimizer)
            self.rows.note_ids()
            self.rows.step()
            self.rates.scaled = False
            self.graphs.count()
            if self.record.steps >= TRACED_STEPS:
                self._end_tracing()
        if self.pause_after is not None and facts.steps >= self.pause_after:
            self.paused = True
            self._end_tracing()
        if self._enough():
            self._raise_stop()

    def _raise_stop(self) -> None:
        if not self.stopped:
            with self.quiet():
                self.states.states_alive()  # while the program still holds what it holds
        self.stopped += 1
        if self.stopped > 2 and self.on_swallowed is not None:
            self.on_swallowed()
        raise Stop

    def _enough(self) -> bool:
        if self.steps is None:
            return False
        most = max((each.steps for each in self.record.optimizers), default=0)
        if most < self.steps and self.record.steps < 4 * self.steps:
            return False
        loader = self.facts.loader_of_training()
        waits = loader is not None and self.batches > 0 and loader.passes < self.passes and most < 4 * self.steps
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
                    size = grad.detach().abs() if grad.is_complex() else grad.detach()
                    rms = float(size.float().square().mean().sqrt())
                    sizes.append((rms, leaf.name))
                    self._note_silent_rows(tensor, grad)
        self.facts.slopes.update(name for _, name in sizes)
        self.facts.zero_slopes.update(name for size, name in sizes if size == 0)
        alive = [each for each in sizes if each[0] > 0]
        if len(alive) >= 2:
            small, large = min(alive), max(alive)
            self.facts.gradient_ratio.append((small[0] / large[0], small[1], large[1]))

    def _note_rows_without_gradient(self) -> None:
        """Note the rows of tables that the backward pass itself leaves without gradient, such as those of padding."""
        for optimizer, facts in self.observer._live_optimizers():
            if not facts.weight_decay or facts.steps >= MASKED_STEPS:
                continue
            for tensor in (tensor for group in optimizer.param_groups for tensor in group["params"]):
                grad, number = tensor.grad, self.observer.leaf_number(tensor)
                if grad is not None and grad.layout is torch.strided and number in self.losses.read_rows:
                    known = self._moved.setdefault(number, {})
                    silent = (grad.detach() == 0).flatten(1).all(1)
                    known["by itself"] = silent & known.get("by itself", silent)

    def _note_silent_rows(self, tensor: Tensor, grad: Tensor) -> None:
        known = self._moved.setdefault(self.observer.leaf_number(tensor), {})
        silent = (grad.detach() == 0).flatten(1).all(1)
        before = known.get("silent")
        known["silent"] = silent if before is None or before.shape != silent.shape else before & silent
        known["hooked"] = bool(getattr(tensor, "_backward_hooks", None)) or bool(
            getattr(tensor, "_post_accumulate_grad_hooks", None)
        )

    def _values_moved(self, facts: OptimizerFacts, changes: dict[int, dict[str, Any]]) -> None:
        """Keep the first and the last value of a matrix some of whose rows never got a gradient."""
        for number, change in changes.items():
            known = self._moved.get(number)
            if known is None or not facts.weight_decay or not bool(known["silent"].any()):
                continue
            known.setdefault("first", change["before"])
            known["last"] = change["now"].clone()

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
    def called(self, number: int, module: nn.Module, args: Any, kwargs: Any) -> None:
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
        self.rows.called(inputs, trains=trains, dataset=self.loaders.dataset_now(), root=number, place=place)
        if self.loaders.last is not None:
            self.loaders.last.roots.add(number)
        if trains:
            self.loaders.trains_on(number, self.record.backwards)
        dims = sum(tensor.dim() for _, tensor in inputs)
        known = self.examples.get(number)
        # A row that an agent acts on comes before the first batch of such rows.
        wanted = dims > known.dims and self.record.steps < 4 if known is not None else len(self.examples) < 8
        if torch.is_grad_enabled() and wanted:
            self._keep_example(number, module, args, kwargs, dims)

    def _keep_example(self, number: int, module: nn.Module, args: Any, kwargs: Any, dims: int) -> None:
        tensors = [tensor for _, tensor in named_inputs(args, kwargs, [])]
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in((args, kwargs)))
        if total > LARGEST_EXAMPLE or (not tensors and tensors_in((args, kwargs))):
            return
        whole = self.observer.root_module(number)
        if whole is not None and unwrapped(module) is whole:
            given = Arguments(tuple(args), dict(kwargs))
            copied = Arguments(*map_tensors((given.args, given.kwargs), lambda t: t.detach().clone()))
            self.examples[number] = Example(whole, copied, dims)


def _argument_names(module: nn.Module) -> list[str]:
    try:
        return [
            p.name
            for p in inspect.signature(module.forward).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return []
