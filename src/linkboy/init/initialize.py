"""Initialise a model by rule: plan everything, refuse before the first write, write, and say what no rule reached."""

import contextlib
import copy
import dataclasses
import hashlib
import inspect
import math
import re
import warnings
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from linkboy._checks import check_choice, describe, did_you_mean
from linkboy._random import check_generator
from linkboy._report import listed
from linkboy._tensors import check_module, work_dtype
from linkboy._walk import plain_name
from linkboy.init._fans import Blocks, blocks_of
from linkboy.init._materialize import materialize
from linkboy.init._residual import Projections, ResidualProjections
from linkboy.init._slots import Slot, find_slots, write
from linkboy.init.audit import audit_activations
from linkboy.init.report import InitReport, InitRow
from linkboy.init.rules import FAN_BASED, Rule, fan_scale, name_of, truncated_normal_


@dataclasses.dataclass
class _Job:
    slot: Slot
    rule: Rule
    blocks: Blocks | None
    notes: list[str]
    was_empty: bool = False  # on the meta device


def initialize(
    model: nn.Module,
    rules: Rule | Sequence[Rule],
    *,
    skip: str | Sequence[str] = (),
    on_unmatched: Literal["raise", "warn", "keep"] = "warn",
    generator: torch.Generator | None = None,
    audit: object = None,
) -> InitReport:
    """Initialise the parameters of a model by rule, each tensor once and with the right fan, and report the rest.

    The first rule that matches a tensor is the one that counts. A tied tensor is filled once. A parametrised weight
    (`weight_norm`, `orthogonal`, ...) is set through its parametrisation. Fused weights (attention, LSTM, GRU) are
    filled matrix by matrix. The row of a `padding_idx` stays zero. bf16 and fp16 are drawn in fp32 and rounded.
    Everything is planned first: if anything is wrong, nothing is written.

    Args:
        model: the module to fill, in place; parameters stay the same objects, with their `requires_grad` and `grad`.
            A model on the meta device is materialised on the CPU first, ties kept; tensors that were there and that no
            rule names are filled by their layers' own `reset_parameters`.
        rules: a preset (`xavier()`, `kaiming()`, ...), one rule, or a sequence of rules, of which the first match counts.
            Presets leave what is frozen beside trained parameters.
        skip: names of tensors to leave unchanged, such as pretrained parts; each may be a pattern (`"encoder.*"`).
        on_unmatched: what to do about parameters that no rule and no `skip` names: `"raise"` before anything is
            written, `"warn"`, or `"keep"` in silence (the report lists them in any case).
        generator: a source of random numbers. Each tensor then depends on its seed and the tensor's name only, so that
            another module added elsewhere changes nothing; without it torch's global generator is used, in the order
            of `named_parameters()`.
        audit: a batch for `audit_activations`, which is run before and after.

    Returns:
        An `InitReport`, with a row for each tensor that was filled and the names of those that were not.

    Raises:
        ValueError: a rule matches nothing, a tensor is lazy, expanded or would stay uninitialised, a fan is needed and
            unknown, or `on_unmatched="raise"` found something.
        TypeError: `rules` holds something other than rules.
        Exception: whatever an initialiser or the audited model raises; all tensors are then bit-identical to before.

    Examples:
        >>> from torch import nn
        >>> from linkboy import Rule, initialize
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> report = initialize(net, [
        ...     Rule(nn.Conv2d, "weight", nn.init.kaiming_normal_, nonlinearity="relu"),
        ...     Rule(nn.BatchNorm2d, "weight", 1),
        ...     Rule("*.bias", init=0),
        ... ])
        >>> report.unmatched, report.rows[0].fan
        ((), (9.0, 72.0))

    Differs from the copied `for m in model.modules(): if isinstance(m, nn.Conv2d): ...`: nothing is left out in
    silence, and what that loop gets wrong (computed, fused and transposed weights, ties, padding) is right here.
    """
    check_module("model", model)
    planned = [_bound(rule, model) for rule in _checked_rules(rules)]
    check_choice("on_unmatched", on_unmatched, ("raise", "warn", "keep"))
    check_generator(generator)
    globs = [plain_name(glob, model) for glob in ([skip] if isinstance(skip, str) else skip)]
    plan = _plan(find_slots(model), planned, globs)
    on_meta = any(slot.tensor.is_meta for slot in plan.slots)
    if plan.unmatched and on_unmatched == "raise":
        raise ValueError(f"{_what_is_left(plan)}; add a rule, or name them in skip")
    if plan.unmatched and on_unmatched == "warn":  # before the first write: a filter may turn a warning into an error
        kept = "those on the meta device are filled by their layers' own reset" if on_meta else "they stay unchanged"
        warnings.warn(f"{_what_is_left(plan)}; {kept}", UserWarning, stacklevel=2)
    for remark in plan.remarks:
        warnings.warn(remark, UserWarning, stacklevel=2)
    before = None if audit is None or on_meta else audit_activations(model, audit)
    base = None if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with contextlib.ExitStack() as undo:  # what is put on it is done when anything in the block raises
        jobs = plan.jobs
        if on_meta:
            undo.callback(materialize(model, {id(job.slot.tensor) for job in jobs}, generator))
            empty = {slot.name for slot in plan.slots if slot.tensor.is_meta}
            jobs = _plan(find_slots(model), planned, globs, empty).jobs  # the tensors are new ones
        rows = _write_all(jobs, base, generator, undo)
        if idle := [row.name for row in rows if _DID_NOTHING in row.notes]:
            warnings.warn(f"{listed(idle, most=10)}: {_DID_NOTHING}", UserWarning, stacklevel=2)
        after = None if audit is None else audit_activations(model, audit)
        undo.pop_all()
    return InitReport(
        rows=tuple(rows),
        unmatched=tuple(slot.name for slot in plan.unmatched),
        skipped=tuple(slot.name for slot in plan.skipped),
        unused_rules=tuple(plan.unused_rules),
        before=before,
        after=after,
        notes=tuple(plan.remarks),
        reset=tuple(slot.name for slot in (*plan.unmatched, *plan.skipped) if slot.tensor.is_meta),
    )


