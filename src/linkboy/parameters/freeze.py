"""Freeze parameters so that they hold still, and give back exactly what was taken."""

import dataclasses
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import LBFGS, Optimizer

from linkboy._checks import check_choice, did_you_mean
from linkboy._report import Block, Report, format_count
from linkboy.parameters.count import listed

# The records live in the modules themselves, as plain values under these keys: they survive deepcopy and pickle.
_FROZEN = "_linkboy_frozen"  # names of the module's own parameters that `freeze` froze
_HELD = "_linkboy_was_training"  # the flags that a norm layer and the model had before the layer was held still
_TAKEN = "_linkboy_taken"  # on an optimizer: (parameter, index of its group, its state)


@dataclasses.dataclass(frozen=True)
class FreezeReport(Report):
    """What `freeze` or `unfreeze` did; each tensor is listed once, with all its names.

    Examples:
        >>> import torch
        >>> from linkboy import freeze
        >>> print(freeze(torch.nn.Linear(3, 2), "bias"))
        froze 1 tensor, 2 elements: bias
    """

    action: str
    changed: tuple[tuple[str, ...], ...]
    unchanged: tuple[tuple[str, ...], ...]
    elements: int
    norms: tuple[str, ...]
    matched: dict[str, int]
    optimizer_tensors: int = 0

    def _blocks(self) -> Iterable[Block]:
        names = listed([" = ".join(names) for names in self.changed])
        tensors = f"{len(self.changed)} tensor{'s' * (len(self.changed) != 1)}, {format_count(self.elements)} elements"
        lines = [f"{self.action} {tensors}" + f": {names}" * bool(names)]
        if self.unchanged:
            why = "already frozen" if self.action == "froze" else "not frozen by freeze, so left as they are"
            lines.append(f"{why}: {listed([' = '.join(names) for names in self.unchanged])}")
        if self.norms:
            what = "running statistics held still" if self.action == "froze" else "running statistics move again"
            lines.append(f"{what}: {listed(self.norms)}")
        if self.optimizer_tensors:
            way = "taken out of" if self.action == "froze" else "put back into"
            lines.append(f"{way} the optimizer: {self.optimizer_tensors} tensors")
        yield "\n".join(lines)


def freeze(
    model: nn.Module,
    patterns: str | Sequence[str],
    *,
    batchnorm: Literal["eval", "keep"] = "eval",
    optimizer: Optimizer | None = None,
) -> FreezeReport:
    """Freeze the parameters whose names match, and everything that would move them all the same.

    A frozen tensor gets `requires_grad=False` and loses the gradient it may still have, with which an optimizer would
    move it at the next step. A tied weight is frozen whichever of its names matches.

    Args:
        model: the module whose parameters to freeze, in place.
        patterns: one or several globs over qualified names, aliases included; `*` also matches dots: `"encoder.*"`.
        batchnorm: `"eval"` holds the running statistics of the normalisation layers still that this call reaches and of
            which nothing is left to train, also after `model.train()`; `"keep"` lets them move.
        optimizer: take the frozen tensors out of its groups, in place, and keep their state for `unfreeze`. Not needed
            to hold a tensor still, except under `LBFGS`, whose direction spans all parameters.

    Returns:
        `changed` and `unchanged` tensors (all names of each), the `elements` frozen, the `norms` held still, how many
        tensors each pattern `matched`, and how many left the optimizer.

    Raises:
        ValueError: a pattern matches nothing, or `batchnorm` is unknown; nothing was changed.
        TypeError: `patterns` is neither text nor a sequence of text.

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
    found = _match(model, patterns)
    changed = {name: tensor for name, tensor in found.tensors.items() if tensor.requires_grad}
    for tensor in found.tensors.values():
        tensor.requires_grad = False  # not requires_grad_(): a lazy parameter knows only this way
        tensor.grad = None
    for name in changed:
        for module, key in found.places[name]:
            module.__dict__.setdefault(_FROZEN, set()).add(key)
    norms = [name for name, module in found.norms.items() if batchnorm == "eval" and not _trainable(module)]
    for name in norms:
        _hold(found.norms[name], model)
    moved = _take_out(optimizer, list(found.tensors.values())) if optimizer is not None else 0
    return _report("froze", found, changed, norms, moved)


def unfreeze(model: nn.Module, patterns: str | Sequence[str], *, optimizer: Optimizer | None = None) -> FreezeReport:
    """Undo `freeze` for the parameters whose names match, and no more than that.

    A parameter that was frozen by other means stays frozen and is listed in `unchanged`. Gradients that `freeze`
    dropped do not come back.

    Args:
        model: the module to unfreeze, in place; a deep copy or an unpickled one works as well.
        patterns: globs over qualified names, as for `freeze`.
        optimizer: put the tensors back, in place, into the groups that `freeze(optimizer=...)` took them from, with
            the state they had.

    Returns:
        The `FreezeReport`, with `norms` whose running statistics move again.

    Raises:
        ValueError: a pattern matches nothing; nothing was changed.
        TypeError: `patterns` is neither text nor a sequence of text.

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
    found = _match(model, patterns)
    changed: dict[str, nn.Parameter] = {}
    for name, tensor in found.tensors.items():
        if any(key in module.__dict__.get(_FROZEN, ()) for module, key in found.places[name]):
            changed[name] = tensor
            tensor.requires_grad = True
        for module, key in found.places[name]:
            module.__dict__.get(_FROZEN, set()).discard(key)
            if not module.__dict__.get(_FROZEN, True):
                del module.__dict__[_FROZEN]
    free = {
        name: module for name, module in found.norms.items() if _trainable(module) or _FROZEN not in module.__dict__
    }
    norms = [name for name, module in free.items() if _release(module, model)]
    moved = _put_back(optimizer, list(changed.values())) if optimizer is not None else 0
    return _report("unfroze", found, changed, norms, moved)


