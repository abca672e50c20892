"""The rows a program trains and evaluates on: which come again, in which company, and what they say of the targets."""

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from linkboy._watch import LossCall
from linkboy.doctor._facts import Facts, InputScale

MOST_ELEMENTS = 256  # of a row that are hashed
MOST_ROWS = 200_000
MOST_SCALES = 8  # batches
NamedTensors = list[tuple[str, Tensor]]


class Rows:
    """Keeps hashes of rows, and the inputs of the step that runs.

    Args:
        facts: where the figures go.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.inputs: NamedTensors = []  # of the last call with gradient
        self.trained: dict[int, dict[int, int]] = {}  # by root: hash of a row to the dataset it came from
        self.evaluated: dict[tuple[int, int], list[list[int]]] = {}
        self.eval_places: dict[tuple[int, int], str] = {}
        self._next: dict[int, int] = {}
        self._same_next = self._other_next = 0
        self._ids: list[tuple[Tensor, int, int | None]] = []
        self._waiting: list[int] = []
        self._waits_for = -1  # the model that was called on them
        self._eval_targets: dict[int, int] = {}
        self._last_eval = 0

    # ------------------------------------------------------------------------------------------------------------- calls
    def called(self, inputs: NamedTensors, *, trains: bool, dataset: int, root: int, place: str) -> None:
        """Note a call of a model: its rows are trained on at the next backward pass, or evaluated."""
        if not inputs:
            return
        self._scales(inputs, trains=trains, root=root, place=place)
        hashes = row_hashes(inputs)
        if trains:
            self.inputs = inputs
            self._waiting, self._waits_for = hashes, root
            return
        self._last_eval = self._last_eval or hash(tuple(hashes))
        if len(hashes) >= 8:
            key = (dataset, root)
            calls = self.evaluated.setdefault(key, [])
            if len(calls) * len(hashes) < MOST_ROWS:
                calls.append(hashes)
            self.eval_places.setdefault(key, place)

    def _scales(self, inputs: NamedTensors, *, trains: bool, root: int, place: str) -> None:
        for name, tensor in inputs:
            if (
                tensor.layout is not torch.strided
                or not tensor.is_floating_point()
                or tensor.dim() < 2
                or len(tensor) < 8
            ):
                continue
            scale = self.facts.scales.setdefault((root, name, tensor.dim()), InputScale())
            kept = scale.trained if trains else scale.evaluated
            if len(kept) < MOST_SCALES:
                kept.append(float(tensor.detach().float().square().mean().sqrt()))
            scale.place = scale.place or place

    def embedded(self, ids: Tensor, size: int, padding: int | None) -> None:
        """Note ids that rows of a table were read with."""
        if len(self._ids) < 8 and ids.dim() >= 1 and not ids.is_floating_point():
            self._ids.append((ids.detach(), size, padding))

    def backward(self, dataset: int) -> None:
        """Count the rows of the last call as trained."""
        hashes, self._waiting, self._last_eval = self._waiting, [], 0
        if not hashes:
            return
        self.facts.batch_hashes.append(hash(tuple(hashes)))
        trained = self.trained.setdefault(self._waits_for, {})
        for row, after in itertools.pairwise(hashes):
            before = self._next.get(row)
            if before is not None and len(trained) < MOST_ROWS:
                self._same_next += before == after
                self._other_next += before != after
            self._next[row] = after
        if len(trained) < MOST_ROWS:
            trained |= dict.fromkeys(hashes, dataset)
        self.facts.rows_regrouped = self._other_next >= 4 and self._other_next > self._same_next

    def evaluated_target(self, target: Tensor) -> None:
        """Note the target of an evaluation: the same targets again are the same rows, whatever their inputs are now."""
        if target.numel() < 8 or bool((target == target.flatten()[0]).all()):
            return
        key = hash(target.detach().cpu().contiguous().numpy().tobytes()) if target.dtype != torch.bfloat16 else 0
        changed, count = self.facts.eval_changes
        if key in self._eval_targets:
            self.facts.eval_changes = (changed + (self._eval_targets[key] != self._last_eval), count + 1)
        self._eval_targets[key] = self._last_eval
        self._last_eval = 0

    def step(self) -> None:
        """Let go of the tensors of a step."""
        self._ids.clear()
        self.inputs = []

    # -------------------------------------------------------------------------------------------------------------- losses
    def loss(self, call: LossCall, target: Tensor | None) -> None:
        """Compare the target of a loss with what the model was given."""
        if target is None or not target.numel():
            return
        target = target.detach()
        self._columns(target)
        for name, tensor in [*self.inputs, *(("", ids) for ids, _, _ in self._ids)]:
            if self._sequence(call, tensor, target):
                self.facts.sequence_input = name
                break
        for ids, _, padding in self._ids:
            if ids.dim() == 2 and call.kind == "nll":
                self._padding(call, ids, target, padding)
                break

    def compared(self, target: Tensor) -> None:
        """Compare what an output is compared with by hand to the columns of the input."""
        if target.numel() and target.is_floating_point():
            self._columns(target.detach())

    def _columns(self, target: Tensor) -> None:
        # of a row, or of a window of a series, which holds what is to come if it is too long
        able = (t.flatten(1) for _, t in self.inputs if t.dim() in (2, 3) and t.is_floating_point() and len(t) >= 4)
        table = next((t for t in able if 2 <= t.shape[1] <= 4096), None)
        if table is None or target.numel() != table.shape[0]:
            return
        column = target.reshape(-1, 1).to(table.dtype)
        if bool((column == column[0]).all()):
            return
        self.facts.leak_batches += 1
        self.facts.columns = table.shape[1]
        self.facts.leak_columns.update((table.detach() == column).all(0).nonzero().flatten().tolist())
        if len(table) >= 8:  # few rows agree by chance
            self.facts.scaled_batches += 1
            self.facts.scaled_columns.update(_scaled_columns(table.detach(), column).nonzero().flatten().tolist())

    def _sequence(self, call: LossCall, given: Tensor, target: Tensor) -> bool:
        """Note whether the target is the input itself, or the input one place later."""
        if given.dim() < 2 or given.shape[1] < 3 or given.shape[0] * given.shape[1] < 16:
            return False
        given = given.detach()
        classes = call.kind == "nll"
        if classes != (not given.is_floating_point()) or (classes and given.dim() != 2):
            return False
        if given.dim() == 2 and not classes:
            return False
        per_place = given[0, 0].numel()
        rows, length = given.shape[:2]
        if target.numel() == rows * length * per_place:
            target = target.reshape(given.shape)
            same, shifted = target == given, target[:, :-1] == given[:, 1:]
            kept = (target != call.ignore_index) if classes else torch.ones_like(same)
            moved = given[:, :-1] != given[:, 1:]
            self._note_sequence(call, same[kept], shifted[kept[:, :-1]], moved)
            return True
        if classes and target.numel() == rows * (length - 1):
            target = target.reshape(rows, length - 1)
            kept = target != call.ignore_index
            moved = given[:, :-1] != given[:, 1:]
            self._note_sequence(call, (target == given[:, :-1])[kept], (target == given[:, 1:])[kept], moved)
            return True
        return False

    def _note_sequence(self, call: LossCall, same: Tensor, shifted: Tensor, moved: Tensor) -> None:
        if not same.numel() or float(moved.float().mean()) < 0.2:  # one id all along says nothing
            return
        self.facts.sequence_batches += 1
        self.facts.sequence_place = self.facts.sequence_place or call.place
        self.facts.same += float(same.float().mean()) > 0.98
        self.facts.shifted += float(shifted.float().mean()) > 0.98

    def _padding(self, call: LossCall, ids: Tensor, target: Tensor, padding: int | None) -> None:
        rows, length = ids.shape
        if target.numel() == rows * (length - 1):
            ids, length = ids[:, 1:], length - 1
        if target.numel() != rows * length or length < 3:
            return
        target = target.reshape(rows, length)
        hidden = trailing(ids, padding)
        if hidden is None:
            return
        lengths = hidden.sum(1)
        padded_rows = int((lengths > 0).sum())
        if padded_rows < 4 or len(lengths.unique()) < 3:
            return
        counted = target[hidden]
        counted = counted[counted != call.ignore_index] if call.ignore_index is not None else counted
        labels = counted.unique()
        if counted.numel() < 0.4 * int(hidden.sum()):
            return
        if len(labels) == 1 and int(labels) != call.ignore_index and not _is_silent(call, hidden):
            self.facts.padding.append((padded_rows, len(lengths.unique()), int(labels), int(hidden.sum())))
            self.facts.padding_place = self.facts.padding_place or call.place

    def note_ids(self) -> None:
        """Note how much of the ids of a step is one id."""
        for ids, size, padding in self._ids[:2]:
            flat = ids.flatten()
            if size < 20 or flat.numel() < 64:
                continue
            values, counts = flat.unique(return_counts=True)
            most = int(counts.argmax())
            value = int(values[most])
            hidden = trailing(ids, padding) if ids.dim() == 2 else None
            as_padding = value == padding or (hidden is not None and bool((ids[hidden] == value).all()))
            self.facts.ids.append((value, float(counts[most]) / flat.numel(), size, as_padding))


def _is_silent(call: LossCall, hidden: Tensor) -> bool:
    """Return whether an unreduced loss is multiplied by a mask later, which is not known here."""
    return call.reduction == "none" and hidden.numel() > 0


def trailing(ids: Tensor, padding: int | None = None) -> Tensor | None:
    """Return where rows of ids end, or begin, in a run of one and the same id; `None` where they do not."""
    for flipped in (False, True):
        rows = ids.flip(1) if flipped else ids
        last = padding if padding is not None else _common_last(rows)
        if last is None:
            continue
        run = (rows == last).flip(1).cumprod(1).flip(1).bool()
        if bool(run.any()) and int((run.sum(1) > 1).sum()) >= 1:
            return run.flip(1) if flipped else run
    return None


def _common_last(rows: Tensor) -> int | None:
    values, counts = rows[:, -1].unique(return_counts=True)
    most = int(counts.argmax())
    return int(values[most]) if int(counts[most]) >= max(3, len(rows) // 4) else None


def _scaled_columns(table: Tensor, column: Tensor) -> Tensor:
    """Return which columns of a table are another column times one number plus one number."""
    mine, other = (each.double() - each.double().mean(0) for each in (table, column))
    size = mine.norm(dim=0) * other.norm()
    return (mine * other).sum(0).abs() > (1 - 1e-7) * size.clamp(min=1e-12)


def row_hashes(inputs: Iterable[tuple[str, Tensor]]) -> list[int]:
    """Return a hash for each sample of the first inputs that have one size along the first dim."""
    tensors = [t for _, t in inputs if t.dim() >= 1 and t.shape[0] >= 2 and t.layout is torch.strided and not t.is_meta]
    if not tensors:
        return []
    count = tensors[0].shape[0]
    parts: list[list[bytes]] = []
    for tensor in [t for t in tensors if t.shape[0] == count][:3]:
        flat = tensor.detach().reshape(count, -1)
        stride = max(1, flat.shape[1] // MOST_ELEMENTS)
        flat = flat[:, ::stride]
        if flat.is_complex() or flat.dtype == torch.bfloat16:
            flat = torch.view_as_real(flat).flatten(1) if flat.is_complex() else flat.float()
        array = flat.cpu().contiguous().numpy()
        parts.append([row.tobytes() for row in array])
    return [hash(row) for row in zip(*parts, strict=True)]


def overlap_of(rows: Rows, key: tuple[int, int]) -> tuple[int, int]:
    """Return on how many different evaluated rows the model was trained, and how many there were.

    Without a loader only the values of rows say what is held out. Rows that are evaluated once may be those of a rollout that
    is learned from afterwards, and calls on trained rows alone that cover most of them are the accuracy on the training part.
    """
    calls, trained = rows.evaluated[key], rows.trained.get(key[1], {})
    if key[0] == -1:
        times = Counter(row for call in calls for row in call)
        calls = [[row for row in call if times[row] >= 2] for call in calls]
    shares = [(sum(row in trained for row in call), len(call)) for call in calls if call]
    evaluated = {row for call in calls for row in call}
    shared = {row for row in evaluated if row in trained}
    whole = all(known in (0, count) for known, count in shares)
    if key[0] == -1 and whole and len(shared) >= 0.6 * len(trained):
        return 0, len(evaluated)
    return len(shared), len(evaluated)


def named_inputs(args: Any, kwargs: Any, names: list[str]) -> NamedTensors:
    """Return the tensors among the arguments of a call, by the names of `forward`, those with a gradient left out."""
    from linkboy._calls import named_tensors

    found: NamedTensors = []
    for position, value in enumerate(args):
        name = names[position] if position < len(names) else f"argument {position}"
        found += [(name if path == "output" else f"{name}.{path}", t) for path, t in named_tensors(value)]
    for name, value in kwargs.items():
        found += [(name if path == "output" else f"{name}.{path}", t) for path, t in named_tensors(value)]
    return [(name, tensor) for name, tensor in found if tensor.grad_fn is None]
