"""Ask a model again: in eval mode, with the same random numbers, on its first batch and on changed copies of it.

Every run is one of `_calls.model_run`, which leaves no trace of it.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linkboy import _random
from linkboy._calls import Arguments, model_run, tensors_in
from linkboy._watch import _graph
from linkboy._watch._places import node_line, user_line
from linkboy.doctor._facts import Rerun
from linkboy.doctor._patching import Patches
from linkboy.doctor._rows import named_inputs, trailing

SEED = 20
LONGEST = 20.0  # seconds after which no further question is put to a model
Change = Callable[[Tensor], Tensor]


class Asked:
    """A model and the batch it is asked with.

    Args:
        model: the model.
        arguments: the arguments of a call it was trained with.
        names: the names of the arguments of `forward`.
    """

    def __init__(self, model: nn.Module, arguments: Arguments, names: list[str]) -> None:
        self.model, self.arguments = model, arguments
        self.inputs = named_inputs(arguments.args, arguments.kwargs, names)
        sizes = {tensor.shape[0] for _, tensor in self.inputs if tensor.dim() >= 1}
        if all(tensor.dim() <= 1 and tensor.is_floating_point() for _, tensor in self.inputs):
            sizes.clear()  # one row of numbers, such as the state that an agent acts on
        self.size = sizes.pop() if len(sizes) == 1 else 0
        self.coupled = any(_couples_rows(name, tensor) for name, tensor in self.inputs)
        self.base: list[Tensor] = []
        self.parts_at: tuple[str, ...] = ()
        self.changed = ""  # an attribute that a call has left changed

    def run(self, change: Change | None = None, *, times: int = 1) -> list[list[Tensor]]:
        """Return the outputs of some calls in a row, all from the same random numbers.

        Args:
            change: what is done to each tensor of the arguments first.
            times: how many calls are made without putting the model's attributes back in between.
        """
        arguments = self.arguments if change is None else self.arguments.map(change)
        found = []
        with model_run(self.model, arguments, "values", training=False, seed=SEED) as run:
            for _ in range(times):
                before = _attributes(run.model)
                _random.seed(SEED)
                found.append([tensor.detach().clone() for tensor in tensors_in(run.call())])
                self.changed = next(
                    (key for key, value in _attributes(run.model).items() if before.get(key) != value), ""
                )
        return found

    def gradients(self) -> dict[int, Tensor]:
        """Return the gradient of a random combination of the outputs by each floating point input, by its place."""
        mine = [tensor for _, tensor in self.inputs]
        kept: dict[int, Tensor] = {}

        def leaf(tensor: Tensor) -> Tensor:
            place = next((i for i, other in enumerate(mine) if other is tensor), None)
            if place is None or not tensor.is_floating_point():
                return tensor
            kept[place] = tensor.detach().clone().requires_grad_()
            return kept[place]

        arguments = self.arguments.map(leaf)
        with model_run(self.model, Arguments((), {}), "values", training=False, seed=SEED, grad=True) as run:
            _random.seed(SEED)
            with torch.autograd.set_detect_anomaly(True, check_nan=False):
                outputs = [t for t in tensors_in(arguments.call(run.model)) if t.requires_grad]
            self.parts_at = tuple(dict.fromkeys(_parts_taken(outputs, kept.values())))
            generator = torch.Generator().manual_seed(SEED)
            total: Any = 0.0
            for output in outputs:
                weights = torch.randn(output.shape, generator=generator).to(output.device, output.dtype)
                total = total + (output * weights).sum()
            if not outputs:
                return {}
            found = torch.autograd.grad(total, list(kept.values()), allow_unused=True)
        return {
            place: torch.zeros_like(tensor) if grad is None else grad
            for (place, tensor), grad in zip(kept.items(), found, strict=True)
        }


def rerun(model: nn.Module, arguments: Arguments, names: list[str], facts: Rerun, *, sequence: str | None) -> None:
    """Fill in what running a model again shows.

    Args:
        model: the model.
        arguments: the arguments of one call it was trained with.
        names: the names of the arguments of `forward`.
        facts: what is filled.
        sequence: the argument that holds the targets, or the targets one place earlier; empty where it has no name, and
            `None` where nothing does.
    """
    asked = Asked(model, arguments, names)
    facts.batch = asked.size
    facts.sequences = any(t.dim() >= 3 or (t.dim() == 2 and not t.is_floating_point()) for _, t in asked.inputs)
    began = time.monotonic()
    with dropout_seen() as places:
        try:
            first, second = asked.run(times=2)
        except Exception as error:  # noqa: BLE001 - a program's own model may raise anything outside its loop
            facts.error = f"{type(error).__name__}: {error}"
            return
    facts.ran, asked.base = True, first
    facts.seconds = (time.monotonic() - began) / 2
    facts.dropout = tuple(places)
    facts.carries = any(differ(one, other) for one, other in zip(first, second, strict=False)) or len(first) != len(
        second
    )
    facts.carried_by = asked.changed.rpartition(".")[2]
    if facts.carries or not first:
        return
    for ask in (_ask_mixing, _ask_one, _ask_mask, _ask_inputs):
        with contextlib.suppress(
            RuntimeError, ValueError, TypeError, IndexError, AssertionError, KeyError, AttributeError
        ):
            ask(asked, facts)
    if sequence is not None:
        with contextlib.suppress(RuntimeError, ValueError, TypeError, IndexError):
            _ask_future(asked, facts, sequence)


def _attributes(model: Any) -> dict[str, int]:
    """Return which object each plain attribute of a model and its parts is."""
    return {
        f"{path}.{key}": id(value)
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training"
    }


@contextlib.contextmanager
def dropout_seen() -> Iterator[dict[str, None]]:
    """Note the lines at which dropout is on while the block runs; the models in it are in eval mode."""
    places: dict[str, None] = {}
    patches = Patches()

    def watch(original: Callable[..., Any]) -> Callable[..., Any]:
        def dropout(input: Any, p: float = 0.5, training: bool = True, *args: Any, **kwargs: Any) -> Any:
            if training and p > 0:
                places[user_line()] = None
            return original(input, p, training, *args, **kwargs)

        return dropout

    def attention(original: Callable[..., Any]) -> Callable[..., Any]:
        def scaled(*args: Any, **kwargs: Any) -> Any:
            dropout = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            if dropout > 0:
                places[user_line()] = None
            return original(*args, **kwargs)

        return scaled

    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"):
        patches.wrap(F, name, watch)
    patches.wrap(F, "scaled_dot_product_attention", attention)
    try:
        yield places
    finally:
        patches.remove()


# --------------------------------------------------------------------------------------------------------------- mixing
def _ask_mixing(asked: Asked, facts: Rerun) -> None:
    """Replace sample 0 by sample 1: no other sample's result may change."""
    if asked.size < 3 or asked.coupled:
        return
    other = asked.run(lambda tensor: _first_replaced(tensor, asked.size))[0]
    answers = []
    for one, two in zip(asked.base, other, strict=True):
        rows = _by_sample(one, two, asked.size)
        if rows is None or (one.dim() >= 2 and tuple(one.shape[:2]) == (asked.size, asked.size)):
            continue  # a table of all pairs has every sample in every row
        before, after = rows
        changed = [differ(before[n], after[n], scale=before) for n in range(1, asked.size)]
        answers.append(sum(changed))
    if answers:
        facts.mixed = max(answers)
        facts.independent = facts.mixed == 0


