"""Compare a decoder's step-by-step outputs, with its cache, against those of one full pass."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from linkboy._untouched import same_random_numbers, untouched
from linkboy.editing._recorder import Run, tensors_in
from linkboy.editing._runs import Example

_STEPS = 8  # tokens fed one at a time; the first ones go in together
_NAMES = ("cache", "past_key_values")  # of the cache: since transformers 5.24, and before


def cache_difference(model: nn.Module, example: Example, full: Run) -> float | None:
    """Return the largest difference between cached and full-pass outputs, relative to the largest output.

    `None` where the model returned no cache, or the example is not plain tokens (labels, positions or embeddings of
    its own cannot be cut into steps).
    """
    tokens_key = "decoder_input_ids" if "decoder_input_ids" in example.kwargs else "input_ids"
    given = dict(example.kwargs)
    if len(example.args) == 1 and tokens_key not in given:
        given[tokens_key] = example.args[0]
    elif example.args:
        return None
    tokens = given.pop(tokens_key, None)
    if (
        _field_of_cache(full.output) is None
        or not isinstance(tokens, Tensor)
        or tokens.dim() != 2
        or tokens.shape[1] < 2
    ):
        return None
    if set(given) - {"attention_mask", "input_ids", "input_features", "pixel_values", "use_cache"}:
        return None
    expected = tensors_in(full.output)[0]
    try:
        with untouched(model), same_random_numbers(), torch.no_grad():
            for module in model.modules():
                module.training = False
            got = _stepwise(model, tokens_key, tokens, given, full.output)
    except Exception as error:
        raise RuntimeError(
            f"the edited model does not run with its cache, token by token: {type(error).__name__}: {error}"
        ) from error
    if got.shape != expected.shape:
        return None
    return ((got - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def _stepwise(model: nn.Module, key: str, tokens: Tensor, given: dict[str, Any], full: Any) -> Tensor:
    length = tokens.shape[1]
    start = max(1, length - _STEPS, length // 2)
    encoded = getattr(full, "encoder_last_hidden_state", None)
    if encoded is not None:
        given = given | {"encoder_outputs": (encoded,)}
    mask = given.pop("attention_mask", None)
    field = _field_of_cache(full)
    taken = inspect.signature(model.forward).parameters
    argument = next((name for name in _NAMES if name in taken), field)  # a wrapper's `**kwargs` name none of them
    cache, parts, done = None, [], 0
    for end in range(start, length + 1):
        step = {key: tokens[:, done:end], argument: cache, "use_cache": True}
        if mask is not None:
            step["attention_mask"] = mask if encoded is not None else mask[:, :end]
        output = model(**(given | step))
        cache, done = getattr(output, field), end
        parts.append(tensors_in(output)[0])
    return torch.cat(parts, dim=1)


def _field_of_cache(output: Any) -> str | None:
    """Return the field that holds the cache. The other name is not asked for: transformers would warn of its own alias."""
    there = list(output) if isinstance(output, Mapping) else [name for name in _NAMES if hasattr(output, name)]
    return next((name for name in _NAMES if name in there and getattr(output, name) is not None), None)
