"""Evaluate and predict: every sample exactly once, on any number of processes, with the model left unchanged."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linkboy import _random
from linkboy._calls import map_tensors, tensors_in
from linkboy._checks import describe
from linkboy._report import plural
from linkboy.training import _batches, _processes
from linkboy.training._objective import Objective, rows_of, without_loss
from linkboy.training._placement import Accelerator, Device, Placement, Precision, placed, same_modes
from linkboy.training._sources import Batch, MapSource, check_loader, is_map_style, refuse_shared_out
from linkboy.training.report import Evaluation

Metrics = Mapping[str, Callable[[Any, Any], Any] | Any]


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    metrics: Metrics,
    *,
    loss_fn: _batches.Loss | None = None,
    unpack: _batches.Unpack | None = None,
    sample_weight: _batches.SampleWeight | None = None,
    precision: Precision | None = None,
    device: Device = None,
    accelerator: Accelerator | None = None,
) -> Evaluation:
    """Measure a model on all samples of a loader, each exactly once, and leave the model unchanged.

    Under `torchrun` process r takes samples r, r + world, ...; nothing is padded and every process returns the same figures.
    Mode, gradient mode and random streams are not changed. `shuffle=True` and `drop_last=True` of the loader are not
    followed: the order does not matter to a metric, and no sample is left out.

    Args:
        model: a plain module; it is in evaluation mode during the call.
        loader: a `DataLoader` over a map-style dataset; on one process also any iterable of batches.
        metrics: name to function of `(output, target)`, called once with the outputs of all samples, on the CPU, in dataset
            order, so that a mean of per-batch means is impossible. Batches padded to different lengths are made as long as
            the longest: integers with -100, numbers with NaN, booleans with `False`. An object with `reset`, `update` and
            `compute`, such as a `torchmetrics.Metric`, is given batch after batch and no outputs are kept for it.
        loss_fn: function of `(output, target)` that returns losses *not reduced*.
        unpack: function of the batch that returns `(input, target)` or `(input, target, weight)`; `None` when the batch is
            that already. A tuple or list of inputs is passed as `model(*inputs)`, a mapping as `model(**inputs)`.
        sample_weight: function of the batch that returns the weights of the losses, with `loss_fn`; metrics are never
            weighted.
        precision: `"fp32"`, or `"bf16"` or `"fp16"` for autocast; outputs come back in float32.
        device: where to run; `None` for the accelerator of this process, else the CPU.
        accelerator: an `accelerate.Accelerator` of your own, which then decides device and precision.

    Returns:
        An `Evaluation`, the same on every process.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: there is no batch, or one, a loss or an output has the wrong form; the device is not there; or an
            iterable should be shared by several processes.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from linkboy.training import evaluate
        >>> data = torch.utils.data.TensorDataset(torch.arange(5.0)[:, None], torch.arange(5.0)[:, None])
        >>> loader = torch.utils.data.DataLoader(data, batch_size=2)
        >>> worst = {"worst": lambda output, target: (output - target).abs().max()}
        >>> evaluate(nn.Identity(), loader, worst, loss_fn=nn.MSELoss(reduction="none")).to_dict()
        {'sample_count': 5, 'loss': 0.0, 'metrics': {'worst': 0.0}}
    """
    check_metrics(metrics)
    with placed(model, None, device=device, precision=precision, accelerator=accelerator) as placement:
        job = Evaluator(placement, loader, metrics, loss_fn=loss_fn, unpack=unpack, sample_weight=sample_weight)
        return job.run()


def predict(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    unpack: _batches.Unpack | None = None,
    precision: Precision | None = None,
    device: Device = None,
    accelerator: Accelerator | None = None,
) -> Any:
    """Return the model's outputs for all samples of a loader, in dataset order, each once, on the CPU.

    Args:
        model: a plain module; it is in evaluation mode during the call.
        loader: as for `evaluate`.
        unpack: function of the batch that returns `(input, ...)`. Without it the first part of a tuple or list is the input,
            anything else is the input itself.
        precision: as for `evaluate`.
        device: as for `evaluate`.
        accelerator: as for `evaluate`.

    Returns:
        What the model returns (a tensor, or a tuple, list or mapping of tensors), concatenated along the first dimension;
        the same on every process.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: there is no batch, an output does not have one row per sample, or its other dimensions differ between
            batches; or the device is not there.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from linkboy.training import predict
        >>> loader = torch.utils.data.DataLoader(torch.arange(5.0), batch_size=2, shuffle=True)
        >>> predict(nn.Identity(), loader)
        tensor([0., 1., 2., 3., 4.])
    """
    with placed(model, None, device=device, precision=precision, accelerator=accelerator) as placement:
        job = Evaluator(placement, loader, {}, unpack=unpack, targets=False)
        return job.outputs()


def check_metrics(metrics: Any) -> None:
    """Refuse anything but a mapping from names to functions."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must map names to functions of (output, target), got {describe(metrics)}")
    for name, metric in metrics.items():
        if not callable(metric) and not _is_streaming(metric):
            raise TypeError(f"metrics[{name!r}] must be a function of (output, target), got {describe(metric)}")