def _first_replaced(tensor: Tensor, size: int) -> Tensor:
    if tensor.dim() < 1 or tensor.shape[0] != size:
        return tensor
    new = tensor.clone()
    new[0] = tensor[1]
    if torch.equal(new[0], tensor[0]) and size > 2:
        new[0] = tensor[2]
    return new


def _by_sample(one: Tensor, two: Tensor, size: int) -> tuple[Tensor, Tensor] | None:
    """Return two results with a row for each sample; `None` where the samples cannot be found in them."""
    if one.shape != two.shape or not one.is_floating_point() or one.dim() < 1:
        return None
    for dim in range(min(one.dim(), 2)):
        if one.shape[dim] == size:
            return one.movedim(dim, 0).flatten(1) if one.dim() > 1 else one[:, None], (
                two.movedim(dim, 0).flatten(1) if two.dim() > 1 else two[:, None]
            )
    if one.shape[0] % size == 0 and one.shape[0] > size:
        return one.reshape(size, -1), two.reshape(size, -1)
    return None


def _ask_one(asked: Asked, facts: Rerun) -> None:
    """Run a batch of one: its result must have the dims of the others."""
    if asked.size < 2 or asked.coupled or not asked.base:
        return
    many = asked.base[0]
    facts.many_shape = tuple(many.shape)
    if many.dim() < 1 or many.shape[0] != asked.size:
        return
    try:
        one = asked.run(lambda tensor: tensor[:1] if tensor.dim() and tensor.shape[0] == asked.size else tensor)[0]
    except Exception as error:  # noqa: BLE001 - what a batch of one raises is the answer
        facts.one_error = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        return
    facts.one_shape = tuple(one[0].shape)