def _checked_rules(rules: Rule | Sequence[Rule]) -> list[Rule]:
    found = [rules] if isinstance(rules, Rule) else list(rules) if isinstance(rules, Iterable) else []
    if not found or not all(isinstance(rule, Rule) for rule in found):
        spread = any(isinstance(rule, (list, tuple)) for rule in found)
        fix = "; put a preset among rules of your own with a star: [Rule(...), *xavier()]" if spread else ""
        got = describe(rules) if spread else repr(rules)
        raise TypeError(f"rules must be a Rule, a preset such as xavier(), or a sequence of rules, got {got}{fix}")
    return found


def _bound(rule: Rule, model: nn.Module) -> Rule:
    """Return a rule for one model: wrappers left out of its names, the structure that it asks for looked up."""
    target = rule.target
    if isinstance(target, str):
        target = plain_name(target, model)
    elif isinstance(target, ResidualProjections):
        target = target.of(model)
    if target is rule.target or target == rule.target:
        return rule
    bound = copy.copy(rule)
    object.__setattr__(bound, "target", target)
    return bound


def _names(slots: list[Slot]) -> str:
    return listed((slot.name for slot in slots), most=10)


def _what_is_left(plan: "_Plan") -> str:
    frozen = set(map(id, plan.frozen))
    others = [slot for slot in plan.unmatched if id(slot) not in frozen]
    texts = [f"no rule matches {_names(others)}"] * bool(others)
    texts += [f"presets leave what is frozen beside trained parameters, {_names(plan.frozen)}"] * bool(plan.frozen)
    return ", and ".join(texts)


@dataclasses.dataclass
class _Plan:
    """What is to be done to a model, worked out before the first write."""

    slots: list[Slot]
    skipped: list[Slot]
    jobs: list[_Job] = dataclasses.field(default_factory=list)
    unmatched: list[Slot] = dataclasses.field(default_factory=list)
    frozen: list[Slot] = dataclasses.field(default_factory=list)  # of `unmatched`, what a preset left as it is frozen
    unused_rules: list[str] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)


def _plan(slots: list[Slot], rules: list[Rule], skip: list[str], empty: Collection[str] = ()) -> _Plan:
    plan = _Plan(slots, _skipped(slots, skip))
    kept = {id(slot) for slot in plan.skipped}
    remaining = [slot for slot in slots if id(slot) not in kept]
    if lazy := [slot for slot in remaining if is_lazy(slot.tensor)]:
        raise ValueError(f"no shape yet: {_names(lazy)}; run one batch through the model first")
    _refuse_idle(rules, slots)
    some_trained = any(map(_is_trained, slots))
    for slot in remaining:
        matching = [rule for rule in rules if _matching_place(rule, slot)]
        # Such values were loaded from somewhere, but for those of a tensor that was on the meta device.
        frozen = some_trained and _is_frozen(slot) and slot.name not in empty
        kept = frozen or any(map(_KEPT.search, slot.names))  # a rule of one's own may name them
        found = [rule for rule in matching if not (kept and _of_a_preset(rule))]
        if frozen and matching and not found:
            plan.frozen.append(slot)
        if found and slot.settable:
            plan.jobs.append(_job(slot, found, was_empty=slot.name in empty))
        else:
            plan.unmatched.append(slot)
    used = {id(job.rule) for job in plan.jobs}
    plan.unused_rules = [repr(rule) for rule in rules if id(rule) not in used and not rule.optional]
    plan.remarks = ["the model has no parameters, so nothing was initialised"] * (not slots)
    plan.remarks += [
        rule.target.remark for rule in rules if isinstance(rule.target, Projections) and rule.target.remark
    ]
    return plan


