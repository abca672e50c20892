"""Initialise a model by rule: plan everything, refuse before the first write, write, and say what no rule reached."""

import contextlib
import dataclasses
import hashlib
import inspect
import math
import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from linkboy._checks import check_choice, did_you_mean
from linkboy._report import Block, Report, Table
from linkboy.init._materialize import materialize
from linkboy.init._slots import Slot, find_slots, write
from linkboy.init.audit import ActivationAudit, audit_activations
from linkboy.init.fans import Blocks, blocks_of
from linkboy.init.rules import FAN_BASED, Rule, fan_scale, name_of


@dataclasses.dataclass(frozen=True)
class InitRow:
    """What happened to one tensor: all its names, the rule, the fan it used and the scale before and after.

    Examples:
        >>> from torch import nn
        >>> from linkboy import Rule, initialize
        >>> initialize(nn.Linear(2, 1), [Rule("*", init=0.5)]).rows[0].std_after
        0.0
    """

    name: str
    names: tuple[str, ...]
    rule: str
    fan: tuple[float, float] | None
    std_before: float
    std_after: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class InitReport(Report):
    """What `initialize` did, and what it did not reach.

    `reset`: those of `unmatched` and `skipped` that were on the meta device, filled by their layers' own reset.

    Examples:
        >>> from torch import nn
        >>> from linkboy import Rule, initialize
        >>> layer = nn.Linear(1, 1)
        >>> print(initialize(layer, [Rule("weight", init=0.5)], on_unmatched="keep"))
        tensor  rule                 fan  std before  std after  note
        weight  Rule('weight', 0.5)    -           0          0
        <BLANKLINE>
        unmatched, left as they were: bias
    """

    rows: tuple[InitRow, ...]
    unmatched: tuple[str, ...]
    skipped: tuple[str, ...]
    unused_rules: tuple[str, ...]
    before: ActivationAudit | None = None
    after: ActivationAudit | None = None
    reset: tuple[str, ...] = ()

    def _blocks(self) -> Iterable[Block]:
        yield Table(
            ("tensor", "rule", "fan", "std before", "std after", "note"),
            [
                (
                    " = ".join(row.names),
                    row.rule,
                    "-" if row.fan is None else f"{row.fan[0]:g} -> {row.fan[1]:g}",
                    f"{row.std_before:.4g}",
                    f"{row.std_after:.4g}",
                    row.note,
                )
                for row in self.rows
            ],
        )
        for title, names in (
            ("unmatched, left as they were", [name for name in self.unmatched if name not in self.reset]),
            ("unmatched, filled by their layers' own reset", [name for name in self.unmatched if name in self.reset]),
            ("skipped", [name for name in self.skipped if name not in self.reset]),
            ("skipped, filled by their layers' own reset", [name for name in self.skipped if name in self.reset]),
            ("rules whose tensors an earlier rule had taken", self.unused_rules),
        ):
            if names:
                yield f"{title}: {', '.join(names)}"
        for title, audit in (("before", self.before), ("after", self.after)):
            if audit is not None:
                yield f"signal {title}: {audit.verdict}"


@dataclasses.dataclass
class _Job:
    slot: Slot
    rule: Rule
    blocks: Blocks | None
    notes: list[str]