def _is_streaming(metric: Any) -> bool:
    """Return whether a metric takes batch after batch, as those of torchmetrics do."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))


class Evaluator:
    """One loader that is evaluated any number of times; its workers are started once."""

    def __init__(
        self,
        placement: Placement,
        loader: Iterable[Any],
        metrics: Metrics,
        *,
        loss_fn: _batches.Loss | None = None,
        unpack: _batches.Unpack | None = None,
        sample_weight: _batches.SampleWeight | None = None,
        targets: bool = True,
        by_model: bool = False,
        argument: str = "loader",
    ) -> None:
        self.argument = argument  # what the caller calls the loader
        self.placement, self.loader, self.unpack, self.targets = placement, loader, unpack, targets
        self.streaming: dict[str, Any] = {name: metric for name, metric in metrics.items() if _is_streaming(metric)}
        self.metrics = {name: metric for name, metric in metrics.items() if name not in self.streaming}
        _batches.check_functions(loss_fn=loss_fn, unpack=unpack, sample_weight=sample_weight)
        if sample_weight is not None and loss_fn is None and not by_model:
            raise ValueError("sample_weight has no effect without loss_fn: metrics are never weighted")
        self.objective = Objective(placement.model, loss_fn, unpack, sample_weight, by_model=by_model)
        self.source = _evaluation_source(loader)
        for name, metric in self.streaming.items():
            if _processes.process_count() > 1 and not callable(getattr(metric, "sync", None)):
                raise ValueError(
                    f"metrics[{name!r}] cannot be added up over {_processes.process_count()} processes: it has no sync method, "
                    "as a torchmetrics.Metric has; pass a function of (output, target) instead"
                )

    def run(self, *, most: int | None = None) -> Evaluation:
        """Return loss and metrics; keep outputs only where a metric wants them, and stop after `most` batches."""
        keep = bool(self.metrics)
        for metric in self.streaming.values():
            metric.reset()
        outputs, targets, keys, loss, weight, rows = self._pass(keep=keep, most=most)
        loss, weight, rows = _processes.add_up(loss, weight, rows)
        if not rows:
            raise ValueError(f"{self.argument} has no batch")
        values = {name: _as_float(name, metric.compute()) for name, metric in self.streaming.items()}
        if keep:
            output, target = _in_order(outputs, keys, pad=True), _in_order(targets, keys, pad=True)
            measured = {name: _measured(name, metric, output, target) for name, metric in self.metrics.items()}
            values |= {name: _as_float(name, value) for name, value in measured.items()}
        mean = loss / weight if weight else None if self.objective.loss_fn is None else float("nan")
        return Evaluation(int(rows), mean, {name: values[name] for name in (*self.metrics, *self.streaming)})

    def rehearse(self) -> None:
        """Run model, loss and metrics on the first batch; where that fails, on all, as a metric may need more rows."""
        enough = True
        try:
            self.run(most=1)
        except Exception:  # noqa: BLE001  # whatever it is, it comes again if it is true of all batches
            enough = False
        if not enough:
            self.run()

    def outputs(self) -> Any:
        """Return the outputs of all samples in dataset order."""
        outputs, _, keys, *_ = self._pass(keep=True)
        return _in_order(outputs, keys)

    def _pass(
        self, *, keep: bool, most: int | None = None
    ) -> tuple[list[Any], list[Any], list[Tensor], float, float, int]:
        model = self.placement.model
        with same_modes(model), _random.same_random_numbers(), torch.no_grad():
            model.eval()
            return self._collect(keep=keep, most=most)

    def _collect(self, *, keep: bool, most: int | None) -> tuple[list[Any], list[Any], list[Tensor], float, float, int]:
        outputs: list[Any] = []
        targets: list[Any] = []
        keys: list[Tensor] = []
        loss_sum: Any = 0.0
        weight_sum, rows = 0.0, 0
        for batch, place in itertools.islice(self._batches(), most):
            inputs, target, weight = self._split(batch.data)
            output = self.placement.call_plain(inputs)
            if batch.filler:
                continue
            if self.targets:
                loss, total = self._loss(output, inputs, target, weight)
                loss_sum, weight_sum = loss_sum + loss, weight_sum + total
                if self.objective.loss_fn is None:
                    output = without_loss(output, rows_of(inputs))
            count = _rows(output)
            rows += count
            if keep or self.streaming:
                output, target = _to_cpu(output), _to_cpu(target)
            for metric in self.streaming.values():
                metric.update(output, target)
            if keep:
                outputs.append(output)
                targets.append(target)
                keys.append(_keys(place, count))
        return outputs, targets, keys, float(loss_sum), weight_sum, rows

    def _loss(self, output: Any, inputs: Any, target: Any, weight: Tensor | None) -> tuple[Any, float]:
        """Return `sum(w * l)` and `sum(w)` of a batch; zeros without a loss function and where the model returns no loss."""
        objective = self.objective
        if objective.loss_fn is None and not (objective.by_model or isinstance(inputs, Mapping)):
            return 0.0, 0.0
        losses = objective.losses(output, self.placement.move(target))
        weight, counted = objective.counted(losses, target, weight, rows_of(inputs))
        if not losses.numel():
            return 0.0, 0.0
        factor, total = _batches.weigh(losses, weight, counted)
        return _batches.weighted_sum(losses, factor), total

    def _split(self, batch: Any) -> _batches.Parts:
        if self.targets:
            return self.objective.split(batch)
        return _batches.inputs_only(batch, self.unpack), None, None

    def _batches(self) -> Iterator[tuple[Batch, Tensor | int]]:
        """Yield batches with the places of their rows in the dataset's order, or with their own place as a whole."""
        if self.source is None:
            yield from ((Batch(data, filler=False), number) for number, data in enumerate(self.loader))
            return
        source, world = self.source, _processes.process_count()
        count = source.begin(0)
        # Under FSDP2 every forward is a collective: the processes must call equally often. Otherwise fillers are not run.
        own = count if self.placement.sharded else source.own_count()
        for number, batch in enumerate(source.batches(0, own)):
            if source.lists or batch.filler:
                yield batch, number * world + source.rank
            else:
                rows = torch.arange(len(source.indices(number))) + number * source.batch_size
                yield batch, source.rank + world * rows


