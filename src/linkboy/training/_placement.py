"""Where the model runs, in which precision, and how several processes share its gradients.

Several processes train through torch's `DistributedDataParallel`, or through the `Accelerator` that the caller passes.
linkboy makes none: an `Accelerator` fixes device and precision for the rest of the process, and two calls may differ in both.
"""

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linkboy._calls import arguments_of, map_tensors
from linkboy._checks import check_choice, describe
from linkboy._compat import available_accelerator
from linkboy._report import listed
from linkboy._tensors import check_module
from linkboy._untouched import untouched
from linkboy.training import _processes

if TYPE_CHECKING:
    from accelerate import Accelerator
else:
    Accelerator = Any  # imported only where one is passed

Device = str | torch.device | None
Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_OF_ACCELERATE: dict[str, Precision] = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}


_NOTHING = contextlib.nullcontext()


class Placement:
    """A model made ready to be called.

    Attributes:
        model: the plain module.
        callable: what is called in its place: the module itself, what shares its gradients, or what is compiled from these.
        device: where it runs.
        precision: of its forward pass.
        scaler: scales the loss under fp16, otherwise `None`.
        sharded: `fully_shard` (FSDP2) has split its parameters over the processes.
        unshared: parameters of the model whose gradients the caller must still share by hand.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, precision: Precision, ddp: Mapping[str, Any] | None = None
    ) -> None:
        self.model, self.device, self.precision = model, device, precision
        self.callable: Callable[..., Any] = model
        self.scaler: Any = None
        self.sharded = is_sharded(model)
        self._dtype = _DTYPES[precision]
        self._sharing: Any = None
        self._ddp = ddp or {}
        self._unused: bool | None = None  # whether a parameter took no part in the first step; not known before
        self.unshared: list[nn.Parameter] = []
        self._compiled = self._is_of_accelerator = False
        self._left_by_accelerator: set[str] = set()
        self._parameters = list(model.parameters())
        self._trainable = [p.requires_grad for p in self._parameters]

    def call(self, inputs: Any) -> Any:
        """Return the outputs for the inputs of a batch, which are moved to the device; in float32 under autocast."""
        return self._call(self.callable, inputs)

    def call_plain(self, inputs: Any) -> Any:
        """Return the same from the plain module: no process waits for another, and hooks on it are called."""
        return self._call(self.model, inputs)

    def _call(self, function: Callable[..., Any], inputs: Any) -> Any:
        inputs = self.move(inputs)
        if self._dtype is None:
            return self._run(function, inputs)
        with torch.autocast(self.device.type, self._dtype):
            output = self._run(function, inputs)
        return map_tensors(output, _in_float32)

    def _run(self, function: Callable[..., Any], inputs: Any) -> Any:
        if isinstance(inputs, Tensor):  # most batches, so no time is spent on reading them
            return function(inputs)
        try:
            return arguments_of(inputs, self.model, name="the input of a batch").call(function)
        except TypeError as error:
            if isinstance(inputs, Mapping) and "argument" in str(error):
                keys = listed([repr(key) for key in inputs], 8)
                error.add_note(f"the model was called with the keys of the batch: {keys}; unpack= chooses among them")
            raise

    def move(self, batch: Any) -> Any:
        """Return a batch with its tensors on the device; on a CPU it is the batch itself."""
        if self.device.type == "cpu":
            return batch
        return map_tensors(batch, lambda tensor: tensor.to(self.device, non_blocking=True))

    def share_gradients(self) -> None:
        """Let several processes exchange gradients in the backward pass; a model that FSDP2 split does so by itself.

        `DistributedDataParallel` waits for ever for a parameter that takes no part in a step, unless it is told to look for
        such ones in every step. So the gradients of the first step are left to the caller, and tell.
        """
        self._parameters = list(self.model.parameters())
        self._trainable = [p.requires_grad for p in self._parameters]
        self.unshared = []
        if _processes.process_count() > 1 and not self.sharded and any(self._trainable):
            if self._compiled or self._ddp.keys() & {"find_unused_parameters", "static_graph"}:
                self._wrap()
            else:
                with torch.no_grad():
                    for tensor in (*self._parameters, *self.model.buffers()):
                        torch.distributed.broadcast(tensor.detach(), src=0)
                self.unshared = [p for p in self._parameters if p.requires_grad]
        if self._compiled:
            self.callable = torch.compile(self.callable)

    def all_take_part(self, every: bool) -> None:
        """Record whether each parameter that trains had a gradient in the first step, on every process."""
        self._unused = not every

    def _wrap(self) -> None:
        on = None if self.device.type == "cpu" else [self.device]
        options: dict[str, Any] = {"find_unused_parameters": True} if self._unused else {}
        options |= {"device_ids": on, **self._ddp}
        self.callable = self._sharing = nn.parallel.DistributedDataParallel(self.model, **options)
        self.unshared = []

    def share_gradients_again(self) -> None:
        """Make a new exchange of gradients where other parameters train than before; the former one would leave them out."""
        if self.sharded:
            return
        if [p.requires_grad for p in self._parameters] == self._trainable:
            if self.unshared and self._unused is not None:
                self._wrap()
            return
        if self._is_of_accelerator:
            raise ValueError(
                "requires_grad was switched on or off during the run, and accelerator cannot share other gradients than "
                "at its start; leave accelerator out"
            )
        self.callable, self._sharing, self._unused = self.model, None, None
        self.share_gradients()

    def compile(self) -> None:
        """Run what is called through `torch.compile`."""
        self._compiled = True
        if self.unshared:
            self._wrap()
        self.callable = torch.compile(self.callable)

    def use(self, accelerator: Accelerator, *, training: bool) -> None:
        """Run the model through the caller's `Accelerator`, which brings autocast, scaler and the exchange of gradients."""
        before = set(vars(self.model))
        self.callable = accelerator.prepare_model(
            self.model, device_placement=False, evaluation_mode=not training or self.sharded
        )
        self._left_by_accelerator = set(vars(self.model)) - before
        self._sharing = self.callable if hasattr(self.callable, "no_sync") else None
        self.scaler, self._dtype, self._is_of_accelerator = accelerator.scaler, None, True

    def close(self) -> None:
        """Take away from the model what accelerate set on it."""
        for name in self._left_by_accelerator & vars(self.model).keys():
            delattr(self.model, name)

    def exchange(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Let the processes exchange gradients in the last backward pass of a step only, one of which the block runs."""
        if self.sharded:
            self.model.set_requires_gradient_sync(last)  # type: ignore[operator]  # FSDP2 adds it
        return _NOTHING if last or self._sharing is None else self._sharing.no_sync()


@contextlib.contextmanager
def placed(
    model: nn.Module,
    optimizer: Optimizer | None,
    *,
    device: Device,
    precision: Precision | None,
    accelerator: Accelerator | None = None,
    loss_fn: object = None,
    ddp: Mapping[str, Any] | None = None,
) -> Iterator[Placement]:
    """Make the model ready for the block, with an optimizer for training; afterwards it is unchanged and on its own device."""
    check_module("model", model)
    _processes.join()
    target, precision = _resolved(device, precision, accelerator)
    home = next((p.device for p in model.parameters()), target)
    if home.type == "meta":
        raise ValueError(
            "model is on the meta device, where weights have no values; make it on a real one and load them"
        )
    placement = Placement(model, target, precision, ddp)
    moved = not placement.sharded and home != target
    loss_home = next((t.device for t in _tensors(loss_fn)), target)
    if moved:
        _move(model, optimizer, target)
    if isinstance(loss_fn, nn.Module) and loss_home != target:
        _move(loss_fn, optimizer, target)
    try:
        if accelerator is not None:
            placement.use(accelerator, training=optimizer is not None)
        elif optimizer is not None:
            placement.share_gradients()
            placement.scaler = torch.amp.GradScaler(target.type) if precision == "fp16" else None
        yield placement
    finally:
        placement.close()
        if moved:
            _move(model, optimizer, home)
        if isinstance(loss_fn, nn.Module) and loss_home != target:
            _move(loss_fn, optimizer, loss_home)


def _resolved(
    device: Device, precision: Precision | None, accelerator: Accelerator | None
) -> tuple[torch.device, Precision]:
    """Return where to run and in which precision; an `Accelerator` has decided both."""
    if accelerator is not None:
        return _of_accelerator(accelerator, device, precision)
    precision = "fp32" if precision is None else precision
    check_choice("precision", precision, PRECISIONS)
    target = _checked(device) if device is not None else default_device()
    if precision == "fp16" and target.type == "cpu":
        raise ValueError(
            'precision="fp16" needs a GPU (its loss scaler has no CPU form); use "bf16" or "fp32" on a CPU'
        )
    return target, precision


def _of_accelerator(accelerator: Any, device: Device, precision: Precision | None) -> tuple[torch.device, Precision]:
    import accelerate

    if not isinstance(accelerator, accelerate.Accelerator):
        raise TypeError(f"accelerator must be an accelerate.Accelerator, got {describe(accelerator)}")
    if device is not None or precision is not None:
        raise ValueError("accelerator decides device and precision; give them to the Accelerator instead")
    kind, chosen = accelerator.distributed_type.value, accelerator.mixed_precision
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise ValueError(
            f"accelerator must run one process or plain data parallelism, got {kind}; "
            "to shard a model, use torch's fully_shard and leave accelerator out"
        )
    if chosen not in _OF_ACCELERATE:
        raise ValueError(f"accelerator must have mixed_precision 'no', 'bf16' or 'fp16', got {chosen!r}")
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            f"accelerator must have gradient_accumulation_steps=1, got {accelerator.gradient_accumulation_steps}; "
            "pass accumulate to fit, which divides by what was counted"
        )
    return accelerator.device, _OF_ACCELERATE[chosen]


def default_device() -> torch.device:
    """Return the accelerator that belongs to this process (`LOCAL_RANK` of torchrun), or the CPU."""
    kind = available_accelerator()
    if kind is None or kind.type == "mps":
        return kind or torch.device("cpu")
    index = int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else torch.accelerator.current_device_index()
    torch.accelerator.set_device_index(index)
    return torch.device(kind.type, index)


def _checked(device: str | torch.device) -> torch.device:
    """Return a device that computes and is there; torch would find out late, with another message for each kind."""
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError):
        here = default_device().type
        raise ValueError(f'device must be one that torch knows, such as "{here}", got {device!r}') from None
    there = available_accelerator()
    if target.type != "cpu" and (there is None or target.type != there.type):
        have = "cpu" if there is None else f"cpu and {there.type}"
        raise ValueError(
            f"device must be one that this machine has ({have}), got {str(target)!r}; leave it out for the fastest"
        )
    count = 1 if target.type == "cpu" else torch.accelerator.device_count()
    if target.index is not None and target.index >= count:
        raise ValueError(f"device must have an index below {count}, got {str(target)!r}")
    return target


def is_sharded(model: nn.Module) -> bool:
    """Return whether `fully_shard` has split the model's parameters over the processes."""
    if _processes.process_count() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(p, DTensor) for p in model.parameters())


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor that FSDP2 split, sharing its memory; any other tensor itself."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


@contextlib.contextmanager
def same_modes(model: nn.Module) -> Iterator[None]:
    """Give every module the mode back, training or evaluation, that it had before the block."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def same_state(model: nn.Module) -> Iterator[None]:
    """Give the model its buffers, extra state and plain attributes back that it had before the block."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    extra = [
        (module, copy.deepcopy(module.get_extra_state()))
        for module in model.modules()
        if type(module).get_extra_state is not nn.Module.get_extra_state
    ]
    try:
        with untouched(model):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, before in extra:
            module.set_extra_state(before)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Return a copy of a model's state, what is not a tensor (`get_extra_state`) included, for `load_state_dict`."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in model.state_dict().items()
    }


def _tensors(module: object) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _move(model: nn.Module, optimizer: Optimizer | None, device: torch.device) -> None:
    model.to(device)
    if optimizer is not None and optimizer.state:
        optimizer.load_state_dict(optimizer.state_dict())  # casts the state to where the parameters now are
