"""Ask datasets and operators again: items drawn twice, copies as workers have them, and gradients written by hand."""

import contextlib
import copy
import itertools
from typing import Any

import torch
from torch.utils.data import IterableDataset, Subset

from linkboy import _random
from linkboy._calls import tensors_in
from linkboy.autograd._finite import agrees_beside, disagreement
from linkboy.autograd._trial import Trial

ITEM = 0


def same_item(one: Any, other: Any) -> bool:
    """Return whether two items of a dataset hold the same values."""
    import numpy as np

    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same_item(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return isinstance(other, (list, tuple)) and len(one) == len(other) and all(map(same_item, one, other))
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - an item may be anything; then nothing is said of it
        return True


def drawn_items(
    dataset: Any, seed: int, count: int = 2, *, worker: int | None = None, init: Any = None
) -> list[Any] | None:
    """Return one item of a copy of a dataset, drawn some times after seeding; `None` where that cannot be done.

    Args:
        dataset: the dataset, which is copied.
        seed: what the streams of torch, Python and NumPy are seeded with.
        count: how often the item is drawn.
        worker: number of the worker that the copy stands for.
        init: the loader's `worker_init_fn`.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return None
    with _random.same_random_numbers():
        try:
            mine = _copied(dataset)
            _random.seed(seed)
            with contextlib.nullcontext() if worker is None else _as_worker(worker, seed, mine):
                if init is not None and worker is not None:
                    init(worker)
                return [copy.deepcopy(mine[ITEM]) for _ in range(count)]
        except Exception:  # noqa: BLE001 - a dataset that cannot be copied or read again is not asked
            return None


@contextlib.contextmanager
def _as_worker(number: int, seed: int, dataset: Any) -> Any:
    from torch.utils.data._utils import worker

    before = worker._worker_info
    worker._worker_info = worker.WorkerInfo(id=number, num_workers=2, seed=seed, dataset=dataset)
    try:
        yield
    finally:
        worker._worker_info = before


def _copied(dataset: Any) -> Any:
    """Return a copy of a dataset that shares what is large and only read: tensors, arrays, long lists."""
    shared: dict[int, Any] = {}
    waiting, depth = [dataset], 0
    while waiting and depth < 200:
        depth += 1
        thing = waiting.pop()
        for value in getattr(thing, "__dict__", {}).values():
            items = value if isinstance(value, tuple) and len(value) < 100 else (value,)
            for item in items:
                if getattr(item, "nbytes", 0) > 2**20 or (isinstance(item, (list, dict)) and len(item) > 1000):
                    shared[id(item)] = item
                elif hasattr(item, "__getitem__") and hasattr(item, "__dict__"):
                    waiting.append(item)
    return copy.deepcopy(dataset, shared)


def label_order(dataset: Any, most: int = 60) -> tuple[int, int, int] | None:
    """Return rows looked at, classes and runs of labels among rows from all over a dataset, where they come class by class.

    Args:
        dataset: the dataset; the label is the last entry of an item, a whole number.
        most: rows that are looked at.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or len(dataset) < most:
        return None
    labels: list[int] = []
    with _random.same_random_numbers():
        mine = _copied(dataset)
        for number in range(most):
            item = mine[number * len(dataset) // most]
            last: Any = item[-1] if isinstance(item, (tuple, list)) else None
            if not isinstance(last, int) and (
                getattr(last, "shape", None) != () or "int" not in str(getattr(last, "dtype", ""))
            ):
                return None
            labels.append(int(last))
    classes, runs = len(set(labels)), 1 + sum(a != b for a, b in itertools.pairwise(labels))
    return (most, classes, runs) if 2 <= classes <= most // 3 and runs <= classes + 2 else None


def twins(dataset: Any, init: Any = None) -> bool | None:
    """Return whether two workers would draw the same random numbers.

    They would if copies that are seeded apart agree, and a second draw of one copy differs.
    """
    one, other = (drawn_items(dataset, seed, 2, worker=number, init=init) for number, seed in enumerate((11, 12)))
    if one is None or other is None:
        return None
    return same_item(one[0], other[0]) and not same_item(one[0], one[1])


def changes(dataset: Any) -> bool | None:
    """Return whether an item of a dataset is another one each time it is read."""
    found = drawn_items(dataset, 11, 2)
    return None if found is None else not same_item(found[0], found[1])


def base_rows(dataset: Any) -> tuple[Any, set[int] | None]:
    """Return the dataset that a chain of subsets draws from, and the indices it draws; `None` stands for all."""
    rows: list[int] | None = None
    while isinstance(dataset, Subset):
        indices = [int(index) for index in dataset.indices]
        rows = indices if rows is None else [indices[row] for row in rows]
        dataset = dataset.dataset
    return dataset, None if rows is None else set(rows)


def shared_rows(one: Any, other: Any) -> tuple[int, int] | None:
    """Return how many rows of a second dataset are in the first, and how many it has; `None` without a common base."""
    base, mine = base_rows(one)
    second, its = base_rows(other)
    if base is not second or (mine is None and its is None):
        return None
    count = len(base)
    its = set(range(count)) if its is None else its
    return (len(its) if mine is None else len(mine & its)), len(its)


def wrong_gradient(cls: Any, args: tuple[Any, ...]) -> str:
    """Return what is wrong with the gradient of an operator, empty where it agrees or is another one on purpose."""
    trial = Trial(cls.apply, args, {}, None)
    trial.dtype = torch.float64
    with _random.same_random_numbers(), torch.enable_grad():
        error = disagreement(trial, trial.fresh())
        if error is None or agrees_beside(trial) or _flat_or_identity(trial):
            return ""
    return " ".join(str(error).split())[:160]


def _flat_or_identity(trial: Trial) -> bool:
    """Return whether a gradient is meant: finite differences are zero almost everywhere, or forward is the identity."""
    leaves = trial.fresh()
    outputs = trial.call(leaves)
    inputs = trial.inputs(leaves)
    if (
        len(inputs) == 1
        and len(outputs) == 1
        and outputs[0].shape == inputs[0].shape
        and torch.equal(outputs[0], inputs[0])
    ):
        return True
    moved = trial.call(trial.fresh(change=lambda i, x: x + 1e-7 if i in trial.diff else x))
    still = [
        float((one == other).float().mean())
        for one, other in zip(tensors_in(outputs), tensors_in(moved), strict=False)
        if one.numel()
    ]
    return bool(still) and min(still) > 0.9