# --------------------------------------------------------------------------------------------------------------- masks
def _ask_mask(asked: Asked, facts: Rerun) -> None:
    """Change what a mask hides: the result must stay."""
    found = _mask_of(asked)
    if found is None:
        return
    mask_name, hidden, changed_place = found
    target = asked.inputs[changed_place][1]
    new = _with_other_values(target, hidden)
    if torch.equal(new, target):
        return
    other = asked.run(lambda tensor: new if tensor is target else tensor)[0]
    shown = ~hidden
    facts.mask_name = mask_name
    facts.mask = "held"
    for one, two in zip(asked.base, other, strict=True):
        if one.shape != two.shape or not one.is_floating_point() or one.dim() < 1:
            continue
        if one.dim() >= 2 and tuple(one.shape[:2]) == tuple(hidden.shape):
            one, two = one[shown], two[shown]
        if differ(one, two):
            facts.mask = "ignored"


def _mask_of(asked: Asked) -> tuple[str, Tensor, int] | None:
    """Return the name of a mask or of lengths, the places it hides, and the input that it hides places of."""
    for place, (_, given) in enumerate(asked.inputs):
        if given.dim() < 2 or given.shape[1] < 3 or _is_zero_one(given):
            continue
        for other, (name, mask) in enumerate(asked.inputs):
            if other == place:
                continue
            hidden = _hidden_by(name, mask, given)
            if hidden is not None and 0 < int(hidden.sum()) < hidden.numel():
                return name, hidden, place
    return None


def _hidden_by(name: str, mask: Tensor, given: Tensor) -> Tensor | None:
    rows, length = given.shape[:2]
    if mask.dim() == 1 and len(mask) == rows and not mask.is_floating_point() and "len" in name.lower():
        if int(mask.min()) >= 1 and int(mask.max()) <= length:
            return torch.arange(length, device=mask.device)[None] >= mask[:, None]
        return None
    mask = mask.reshape(rows, length) if mask.numel() == rows * length else mask
    if tuple(mask.shape) != (rows, length) or not _is_zero_one(mask):
        return None
    padded = trailing(given) if given.dim() == 2 and not given.is_floating_point() else _empty_places(given)
    if padded is None:
        return None
    ones = mask.bool()
    # which of the two values hides is told by where the padding is
    if not bool((ones & padded).any()) and bool((~ones & padded).any()):
        return ~ones
    if not bool((~ones & padded).any()) and bool((ones & padded).any()):
        return ones
    return ~ones if "attention" in name else None


def _empty_places(given: Tensor) -> Tensor | None:
    if given.dim() < 3:
        return None
    empty = (given == 0).flatten(2).all(2)
    return empty if bool(empty.any()) else None


def _is_zero_one(tensor: Tensor) -> bool:
    if tensor.dtype == torch.bool:
        return True
    return tensor.numel() > 0 and bool(((tensor == 0) | (tensor == 1)).all())


def _with_other_values(tensor: Tensor, where: Tensor) -> Tensor:
    """Return a copy with other values of the same kind at some places of the first two dims."""
    generator = torch.Generator().manual_seed(SEED)
    flat = tensor.flatten()
    drawn = flat[torch.randint(0, len(flat), tensor.shape, generator=generator).to(flat.device)]
    if tensor.is_floating_point():
        drawn = drawn + torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)
    new = tensor.clone()
    new[where] = drawn[where]
    return new