def _evaluation_source(loader: Iterable[Any]) -> MapSource | None:
    rank, world = _processes.process_index(), _processes.process_count()
    check_loader("loader", loader)
    refuse_shared_out(loader, "the loader to evaluate", "leave it out: linkboy")
    if is_map_style(loader):
        return MapSource(loader, 0, rank=rank, world=world, every_sample=True)
    if world > 1:
        raise ValueError(
            f"an iterable cannot be shared out over {world} processes so that each sample counts once; "
            "pass a DataLoader over a map-style dataset"
        )
    return None


def _keys(place: Tensor | int, count: int) -> Tensor:
    """Return sort keys for the rows of a batch: their places, or consecutive keys for a whole batch at a place."""
    if isinstance(place, int):
        return (place << 32) + torch.arange(count)
    if len(place) != count:
        raise ValueError(
            f"the model must return one row per sample: {plural(len(place), 'sample')} gave {plural(count, 'row')}"
        )
    return place


def _rows(output: Any) -> int:
    for tensor in tensors_in(output):
        if tensor.ndim:
            return tensor.shape[0]
    raise ValueError(f"the model must return a tensor with one row per sample, got {describe(output)}")


def _to_cpu(value: Any) -> Any:
    return map_tensors(value, lambda tensor: tensor.detach().cpu())