# What presets leave to the layers that made it, though it is the weight or bias of a Linear: LoRA begins with a product of
# zero, and the bias of Mamba's time steps is the inverse softplus of their sizes.
_KEPT = re.compile(r"(^|\.)(lora_[AB]|lora_embedding_[AB])(\.|$)|(^|\.)dt_proj\.bias$")


def _is_trained(slot: Slot) -> bool:
    return any(tensor.requires_grad for tensor in slot.originals or [slot.tensor])


def _is_frozen(slot: Slot) -> bool:
    """Return whether a tensor that has values and could be trained is not."""
    tensor = slot.tensor
    could_be = (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype.itemsize > 1
    return could_be and tensor.layout is torch.strided and not tensor.is_meta and not _is_trained(slot)


def _of_a_preset(rule: Rule) -> bool:
    return getattr(rule.target, "__module__", "").startswith("linkboy.init.")


def _refuse_idle(rules: list[Rule], slots: list[Slot]) -> None:
    for rule in rules:
        if not rule.optional and not any(_matching_place(rule, slot) for slot in slots):
            raise ValueError(_no_match(rule, slots))


def _skipped(slots: list[Slot], skip: list[str]) -> list[Slot]:
    for glob in skip:
        if not any(fnmatchcase(name, glob) for slot in slots for name in slot.names):
            raise ValueError(f"skip pattern {glob!r} matches no parameter{_near(glob, slots)}")
    return [slot for slot in slots if any(fnmatchcase(name, glob) for name in slot.names for glob in skip)]


def _matching_place(rule: Rule, slot: Slot) -> tuple[nn.Module, str] | None:
    for name, (module, key) in zip(slot.names, slot.places, strict=True):
        if rule.param is not None and not fnmatchcase(key, rule.param):
            continue
        if isinstance(rule.target, str):
            if fnmatchcase(name, rule.target):
                return module, key
        elif isinstance(rule.target, (type, tuple)):
            if isinstance(module, rule.target):
                return module, key
        elif not is_lazy(slot.tensor) and rule.target(module, key, tuple(slot.tensor.shape)):
            return module, key
    return None


def _near(glob: str, slots: list[Slot]) -> str:
    names = [name for slot in slots for name in slot.names]
    inside = any(name.startswith(f"{glob}.") for name in names)
    return f"; did you mean '{glob}.*'?" if inside else did_you_mean(glob, names)


def _no_match(rule: Rule, slots: list[Slot]) -> str:
    kinds = sorted({type(module).__name__ for slot in slots for module, _ in slot.places})
    if rule.target in kinds:
        return f"{rule!r} matches no parameter; for all layers of a class pass the class, without quotes"
    if isinstance(rule.target, str):
        return f"{rule!r} matches no parameter{_near(rule.target, slots)}"
    return f"{rule!r} matches no parameter; the model has parameters in {', '.join(kinds) or 'no module'}"


def _job(slot: Slot, found: list[Rule], *, was_empty: bool) -> _Job:
    rule = found[0]
    _refuse_unfillable(slot, rule)
    module, key = _matching_place(rule, slot) or slot.places[0]
    notes = ["padding row kept at zero"] * any(_padding(module) is not None for module, _ in slot.places)
    if len(slot.names) > 1 and any(not other.optional for other in found[1:]):
        notes.append(f"tied: {found[1]!r} matches too and was not used")
    blocks = blocks_of(module, key, tuple(slot.tensor.shape))
    if rule.init in FAN_BASED:
        if rule.fan is not None:
            fan = rule.fan(module, slot.tensor) if callable(rule.fan) else rule.fan
            blocks = Blocks(1, *_checked_fan(fan, slot.name))
        elif blocks is None:
            raise ValueError(_no_fan(rule, slot))
    return _Job(slot, rule, blocks, notes, was_empty)


def _refuse_unfillable(slot: Slot, rule: Rule) -> None:
    tensor = slot.tensor
    if tensor.layout is not torch.strided:
        raise ValueError(f"{slot.name!r} is sparse: initialise a dense weight and make it sparse afterwards")
    if callable(rule.init) and not (tensor.is_floating_point() or tensor.is_complex()):
        raise ValueError(
            f"{slot.name!r} is {describe(tensor)}, in which {name_of(rule.init)} cannot draw: initialise the model before it "
            "is quantised, or name the tensor in skip"
        )
    if tensor.is_complex() and rule.init in _OF_REAL_NUMBERS:
        raise ValueError(
            f"{slot.name!r} is {describe(tensor)}, which {name_of(rule.init)} cannot fill: give it a rule with another "
            "function, such as xavier_normal_"
        )
    expanded = any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))
    if expanded and not slot.originals:
        raise ValueError(f"{slot.name!r} is expanded: its elements share memory and cannot be filled one by one")
    if hasattr(tensor, "_local_tensor"):
        raise ValueError(f"{slot.name!r} is a DTensor: initialise the model before it is sharded")