def initialize(
    model: nn.Module,
    rules: Rule | Sequence[Rule],
    *,
    skip: str | Sequence[str] = (),
    on_unmatched: Literal["warn", "error", "keep"] = "warn",
    generator: torch.Generator | None = None,
    audit: object = None,
) -> InitReport:
    """Initialise the parameters of a model by rule, each tensor once and with the right fan, and report the rest.

    The first rule that matches a tensor is the one that counts. A tied tensor is filled once. A parametrised weight
    (`weight_norm`, `orthogonal`, ...) is set through its parametrisation. Fused weights (attention, LSTM, GRU) are
    filled matrix by matrix. The row of a `padding_idx` stays zero. bf16 and fp16 are drawn in fp32 and rounded.
    Everything is planned first: where anything is wrong, nothing has been written.

    Args:
        model: the module to fill, in place; parameters stay the same objects, with their `requires_grad` and `grad`.
            On the meta device it is materialised on the CPU first, ties kept; what is there and no rule names is
            filled by its layer's own `reset_parameters`.
        rules: a preset (`xavier()`, `kaiming()`, ...), one rule, or a sequence of rules, the first match wins.
        skip: globs over qualified names of tensors to leave alone, such as pretrained parts.
        on_unmatched: what to do about parameters that no rule and no `skip` names: `"warn"`, `"error"` before
            anything is written, or `"keep"` without a word (the report lists them in any case).
        generator: a source of random numbers. Each tensor then depends on its seed and the tensor's name only, so that
            another module added elsewhere changes nothing; without it torch's global generator is used, in the order
            of `named_parameters()`.
        audit: a batch for `audit_activations`, which is run before and after.

    Returns:
        An `InitReport`: one row for each tensor filled, `unmatched` and `skipped` names, `unused_rules`.

    Raises:
        ValueError: a rule matches nothing, a tensor is lazy, expanded or would stay garbage, a fan is needed and
            unknown, or `on_unmatched="error"` found something.
        TypeError: `rules` holds something else than rules.
        Exception: whatever an initialiser or the audited model raises; all tensors are then as they were, bit for bit.

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
    silence, and what that loop gets wrong (computed weights, fused and transposed ones, ties, padding) is right here.
    """
    planned = _checked_rules(rules)
    check_choice("on_unmatched", on_unmatched, ("warn", "error", "keep"))
    globs = [skip] if isinstance(skip, str) else list(skip)
    slots = find_slots(model)
    jobs, unmatched, skipped, unused = _plan(slots, planned, globs)
    if unmatched and on_unmatched == "error":
        raise ValueError(f"no rule matches {_names(unmatched)}; add a rule, or name them in skip")
    on_meta = any(slot.tensor.is_meta for slot in slots)
    if unmatched and on_unmatched == "warn":  # before the first write: a filter may turn a warning into an error
        kept = "those on the meta device are filled by their layers' own reset" if on_meta else "they stay as they are"
        warnings.warn(f"no rule matches {_names(unmatched)}; {kept}", UserWarning, stacklevel=2)
    reset = tuple(slot.name for slot in (*unmatched, *skipped) if slot.tensor.is_meta)
    before = None if audit is None or on_meta else audit_activations(model, audit)
    with contextlib.ExitStack() as undo:  # what is put on it is done when anything in the block raises
        if on_meta:
            undo.callback(materialize(model, {id(job.slot.tensor) for job in jobs}, generator))
            jobs = _plan(find_slots(model), planned, globs)[0]  # the tensors are new ones
        rows = _write_all(jobs, generator, undo)
        after = None if audit is None else audit_activations(model, audit)
        undo.pop_all()
    names = tuple(slot.name for slot in unmatched)
    left = tuple(slot.name for slot in skipped)
    return InitReport(tuple(rows), names, left, tuple(unused), before, after, reset)


def _checked_rules(rules: Rule | Sequence[Rule]) -> list[Rule]:
    found = [rules] if isinstance(rules, Rule) else list(rules) if isinstance(rules, Iterable) else []
    if not found or not all(isinstance(rule, Rule) for rule in found):
        raise TypeError(f"rules must be a Rule, a preset such as xavier(), or a sequence of rules, got {rules!r}")
    return found


def _names(slots: list[Slot], most: int = 10) -> str:
    names = [slot.name for slot in slots]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _plan(
    slots: list[Slot], rules: list[Rule], skip: list[str]
) -> tuple[list[_Job], list[Slot], list[Slot], list[str]]:
    for glob in skip:
        if not any(fnmatchcase(name, glob) for slot in slots for name in slot.names):
            raise ValueError(f"skip pattern {glob!r} matches no parameter{_near(glob, slots)}")
    skipped = [slot for slot in slots if any(fnmatchcase(name, glob) for name in slot.names for glob in skip)]
    open_slots = [slot for slot in slots if not any(slot is other for other in skipped)]
    if lazy := [slot for slot in open_slots if is_lazy(slot.tensor)]:
        raise ValueError(f"not yet materialised: {_names(lazy)}; run one batch through the model first")
    matches = {id(slot): [rule for rule in rules if _matching_place(rule, slot)] for slot in open_slots}
    for rule in rules:
        if not rule.optional and not any(_matching_place(rule, slot) for slot in slots):
            raise ValueError(_no_match(rule, slots))
    jobs: list[_Job] = []
    unmatched: list[Slot] = []
    for slot in open_slots:
        found = matches[id(slot)]
        if not found or not slot.settable:
            unmatched.append(slot)
            continue
        jobs.append(_job(slot, found))
    used = {id(job.rule) for job in jobs}
    unused = [repr(rule) for rule in rules if id(rule) not in used and not rule.optional]
    return jobs, unmatched, skipped, unused


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
    return did_you_mean(glob, [name for slot in slots for name in slot.names])


def _no_match(rule: Rule, slots: list[Slot]) -> str:
    if isinstance(rule.target, str):
        return f"{rule!r} matches no parameter{_near(rule.target, slots)}"
    kinds = sorted({type(module).__name__ for slot in slots for module, _ in slot.places})
    return f"{rule!r} matches no parameter; the model has parameters in {', '.join(kinds) or 'no module'}"


def _job(slot: Slot, found: list[Rule]) -> _Job:
    rule, tensor = found[0], slot.tensor
    place = _matching_place(rule, slot)
    module, key = place or slot.places[0]
    notes = ["padding row kept at zero"] * any(_padding(module) is not None for module, _ in slot.places)
    if len(slot.names) > 1 and any(not other.optional for other in found[1:]):
        notes.append(f"tied: {found[1]!r} matches too and was not used")
    if not slot.originals and any(
        step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)
    ):
        raise ValueError(f"{slot.name!r} is expanded: its elements share memory and cannot be filled one by one")
    if hasattr(tensor, "_local_tensor"):
        raise ValueError(f"{slot.name!r} is a DTensor: initialise the model before it is sharded")
    blocks = blocks_of(module, key, tuple(tensor.shape))
    if rule.init in FAN_BASED:
        if rule.fan is not None:
            fan = rule.fan(module, tensor) if callable(rule.fan) else rule.fan
            blocks = Blocks(1, *_checked_fan(fan, slot.name))
        elif blocks is None:
            raise ValueError(_no_fan(rule, slot))
    return _Job(slot, rule, blocks, notes)