def _in_order(parts: list[Any], keys: list[Tensor], *, pad: bool = False) -> Any:
    """Put the batches of all processes together, their rows sorted by key, and with `pad` as long as the longest."""
    gathered = _processes.gather((parts, keys))
    parts = [part for own, _ in gathered for part in own]
    keys = [key for _, own in gathered for key in own]
    if not parts:
        raise ValueError("loader has no batch")
    order = torch.cat(keys).argsort()
    return _join(parts, order, pad=pad)


def _join(parts: list[Any], order: Tensor, *, pad: bool) -> Any:
    """Return one output or target in the class of the first part, each tensor put together from those of all parts."""
    columns = [tensors_in(part) for part in parts]
    forms = [map_tensors(part, _hole) for part in parts]  # what is left without the tensors
    if not columns[0] or any(form != forms[0] for form in forms):
        raise ValueError(
            "outputs and targets must be tensors, or containers of tensors that are otherwise the same in every batch, "
            f"got {describe(parts[0])}"
        )
    column = iter(zip(*columns, strict=True))
    return map_tensors(parts[0], lambda _: _joined(next(column), order, pad=pad))


def _joined(tensors: Sequence[Tensor], order: Tensor, *, pad: bool) -> Tensor:
    if pad and len({tensor.ndim for tensor in tensors}) == 1:
        tensors = _padded(tensors)
    shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(
            f"batches must agree in all dimensions but the first to be put together, got {sorted(shapes)}; "
            "pad them to one length, or return what does not depend on it"
        )
    if not tensors[0].ndim or sum(map(len, tensors)) != len(order):
        raise ValueError(
            f"outputs and targets must have one row per sample, got {describe(tensors[0])} beside others that have; "
            "a loss is among the outputs where a model is given labels: leave them out with unpack=, a function of the batch"
        )
    return torch.cat(tuple(tensors))[order]


def _padded(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Make all dimensions but the first as long as the longest: with -100, which labels ignore, NaN or `False`."""
    sizes = [max(column) for column in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    if all(list(tensor.shape[1:]) == sizes for tensor in tensors):
        return tensors
    kind = tensors[0].dtype
    fill = False if kind is torch.bool else float("nan") if kind.is_floating_point else -100
    padded = []
    for tensor in tensors:
        whole = tensor.new_full((len(tensor), *sizes), fill)
        whole[tuple(map(slice, tensor.shape))] = tensor
        padded.append(whole)
    return padded


def _measured(name: str, metric: Callable[[Any, Any], Any], output: Any, target: Any) -> Any:
    """Call a metric; an error of its own says what it was called with, since a model may return more than a tensor."""
    try:
        return metric(output, target)
    except Exception as error:
        error.add_note(f"metrics[{name!r}] was called with {_named(output)} and {_named(target)}")
        raise


def _named(value: Any) -> str:
    """Name what a metric gets: a tensor by dtype and shape, a mapping or a sequence by its type and what is in it."""
    if isinstance(value, Mapping):
        return f"{type(value).__name__}({', '.join(f'{key}={describe(each)}' for key, each in value.items())})"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}({', '.join(map(describe, value))})"
    return describe(value)


def _as_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"metrics[{name!r}] must return one number, got {describe(value)}") from None


def _hole(tensor: Tensor) -> Any:
    return None