# -------------------------------------------------------------------------------------------------------------- future
def _ask_future(asked: Asked, facts: Rerun, wanted: str) -> None:
    """Change the second half of the positions of an input: the results of the first half must stay."""
    able = [(name, t) for name, t in asked.inputs if t.dim() >= 2 and t.shape[1] >= 4 and not _is_zero_one(t)]
    if not able:
        return
    given = next((t for name, t in able if name == wanted), able[0][1])
    rows, length = given.shape[:2]
    later = torch.zeros(rows, length, dtype=torch.bool, device=given.device)
    later[:, length // 2 :] = True
    new = _with_other_values(given, later)
    other = asked.run(lambda tensor: new if tensor is given else tensor)[0]
    for one, two in zip(asked.base, other, strict=True):
        if one.dim() >= 2 and one.shape[0] == rows * length:
            one, two = one.reshape(rows, length, -1), two.reshape(rows, length, -1)
        if one.dim() < 3 or tuple(one.shape[:2]) != (rows, length) or one.shape != two.shape:
            continue
        facts.future = differ(one[:, : length // 2], two[:, : length // 2])
        facts.present = differ(one[:, length // 2], two[:, length // 2])
        return


# -------------------------------------------------------------------------------------------------------------- inputs
def _ask_inputs(asked: Asked, facts: Rerun) -> None:
    """Look for inputs without a gradient, and shuffle them: an input that matters changes the result."""
    if asked.size < 4:
        return
    facts.asked_inputs = True
    slopes = asked.gradients()
    found: list[tuple[str, int, int]] = []
    for place, (name, tensor) in enumerate(asked.inputs):
        if tensor.dim() < 1 or _constant(tensor) or "mask" in name.lower() or _may_be_target(name, tensor):
            continue
        facts.input_count += 1
        silent = _silent_columns(tensor, slopes.get(place))
        if silent is None:
            continue
        if not any(_matters(asked, tensor, new) for new in _other_rows(tensor, silent)):
            found.append((name, int(silent.sum()), silent.numel()))
    facts.ignored = tuple(found)
    facts.ignored_at = asked.parts_at


def _may_be_target(name: str, tensor: Tensor) -> bool:
    """Return whether an input may be what the loss wants: one value a sample, in a batch that is passed as a whole."""
    return "." in name and tensor.numel() == len(tensor)


def _other_rows(tensor: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Yield copies of an input in which samples have the values of others.

    Exchanging targets leaves the mean loss as it is where a model answers all samples alike, so the second copy has one
    sample's values in all.
    """
    size = len(tensor)
    for order in (torch.arange(1, size + 1) % size, torch.zeros(size, dtype=torch.long)):
        rows = tensor[order.to(tensor.device)]
        new = tensor.clone()
        if columns.numel() == 1:
            new = rows
        else:
            new[..., columns] = rows[..., columns]
        yield new


def _matters(asked: Asked, tensor: Tensor, new: Tensor) -> bool:
    """Return whether the results are others where an input has other values."""
    if torch.equal(new, tensor):
        return True  # nothing was asked
    other = asked.run(lambda each: new if each is tensor else each)[0]
    return any(differ(one, two) for one, two in zip(asked.base, other, strict=True))


def _parts_taken(outputs: list[Tensor], given: Iterable[Tensor]) -> Iterator[str]:
    """Yield the lines that take a part of an input."""
    mine = {id(tensor) for tensor in given}
    for tensor, users in _graph.walk(outputs, deep=True).leaves.values():
        for node in users if id(tensor) in mine else ():
            if _graph.op_of(node) in ("Select", "Slice", "Index", "Narrow", "Split", "IndexSelect") and (
                line := node_line(node)
            ):
                yield line


def _silent_columns(tensor: Tensor, slope: Tensor | None) -> Tensor | None:
    """Return which columns of an input have no gradient and are worth asking about; `None` where there are none."""
    if slope is None:  # whole numbers have no gradient: the input is asked about as a whole
        return torch.ones(1, dtype=torch.bool, device=tensor.device)
    if tensor.dim() not in (2, 3):
        return torch.ones(1, dtype=torch.bool, device=tensor.device) if not bool(slope.any()) else None
    flat = tensor.flatten(0, -2)
    silent = (slope == 0).flatten(0, -2).all(0)
    varied = (flat != flat[0]).any(0)
    silent = silent & varied
    return silent if bool(silent.any()) else None


def _constant(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or bool((tensor == tensor[:1]).all())


# ------------------------------------------------------------------------------------------------------------- helpers
def _couples_rows(name: str, tensor: Tensor) -> bool:
    """Return whether an input says which rows belong together: an edge index, an adjacency matrix, anything sparse."""
    if tensor.layout is not torch.strided:
        return True
    if tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1] and tensor.shape[0] > 2 and "adj" in name.lower():
        return True
    return tensor.dim() == 2 and tensor.shape[0] == 2 and not tensor.is_floating_point() and "edge" in name.lower()


def differ(one: Tensor, two: Tensor, *, scale: Tensor | None = None) -> bool:
    """Return whether two results differ by more than rounding."""
    if one.shape != two.shape:
        return True
    if not one.is_floating_point():
        return not torch.equal(one, two)
    one, two = one.float().nan_to_num(), two.float().nan_to_num()
    size = (one if scale is None else scale.float().nan_to_num()).abs().max() if one.numel() else torch.zeros(())
    return bool(one.numel()) and float((one - two).abs().max()) > 1e-4 * float(size) + 1e-7
