"""Freeze parameters so that they hold still, and give back exactly what was taken."""

import dataclasses
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from linkboy._checks import check_choice, did_you_mean
from linkboy._optimizers import Taken, put_back, take_out
from linkboy._report import plural
from linkboy._walk import NamedTensor, computed_name, keeps_statistics, plain_name, walk
from linkboy.parameters.report import FreezeReport

# The records live in the modules themselves, as plain values under these keys: they survive deepcopy and pickle.
_FROZEN = "_linkboy_frozen"  # names of the module's own parameters that `freeze` froze
_HELD = "_linkboy_was_training"  # the flags that a norm layer and the model had before the layer was held still
_TAKEN = "_linkboy_taken"  # on an optimizer: what was taken out of it


def freeze(
    model: nn.Module,
    names: str | Sequence[str],
    *,
    batchnorm: Literal["eval", "keep"] = "eval",
    optimizer: Optimizer | None = None,
) -> FreezeReport:
    """Freeze the parameters whose names match, and stop everything that would still move them.

    A frozen tensor gets `requires_grad=False` and loses the gradient it may still have, with which an optimizer would
    move it at the next step. A tied weight is frozen whichever of its names matches.

    Args:
        model: the module whose parameters to freeze, in place.
        names: qualified names, one or several, aliases included; each may be a pattern: `"encoder.*"`, where `*` also
            matches dots. That of a weight that is computed (`weight_norm`, pruning) means what it is computed from.
        batchnorm: `"eval"` holds running statistics still, also after `model.train()`, in the normalisation layers that this
            call reaches and that have nothing left to train; `"keep"` lets them move.
        optimizer: the frozen tensors are taken out of its groups, in place, and their state is kept for `unfreeze`. Not
            needed to hold a tensor still, except under `LBFGS`, whose direction spans all parameters.

    Returns:
        A `FreezeReport`.

    Raises:
        ValueError: a name matches nothing, or `batchnorm` is unknown; nothing was changed.
        TypeError: `names` is neither text nor a sequence of text.

    Examples:
        >>> import torch
        >>> from linkboy import count_parameters, freeze, unfreeze
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
        >>> print(freeze(model, ["0.*", "1.*"]))
        froze 4 tensors, 24 elements: 0.weight, 0.bias, 1.weight, 1.bias
        running statistics held still: 1
        >>> count_parameters(model).trainable
        10
        >>> print(unfreeze(model, "1.*"))
        unfroze 2 tensors, 8 elements: 1.weight, 1.bias
        running statistics move again: 1

    Differs from `for p in part.parameters(): p.requires_grad = False`: a gradient left over no longer moves the
    weight, BatchNorm statistics hold still, and a name that matches nothing is an error. Rows of an embedding are not
    frozen by a pattern: see `PretrainedEmbedding`.
    """
    check_choice("batchnorm", batchnorm, ("eval", "keep"))
    found = _match(model, names)
    changed = [each for each in found.tensors if each.tensor.requires_grad]
    for each in found.tensors:
        each.tensor.requires_grad = False  # not requires_grad_(): a lazy parameter knows only this way
        each.tensor.grad = None
    for each in changed:
        for _, module, key in each.places:
            module.__dict__.setdefault(_FROZEN, set()).add(key)
    norms = [name for name, module in found.norms.items() if batchnorm == "eval" and not _trainable(module)]
    for name in norms:
        _hold(found.norms[name], model)
    moved = 0 if optimizer is None else _take_out(optimizer, [each.tensor for each in found.tensors])
    return _report("froze", found, changed, norms, moved)


def unfreeze(model: nn.Module, names: str | Sequence[str], *, optimizer: Optimizer | None = None) -> FreezeReport:
    """Undo `freeze` for the parameters whose names match, and no more than that.

    A parameter that was frozen by other means stays frozen and is listed in `unchanged`. Gradients that `freeze`
    dropped do not come back.

    Args:
        model: the module to unfreeze, in place; a deep copy or an unpickled one works as well.
        names: qualified names or patterns, as for `freeze`.
        optimizer: the tensors are put back, in place, into the groups that `freeze(optimizer=...)` took them from, with
            the state they had.

    Returns:
        A `FreezeReport`, with `norms` whose running statistics move again.

    Raises:
        ValueError: a name matches nothing; nothing was changed.
        TypeError: `names` is neither text nor a sequence of text.

    Examples:
        >>> import torch
        >>> from linkboy import freeze, unfreeze
        >>> model = torch.nn.Linear(3, 2)
        >>> _ = freeze(model, "*")
        >>> unfreeze(model, "weight").changed
        (('weight',),)
        >>> model.bias.requires_grad
        False
    """
    found = _match(model, names)
    changed = [each for each in found.tensors if _was_frozen(each)]
    for each in changed:
        each.tensor.requires_grad = True
    for each in found.tensors:
        _forget(each)
    free = [name for name, module in found.norms.items() if _trainable(module) or _FROZEN not in module.__dict__]
    norms = [name for name in free if _release(found.norms[name], model)]
    moved = 0 if optimizer is None else _put_back(optimizer, [each.tensor for each in changed])
    return _report("unfroze", found, changed, norms, moved)


def _was_frozen(each: NamedTensor) -> bool:
    return any(key in module.__dict__.get(_FROZEN, ()) for _, module, key in each.places)


