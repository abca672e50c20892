"""What a transaction did: modules, state_dict keys, repairs, the checked run and the change of the output."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor

from linkboy._report import Block, Report, Table, and_more, format_count, plural


@dataclasses.dataclass(frozen=True)
class ModuleChange:
    """A module that came, went, or has another name; what is below it went with it.

    Attributes:
        what: `"removed"`, `"new"`, `"replaced"` or `"moved"`.
        before: its name before the edit; `"-"` if it is new.
        after: its name after the edit; `"-"` if it is gone.
        kind: its class, or both classes if it was replaced.
    """

    what: Literal["removed", "new", "replaced", "moved"]
    before: str
    after: str
    kind: str


@dataclasses.dataclass(frozen=True)
class ShapeChange:
    """A module whose output changed its shape or dtype in the checked run.

    Attributes:
        name: of the module, after the edit.
        before: dtype and shape before the edit, as `f32[2, 10]`.
        after: dtype and shape after it.
    """

    name: str
    before: str
    after: str


@dataclasses.dataclass(frozen=True)
class OutputChange:
    """One tensor of the output before and after the edit.

    Attributes:
        name: its path in the output, as `logits` or `hidden_states.0`; `output` where the output is one tensor.
        before: dtype and shape before the edit, as `f32[2, 10]`; `"-"` if it was not there.
        after: dtype and shape after it; `"-"` if it is no longer there.
        difference: the largest of all elements; `None` where the two cannot be compared, or no values were computed.
    """

    name: str
    before: str
    after: str
    difference: float | None


@dataclasses.dataclass(frozen=True)
class SurgeryReport(Report):
    """What an edit did to a model, and how it was checked that the model still runs.

    Attributes:
        model: the class of the model.
        edits: what was asked for and done, one sentence each.
        modules: the modules that came, went, were replaced or moved.
        parameter_count_before: the number of elements of all parameters before the edit.
        parameter_count_after: the number after it.
        keys: each `state_dict` key of the edited model whose values the model had before, with the key they had then.
        new_keys: keys without values from before.
        removed_keys: keys that are gone.
        resized_keys: keys whose values have another shape than before.
        repairs: what was changed to go with the edits: layer numbers, config fields, ties, the optimizer.
        checked: how the edited model was run.
        shapes: modules whose output changed its shape or dtype.
        outputs: the tensors of the output, before and after.
        cache_difference: the largest difference of step-by-step outputs from those of a full pass, relative to the
            largest output; `None` where the model has no cache.
        cache_difference_before: the same of the unedited model.
        notes: what you should know.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from linkboy import remove_layer
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> report = remove_layer(model, "1", example=torch.ones(1, 4))
        >>> report.keys
        {'0.weight': '0.weight', '0.bias': '0.bias', '1.weight': '2.weight', '1.bias': '2.bias'}
    """

    model: str
    edits: tuple[str, ...]
    modules: tuple[ModuleChange, ...]
    parameter_count_before: int
    parameter_count_after: int
    keys: dict[str, str]
    new_keys: tuple[str, ...]
    removed_keys: tuple[str, ...]
    resized_keys: tuple[str, ...]
    repairs: tuple[str, ...]
    checked: str
    shapes: tuple[ShapeChange, ...]
    outputs: tuple[OutputChange, ...]
    cache_difference: float | None
    cache_difference_before: float | None
    notes: tuple[str, ...]

    def convert(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint of the unedited model under the keys of the edited one.

        Keys of removed layers are left out. `new_keys` and `resized_keys` have no values in an old checkpoint; where there
        are any, load the result with `strict=False`.

        Args:
            state_dict: a checkpoint of the model before the edit.

        Returns:
            The same tensors under the keys of `keys`.

        Raises:
            KeyError: a key of the model before the edit is missing.
        """
        missing = sorted({old for old in self.keys.values() if old not in state_dict})
        if missing:
            raise KeyError(f"state_dict must come from the model before the edit, and lacks {', '.join(missing[:5])}")
        return {new: state_dict[old] for new, old in self.keys.items()}

    def _blocks(self) -> Iterable[Block]:
        count = f"{format_count(self.parameter_count_before)} -> {plural(self.parameter_count_after, 'parameter')}"
        yield "\n".join([f"{self.model}: {count}", *_indented(self.edits)])
        if self.modules:
            rows = [(change.what, change.before, change.after, change.kind) for change in self.modules]
            yield Table(("module", "before", "after", "type"), rows).first(12)
        yield self._key_line()
        if self.repairs:
            yield "\n".join(["repaired", *_indented(self.repairs)])
        yield f"checked: {self.checked}{self._cached()}"
        if self.outputs:
            rows = [(one.name, one.before, one.after, one.difference) for one in self.outputs]
            yield Table(("output", "before", "after", "largest difference"), rows).first(12)
        if self.shapes:
            rows = [(one.name, one.before, one.after) for one in self.shapes]
            yield Table(("output of", "before", "after"), rows).first(12)
        if self.notes:
            yield "\n".join(["notes", *_indented(self.notes)])

    def _cached(self) -> str:
        if self.cache_difference is None:
            return ""
        before = (
            "" if self.cache_difference_before is None else f" ({self.cache_difference_before:.1e} before the edit)"
        )
        return f"; with and without cache: {self.cache_difference:.1e} apart{before}"

    def _key_line(self) -> str:
        renamed = sum(new != old for new, old in self.keys.items())
        parts = [
            (len(self.keys) - renamed, "kept"),
            (renamed, "renamed"),
            (len(self.removed_keys), "removed"),
            (len(self.new_keys), "new"),
            (len(self.resized_keys), "resized"),
        ]
        return "state_dict keys: " + (", ".join(f"{count} {what}" for count, what in parts if count) or "none")


def _indented(lines: tuple[str, ...], most: int = 12) -> list[str]:
    return [f"  {line}" for line in [*lines[:most], and_more(len(lines), most).strip()] if line]