@dataclasses.dataclass
class _Found:
    """Tensors by their first name, where each of them sits, all its names, the norm layers touched, hits by pattern."""

    tensors: dict[str, nn.Parameter]
    places: dict[str, list[tuple[nn.Module, str]]]
    aliases: dict[str, tuple[str, ...]]
    norms: dict[str, nn.Module]
    matched: dict[str, int]


def _match(model: nn.Module, patterns: str | Sequence[str]) -> _Found:
    globs = [patterns] if isinstance(patterns, str) else list(patterns) if isinstance(patterns, Iterable) else []
    if not globs or not all(isinstance(glob, str) for glob in globs):
        raise TypeError(f"patterns must be a glob or a sequence of globs over parameter names, got {patterns!r}")
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    tensors: dict[str, nn.Parameter] = {}
    places: dict[str, list[tuple[nn.Module, str]]] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, module in modules.items():
        for key, tensor in module._parameters.items():
            if tensor is not None:
                name = f"{path}.{key}" if path else key
                known = first.setdefault(id(tensor), name)
                tensors[known] = tensor
                names.setdefault(known, []).append(name)
                places.setdefault(known, []).append((module, key))
    hit: set[str] = set()
    matched: dict[str, int] = {}
    touched: dict[str, nn.Module] = {}
    for glob in globs:
        hits = {known for known, aliases in names.items() if any(fnmatchcase(alias, glob) for alias in aliases)}
        norms = {path: module for path, module in modules.items() if _is_norm_hit(path, module, glob)}
        if not hits and not norms:
            raise ValueError(_no_match(glob, names, modules))
        matched[glob] = len(hits)
        hit |= hits
        touched |= norms
    order = [known for known in tensors if known in hit]
    aliases = {known: tuple(names[known]) for known in order}
    return _Found({known: tensors[known] for known in order}, places, aliases, touched, matched)


def _is_norm_hit(path: str, module: nn.Module, glob: str) -> bool:
    if not isinstance(module, _NormBase) or module.running_mean is None:
        return False
    prefix = f"{path}." if path else ""
    keys = [key for key in ("weight", "bias") if module._parameters.get(key) is not None] or ["running_mean"]
    return any(fnmatchcase(prefix + key, glob) for key in keys)


def _no_match(glob: str, names: dict[str, list[str]], modules: dict[str, nn.Module]) -> str:
    every = [alias for aliases in names.values() for alias in aliases]
    text = f"pattern {glob!r} matches none of the {len(every)} parameter names"
    if glob in modules and glob:
        return f"{text}; did you mean '{glob}.*'?"
    if glob.partition("[")[0] in every:
        return f"{text}; rows of a tensor are not frozen by a pattern, use PretrainedEmbedding for them"
    paths = {path for alias in every for path in (alias, alias.rpartition(".")[0] + ".*")}
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


def _take_out(optimizer: Optimizer, tensors: list[nn.Parameter]) -> int:
    # In place: schedulers hold the group dicts, and LambdaLR fails once their number changes.
    taken: list[Any] = optimizer.__dict__.setdefault(_TAKEN, [])
    ids = {id(tensor) for tensor in tensors}
    before = len(taken)
    for index, group in enumerate(optimizer.param_groups):
        gone = [place for place, p in enumerate(group["params"]) if id(p) in ids]
        for place in reversed(gone):
            p = group["params"].pop(place)
            name = group["param_names"].pop(place) if "param_names" in group else None
            taken.append((p, index, place, name, optimizer.state.pop(p, None)))
    if isinstance(optimizer, LBFGS) and len(taken) > before:  # its history is one flat vector over all parameters
        optimizer.state.clear()
        optimizer._numel_cache = None
    return len(taken) - before


def _put_back(optimizer: Optimizer, tensors: list[nn.Parameter]) -> int:
    taken: list[Any] = optimizer.__dict__.get(_TAKEN, [])
    ids = {id(tensor) for tensor in tensors}
    count = 0
    for entry in reversed(list(taken)):
        p, index, place, name, state = entry
        if id(p) in ids:
            group = optimizer.param_groups[index]
            group["params"].insert(place, p)
            if name is not None:
                group["param_names"].insert(place, name)
            if state is not None:
                optimizer.state[p] = state
            taken[:] = [other for other in taken if other is not entry]
            count += 1
    return count


def _report(action: str, found: _Found, changed: dict[str, nn.Parameter], norms: list[str], moved: int) -> FreezeReport:
    return FreezeReport(
        action=action,
        changed=tuple(found.aliases[name] for name in changed),
        unchanged=tuple(names for name, names in found.aliases.items() if name not in changed),
        elements=sum(0 if nn.parameter.is_lazy(tensor) else tensor.numel() for tensor in changed.values()),
        norms=tuple(norms),
        matched=found.matched,
        optimizer_tensors=moved,
    )
