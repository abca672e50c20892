"""Compare a decoder's step-by-step outputs, with its cache, with those of one full pass."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from linkboy._calls import Arguments, ModelRun, model_run, tensors_in
from linkboy.editing._recorder import RecordedRun

_NAMES = ("cache", "past_key_values")  # of the cache: since transformers 5.24, and before
_STEPS = 8  # tokens fed one at a time; the first ones go in together
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
_CUT_INTO_STEPS = {"attention_mask", "input_ids", "input_features", "pixel_values", "use_cache"}


@dataclasses.dataclass(frozen=True)
class Cached:
    """How a model's outputs with its cache compare with those of a full pass.

    Attributes:
        difference: the largest, relative to the largest output; `None` where there is nothing to compare.
        tolerance: what rounding explains.
        error: why the model does not run with its cache; `None` if it does.
    """

    difference: float | None = None
    tolerance: float = 0.0
    error: Exception | None = None


NOTHING = Cached()


def compare_cache(model: torch.nn.Module, arguments: Arguments, full: RecordedRun) -> Cached:
    """Run a model token by token and compare it with its full pass.

    Nothing is compared where the model returned no cache, or the example is not plain tokens (labels, positions or
    embeddings of its own cannot be cut into steps).
    """
    cut = _tokens_and_rest(arguments)
    if cut is None or _field_of_cache(full.output) is None:
        return NOTHING
    expected = tensors_in(full.output)[0]
    try:
        with model_run(model, cut, "values", training=False) as ready:
            got = _stepwise(ready, full.output)
    except Exception as error:  # noqa: BLE001 - a forward may fail in any way, and that is the result
        return Cached(error=error)
    if got.shape != expected.shape:
        return NOTHING
    difference = ((got - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    return Cached(difference, _TOLERANCE.get(expected.dtype, 0.05))


def _tokens_and_rest(arguments: Arguments) -> Arguments | None:
    """Return the arguments with the tokens under their name, the first keyword; `None` if they cannot be cut into steps."""
    given = dict(arguments.kwargs)
    key = "decoder_input_ids" if "decoder_input_ids" in given else "input_ids"
    if len(arguments.args) == 1 and key not in given:
        given[key] = arguments.args[0]
    elif arguments.args:
        return None
    tokens = given.pop(key, None)
    if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.shape[1] < 2 or set(given) - _CUT_INTO_STEPS:
        return None
    return Arguments((), {key: tokens, **given})


def _stepwise(ready: ModelRun, full: Any) -> Tensor:
    given = dict(ready.arguments.kwargs)
    key = next(iter(given))
    tokens = given.pop(key)
    length = tokens.shape[1]
    start = max(1, length - _STEPS, length // 2)
    encoded = getattr(full, "encoder_last_hidden_state", None)
    if encoded is not None:
        given["encoder_outputs"] = (encoded,)
    mask = given.pop("attention_mask", None)
    field = _field_of_cache(full) or ""
    taken = inspect.signature(ready.model.forward).parameters  # type: ignore[union-attr]  # a module, not a function
    argument = next((name for name in _NAMES if name in taken), field)  # a wrapper's `**kwargs` names none of them
    cache, parts, done = None, [], 0
    for end in range(start, length + 1):
        step = {key: tokens[:, done:end], argument: cache, "use_cache": True}
        if mask is not None:
            step["attention_mask"] = mask if encoded is not None else mask[:, :end]
        output = ready.model(**(given | step))
        cache, done = getattr(output, field), end
        parts.append(tensors_in(output)[0])
    return torch.cat(parts, dim=1)


def _field_of_cache(output: Any) -> str | None:
    """Return the field that holds the cache. The other name is not asked for: transformers would warn of its own alias."""
    there = list(output) if isinstance(output, Mapping) else [name for name in _NAMES if hasattr(output, name)]
    return next((name for name in _NAMES if name in there and getattr(output, name) is not None), None)