def _forget(each: NamedTensor) -> None:
    for _, module, key in each.places:
        frozen = module.__dict__.get(_FROZEN)
        if frozen is not None:
            frozen.discard(key)
            if not frozen:
                del module.__dict__[_FROZEN]


@dataclasses.dataclass
class _Found:
    """The tensors and the normalisation layers that a call reaches, and how many tensors each pattern matched."""

    tensors: list[NamedTensor]
    norms: dict[str, nn.Module]
    matched: dict[str, int]


def _match(model: nn.Module, names: str | Sequence[str]) -> _Found:
    globs = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else []
    if not globs or not all(isinstance(glob, str) for glob in globs):
        got = repr(names)
        if isinstance(names, nn.Module):
            got = f"a {type(names).__name__}; name what is in it, such as 'encoder.*'"
        elif any(isinstance(glob, Tensor) for glob in globs):
            got = "tensors; pass their names"
        raise TypeError(f"names must be a parameter name or pattern, or a sequence of them, got {got}")
    modules, tensors = walk(model, plain=True)
    parameters = [each for each in tensors if each.is_parameter]
    hit: set[int] = set()
    norms: dict[str, nn.Module] = {}
    matched: dict[str, int] = {}
    for given in globs:
        glob = plain_name(given, model)
        hits = {id(each) for each in parameters if any(fnmatchcase(name, glob) for name in _all_names(each))}
        touched = {path: module for path, module in modules if _is_norm_hit(path, module, glob)}
        if not hits and not touched:
            raise ValueError(_no_match(glob, parameters, modules))
        matched[given] = len(hits)
        hit |= hits
        norms |= touched
    return _Found([each for each in parameters if id(each) in hit], norms, matched)


def _all_names(tensor: NamedTensor) -> list[str]:
    """Return the names of a tensor, and that of the weight that a parametrisation computes from it."""
    return [*tensor.names, *filter(None, map(computed_name, tensor.places))]


def _is_norm_hit(path: str, module: nn.Module, glob: str) -> bool:
    if not keeps_statistics(module):
        return False
    prefix = f"{path}." if path else ""
    keys = [key for key in ("weight", "bias") if module._parameters.get(key) is not None] or ["running_mean"]
    return any(fnmatchcase(prefix + key, glob) for key in keys)


def _no_match(glob: str, parameters: Sequence[NamedTensor], modules: Sequence[tuple[str, nn.Module]]) -> str:
    every = [name for each in parameters for name in each.names]
    text = f"pattern {glob!r} matches none of the {plural(len(every), 'parameter name')}"
    if glob and any(glob == path for path, _ in modules):
        return f"{text}; did you mean '{glob}.*'?"
    if glob.partition("[")[0] in every:
        return f"{text}; rows of a tensor are not frozen by a pattern, use PretrainedEmbedding for them"
    paths = {path for name in every for path in (name, name.rpartition(".")[0] + ".*")}
    return text + did_you_mean(glob, sorted(paths))


def _hold_still(module: nn.Module, _: object) -> None:
    """A forward pre-hook: `model.train()` may set the flag again, but no batch is seen with it."""
    if module.training:
        module.__dict__[_HELD] = (True, True)
        module.training = False


def _trainable(module: nn.Module) -> bool:
    return any(parameter is not None and parameter.requires_grad for parameter in module._parameters.values())


def _hold(module: nn.Module, model: nn.Module) -> None:
    held = _HELD in module.__dict__
    if not held:
        module.register_forward_pre_hook(_hold_still)
    if not held or module.training:
        module.__dict__[_HELD] = (module.training, model.training)
    module.training = False


def _release(module: nn.Module, model: nn.Module) -> bool:
    if _HELD not in module.__dict__:
        return False
    was_training, model_was_training = module.__dict__.pop(_HELD)
    # A held layer does not see `model.eval()`; of a layer that is the whole model there is no other flag to ask.
    put_in_eval = model_was_training and not model.training and module is not model
    module.training = module.training or (was_training and not put_in_eval)
    for key, hook in list(module._forward_pre_hooks.items()):
        if hook is _hold_still:
            del module._forward_pre_hooks[key]
    return True


def _take_out(optimizer: Optimizer, tensors: list[Tensor]) -> int:
    taken = take_out(optimizer, tensors)
    optimizer.__dict__.setdefault(_TAKEN, []).extend(taken)
    return len(taken)


def _put_back(optimizer: Optimizer, tensors: list[Tensor]) -> int:
    ids = {id(tensor) for tensor in tensors}
    kept: list[Taken] = optimizer.__dict__.get(_TAKEN, [])
    returning = [entry for entry in kept if id(entry.tensor) in ids]
    put_back(optimizer, returning)
    kept[:] = [entry for entry in kept if id(entry.tensor) not in ids]
    return len(returning)


def _report(
    action: Literal["froze", "unfroze"], found: _Found, changed: list[NamedTensor], norms: list[str], moved: int
) -> FreezeReport:
    touched = {id(each) for each in changed}
    return FreezeReport(
        action=action,
        changed=tuple(each.names for each in changed),
        unchanged=tuple(each.names for each in found.tensors if id(each) not in touched),
        element_count=sum(0 if each.is_lazy else each.tensor.numel() for each in changed),
        norms=tuple(norms),
        matched=found.matched,
        optimizer_tensor_count=moved,
    )