_OF_REAL_NUMBERS = (nn.init.orthogonal_, nn.init.trunc_normal_, truncated_normal_)


def _checked_fan(fan: Any, name: str) -> tuple[float, float]:
    good = isinstance(fan, (tuple, list)) and len(fan) == 2
    if not good or not all(isinstance(n, (int, float)) and math.isfinite(n) and n > 0 for n in fan):
        raise ValueError(f"fan must be two positive numbers (fan_in, fan_out), got {fan!r} for {name!r}")
    return float(fan[0]), float(fan[1])


def _no_fan(rule: Rule, slot: Slot) -> str:
    shape = tuple(slot.tensor.shape)
    text = (
        f"{name_of(rule.init)} needs a fan for {slot.name!r} of shape {shape}, which is not a weight of a known layer"
    )
    if len(shape) < 2:
        return f"{text}; give it another rule before this one, or restrict this one to layers: Rule(nn.Linear, 'weight', ...)"
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape, device="meta"))
    return f"{text}: give fan=(fan_in, fan_out); torch would take ({fan_in}, {fan_out})"


def _write_all(
    jobs: list[_Job], base: int | None, generator: torch.Generator | None, undo: contextlib.ExitStack
) -> list[InitRow]:
    rows: list[InitRow] = []
    written: dict[int, str] = {}
    with torch.no_grad():
        for job in jobs:
            slot = job.slot
            if not slot.originals:
                first = written.setdefault(slot.tensor.untyped_storage()._cdata, slot.name)
                if first != slot.name:
                    job.notes.append(f"shares memory with {first}, which it overwrote")
            for tensor in slot.originals or [slot.tensor]:
                undo.callback(_restore, tensor, tensor.detach().clone())
            if slot.legacy is not None:  # the weight is an attribute that only a forward pass would compute again
                module, key = slot.places[0]
                undo.callback(setattr, module, key, getattr(module, key))
            rows.append(_fill(job, base, generator))
    return rows