def _checked_fan(fan: Any, name: str) -> tuple[float, float]:
    good = isinstance(fan, (tuple, list)) and len(fan) == 2
    if not good or not all(isinstance(n, (int, float)) and math.isfinite(n) and n > 0 for n in fan):
        raise ValueError(f"fan must be two positive numbers (fan_in, fan_out), got {fan!r} for {name!r}")
    return float(fan[0]), float(fan[1])


def _no_fan(rule: Rule, slot: Slot) -> str:
    shape = tuple(slot.tensor.shape)
    text = f"{name_of(rule.init)} needs a fan for {slot.name!r} of shape {shape}, which is no weight of a known layer"
    if len(shape) < 2:
        return f"{text}; give it another rule, or restrict this one with param='weight'"
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape, device="meta"))
    return f"{text}: give fan=(fan_in, fan_out); torch would take ({fan_in}, {fan_out})"


def _write_all(jobs: list[_Job], generator: torch.Generator | None, undo: contextlib.ExitStack) -> list[InitRow]:
    base = None if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))
    rows: list[InitRow] = []
    with torch.no_grad():
        for job in jobs:
            slot = job.slot
            for tensor in slot.originals or [slot.tensor]:
                undo.callback(_restore, tensor, tensor.detach().clone())
            if slot.legacy is not None:  # the weight is an attribute that only a forward pass would compute anew
                module, key = slot.places[0]
                undo.callback(setattr, module, key, getattr(module, key))
            rows.append(_fill(job, base, generator))
    return rows


def _restore(tensor: Tensor, old: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(old)


def _fill(job: _Job, base: int | None, generator: torch.Generator | None) -> InitRow:
    slot, tensor = job.slot, job.slot.tensor
    std_before = _std(tensor)
    direct = not slot.originals and tensor.dtype in (torch.float32, torch.float64) and tensor.is_contiguous()
    direct = direct and generator is None
    device = tensor.device if generator is None else generator.device
    dtype = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
    # In place where possible: the same numbers as the bare call, and no second tensor.
    values = tensor if direct else torch.empty(tensor.shape, dtype=dtype, device=device)
    own = None
    if base is not None and generator is not None:
        digest = hashlib.sha256(f"{base}:{slot.name}".encode()).digest()
        own = torch.Generator(generator.device).manual_seed(int.from_bytes(digest[:7], "little"))
    fan = _draw(job, values, own)
    for module, _ in slot.places:
        if (row := _padding(module)) is not None:
            values[row] = 0
    notes = list(job.notes)
    if slot.originals:
        gap = write(slot, values.to(tensor.device, tensor.dtype))
        if gap is not None and gap > 1e-5 * (1 + float(values.abs().max()) if values.numel() else 1):
            notes.append(f"its parametrisation made something else of it, up to {gap:.2g} away")
    elif not direct:
        tensor.copy_(values)
    shown = fan if job.rule.init in FAN_BASED else None
    note = "; ".join(notes)
    return InitRow(slot.name, tuple(slot.names), repr(job.rule), shown, std_before, _std(values), note)


def _draw(job: _Job, values: Tensor, generator: torch.Generator | None) -> tuple[float, float] | None:
    """Fill `values` as the rule says, block by block; return the fan."""
    rule, init, blocks = job.rule, job.rule.init, job.blocks
    if not callable(init):
        values.fill_(init)
        return None
    if values.numel() == 0:
        job.notes.append("empty")
        return None
    fan = None if blocks is None else (float(blocks.fan_in), float(blocks.fan_out))
    for part in values.chunk(blocks.pieces if blocks else 1):
        target = part
        if rule.init in FAN_BASED and part.dim() < 2:  # torch counts fans from two dimensions on
            target = part.view(1, -1) if part.dim() else part.view(1, 1)
        _call(rule, target, generator, job.slot.name)
        if rule.init in FAN_BASED and fan is not None:
            scale = fan_scale(rule, nn.init._calculate_fan_in_and_fan_out(target), fan)
            if scale != 1:
                part.mul_(scale)
    return fan


def _call(rule: Rule, values: Tensor, generator: torch.Generator | None, name: str) -> None:
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
    if values.dtype not in (torch.float32, torch.float64):
        values = values.to(torch.float32)
    # torch.std on a CPU takes ten times as long. One pass, and a second where the squares would cancel.
    mean = values.mean()
    variance = (torch.linalg.vector_norm(values) ** 2 / values.numel() - mean**2).item()
    if variance < 1e-3 * mean.item() ** 2:
        variance = ((values - mean).square().mean()).item()
    return math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else math.nan