def _restore(tensor: Tensor, old: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(old)


def _fill(job: _Job, base: int | None, generator: torch.Generator | None) -> InitRow:
    slot, tensor = job.slot, job.slot.tensor
    std_before = math.nan if job.was_empty else _std(tensor)
    values = _to_fill(slot, generator)
    fan = _draw(job, values, _own_generator(slot.name, base, generator))
    for module, _ in slot.places:
        if (row := _padding(module)) is not None:
            values[row] = 0
    if slot.originals:
        gap = write(slot, values.to(tensor.device, tensor.dtype))
        if gap is not None and gap > 1e-5 * (1 + float(values.abs().max()) if values.numel() else 1):
            job.notes.append(f"its parametrisation made something else of it, up to {gap:.2g} away")
    elif values is not tensor:
        tensor.copy_(values)
    shown = fan if job.rule.init in FAN_BASED else None
    return InitRow(slot.name, tuple(slot.names), repr(job.rule), shown, std_before, _std(values), tuple(job.notes))


def _to_fill(slot: Slot, generator: torch.Generator | None) -> Tensor:
    """Return the tensor itself where possible: the same numbers as the bare call, and no second tensor."""
    tensor = slot.tensor
    exact = tensor.dtype in (torch.float32, torch.float64)
    if exact and not slot.originals and tensor.is_contiguous() and generator is None:
        return tensor
    half = tensor.is_floating_point() and tensor.dtype.itemsize < 4
    device = tensor.device if generator is None else generator.device
    # A copy of what is there: an initialiser may read it, as one that scales does.
    return torch.empty(tensor.shape, dtype=work_dtype(tensor) if half else tensor.dtype, device=device).copy_(tensor)


def _own_generator(name: str, base: int | None, generator: torch.Generator | None) -> torch.Generator | None:
    if base is None or generator is None:
        return None
    digest = hashlib.sha256(f"{base}:{name}".encode()).digest()
    return torch.Generator(generator.device).manual_seed(int.from_bytes(digest[:7], "little"))


def _draw(job: _Job, values: Tensor, generator: torch.Generator | None) -> tuple[float, float] | None:
    """Fill `values` as the rule says, block by block; return the fan."""
    rule, init, blocks = job.rule, job.rule.init, job.blocks
    if not callable(init):
        values.fill_(init * rule.scale)
        return None
    if values.numel() == 0:
        job.notes.append("empty")
        return None
    fan = None if blocks is None else (float(blocks.fan_in), float(blocks.fan_out))
    for part in values.chunk(blocks.pieces if blocks else 1):
        target = part
        if rule.init in FAN_BASED and part.dim() < 2:  # torch counts fans from two dimensions on
            target = part.view(1, -1) if part.dim() else part.view(1, 1)
        _call(job, target, generator)
        if rule.init in FAN_BASED and fan is not None:
            scale = fan_scale(rule, nn.init._calculate_fan_in_and_fan_out(target), fan)
            if scale != 1:
                part.mul_(scale)
    # torch draws both parts of a complex number with the variance asked for the whole, except where it is normal.
    scale = rule.scale * (math.sqrt(0.5) if values.is_complex() and init in _UNIFORM else 1)
    if scale != 1:
        values.mul_(scale)
    return fan


_UNIFORM = (nn.init.xavier_uniform_, nn.init.kaiming_uniform_)


def _call(job: _Job, values: Tensor, generator: torch.Generator | None) -> None:
    """Call an initialiser; say of what if it raises, and note one that did nothing."""
    before, version = (None if _is_known(job.rule.init) else values.clone()), values._version
    try:
        _call_init(job.rule, values, generator, job.slot.name)
    except Exception as error:
        error.add_note(f"raised by {job.rule!r} for {job.slot.name!r} of shape {tuple(job.slot.tensor.shape)}")
        raise
    if before is not None and values._version == version and torch.equal(before, values):
        job.notes.append(_DID_NOTHING)


_DID_NOTHING = "unchanged: init is called with the tensor to fill, and not with its module"


def _is_known(init: object) -> bool:
    return getattr(init, "__module__", "").startswith(("torch.nn.init", "linkboy."))


def _call_init(rule: Rule, values: Tensor, generator: torch.Generator | None, name: str) -> None:
    init: Any = rule.init
    keywords = rule.keywords()
    if generator is None:
        result = init(values, **keywords)
    elif _takes_generator(init):
        result = init(values, **keywords, generator=generator)
    else:  # a function that knows only the global generator gets a seeded one for as long as it runs
        with torch.random.fork_rng(devices=[values.device] if values.is_cuda else []):
            torch.manual_seed(generator.initial_seed())
            result = init(values, **keywords)
    if isinstance(result, Tensor) and result is not values and result.data_ptr() != values.data_ptr():
        if result.shape != values.shape:
            raise ValueError(
                f"{name_of(init)} must fill the tensor it is given, {tuple(values.shape)} for {name!r}, "
                f"but returned a new one of shape {tuple(result.shape)}"
            )
        values.copy_(result)


def _takes_generator(init: Any) -> bool:
    try:
        return "generator" in inspect.signature(init).parameters
    except ValueError:  # a method written in C has no signature to read
        return False


def _padding(module: nn.Module) -> int | None:
    return module.padding_idx if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) else None


def _std(tensor: Tensor) -> float:
    if tensor.is_meta or tensor.numel() == 0:
        return float("nan")
    values = tensor.detach()
    if values.is_complex():  # of both parts together, as in torch.std
        return math.hypot(_std(values.real), _std(values.imag))
    if values.dtype not in (torch.float32, torch.float64):
        values = values.to(torch.float32)
    # torch.std on a CPU takes ten times as long. One pass, and a second where the squares would cancel.
    mean = values.mean()
    variance = (torch.linalg.vector_norm(values) ** 2 / values.numel() - mean**2).item()
    if variance < 1e-3 * mean.item() ** 2:
        variance = ((values - mean).square().mean()).item()
    return math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else math.nan
