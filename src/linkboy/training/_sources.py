"""Which samples a process takes, when, and with which random numbers: a function of `(seed, process, epoch, batch)`.

The user's `DataLoader` is rebuilt around its own dataset, collate function and workers. Instead of bare indices its sampler
hands over `(key, indices)`; the key seeds torch, Python and NumPy before the batch is made. So order and augmentation are the
same with 0 or 8 workers, and a resumed run starts at batch k without making batches 0 to k-1 again.

*Model* randomness (dropout) is kept apart from this *data* randomness: it is a stream, saved and restored as it is.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
)

from linkboy import _random
from linkboy._calls import map_tensors, tensors_in
from linkboy._checks import describe
from linkboy.training import _processes

_MASK = (1 << 64) - 1
_END = object()
_ORDER, _BATCH = 1, 2  # keeps the keys of orders and of batches apart
_PLAIN_SAMPLERS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def mix(*parts: int) -> int:
    """Turn a few integers into one of 63 well-mixed bits (the finaliser of splitmix64, chained)."""
    key = 0x9E3779B97F4A7C15
    for part in parts:
        key = (key ^ (part & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        key = (key ^ (key >> 27)) * 0x94D049BB133111EB & _MASK
        key ^= key >> 31
    return key >> 1


class Batch(NamedTuple):
    """One micro-batch; a `filler` only keeps this process in step with the others and has weight 0."""

    data: Any
    filler: bool


class KeyedDataset(Dataset):
    """Makes a whole batch from `(key, indices)`, collated, under the random numbers that the key stands for."""

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], *, one_by_one: bool) -> None:
        self.dataset, self.collate, self.one_by_one = dataset, collate, one_by_one
        # Seeding three generators takes as long as a small layer, and a TensorDataset draws from none.
        self.draws = type(dataset) is not TensorDataset or collate is not default_collate

    def __getitems__(self, keyed: tuple[int, Any]) -> Any:
        key, indices = keyed
        if not self.draws:
            return self.collate(self._fetch(indices))
        # In a worker nobody else draws from these streams; here the model's dropout does.
        model_stream = torch.get_rng_state() if get_worker_info() is None else None
        _random.seed(key)
        try:
            return self.collate(self._fetch(indices))
        finally:
            if model_stream is not None:
                torch.set_rng_state(model_stream)

    def _fetch(self, indices: Any) -> Any:
        if self.one_by_one:
            return self.dataset[indices]
        many = getattr(self.dataset, "__getitems__", None)
        return many(indices) if many else [self.dataset[index] for index in indices]


class MapSource:
    """The training batches of a `DataLoader` over a map-style dataset, shared out over the processes without a repeat.

    Process r takes samples r, r + world, ... of the epoch's order (of the list of batches, where the loader has a batch
    sampler of its own). All processes run the same number of micro-batches; the shorter ones end with fillers.
    """

    def __init__(self, loader: DataLoader, seed: int, *, rank: int, world: int, every_sample: bool = False) -> None:
        self.loader, self.seed, self.rank, self.world = loader, seed, rank, world
        self.lists = loader.batch_size is None  # the sampler yields what makes a whole batch
        self.batch_size, self.drop_last = loader.batch_size or 1, loader.drop_last and not every_sample
        self.sampler: Any = loader.batch_sampler if self.lists and loader.batch_sampler is not None else loader.sampler
        if every_sample and isinstance(self.sampler, RandomSampler):
            self.sampler = SequentialSampler(loader.dataset)  # type: ignore[arg-type]  # map-style
        self.epoch = 0
        drawn = self.sampler.sampler if type(self.sampler) is BatchSampler else self.sampler
        known = type(drawn) in _PLAIN_SAMPLERS or hasattr(drawn, "set_epoch")
        self.reason = "" if known else f"{type(drawn).__name__} may keep random state of its own"
        self.in_workers = loader.num_workers > 0
        self.order: Sequence[Any] | Tensor = ()
        self._feed = _Feed()
        self._loader = _rebuild(loader, self._feed)

    def facts(self) -> dict[str, Any]:
        """What must not change between a run and its continuation, because positions are counted in it."""
        return {
            "samples": _length(self.loader.dataset),
            "batch_size": self.loader.batch_size,
            "drop_last": self.drop_last,
            "sampler": type(self.sampler).__name__,
        }

    def begin(self, epoch: int, order: Sequence[Any] | None = None) -> int:
        """Fix the order of an epoch and return its number of micro-batches, the same on every process."""
        drawn = order if order is not None else draw_order(self.sampler, self.seed, epoch)
        if self.reason and order is None:
            drawn = _processes.broadcast(list(drawn))
        self.order, self.epoch = drawn, epoch
        return self._count(len(drawn))

    def length(self) -> int | None:
        """Return how many micro-batches an epoch most likely has, `None` where its sampler does not say."""
        samples = _length(self.sampler)
        return None if samples is None else self._count(samples)

    def _count(self, samples: int) -> int:
        first = -(-samples // self.world)  # what process 0 takes, and no other takes more
        return first // self.batch_size if self.drop_last else -(-first // self.batch_size)

    def indices(self, number: int) -> Any:
        """Return the indices of this process's micro-batch `number`, or `None` where it has no more."""
        size = self.batch_size
        start = self.rank + number * size * self.world
        part = self.order[start : start + size * self.world : self.world]
        indices = part.tolist() if isinstance(part, Tensor) else list(part)
        if len(indices) < (size if self.drop_last else 1):
            return None
        return indices[0] if self.lists else indices

    def batches(self, start: int, count: int) -> Iterator[Batch]:
        """Yield micro-batches `start` to `count - 1` of the epoch begun last."""
        own = self.own_count()
        spare = self.indices(0)
        if spare is None and own < count:
            first = self.order[0]
            spare = first if self.lists else [int(first)]
        epoch_key = mix(self.seed, _BATCH, self.rank, self.epoch)
        # Made one by one: the indices of five million samples as Python numbers take a quarter of a gigabyte.
        self._feed.entries = lambda: (
            (mix(epoch_key, number), self.indices(number) if number < own else spare) for number in range(start, count)
        )
        self._feed.count = count - start
        return (Batch(data, number >= own) for number, data in zip(range(start, count), self._loader, strict=True))

    def own_count(self) -> int:
        """Return how many of the epoch's micro-batches this process has; after these it has fillers."""
        samples = len(range(self.rank, len(self.order), self.world))
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def order_to_save(self) -> list[Any] | None:
        """The order of the epoch, where it cannot be drawn again."""
        return list(self.order) if self.reason else None


class IterableSource:
    """Training batches from anything else that can be iterated; every process is given its own.

    Such a source cannot jump: a resumed run fetches the batches it has seen again and drops them.
    """

    def __init__(self, loader: Iterable[Any], seed: int, *, rank: int, world: int) -> None:
        self.loader, self.seed, self.rank, self.world = loader, seed, rank, world
        self.in_workers = False
        kind = type(loader.dataset if isinstance(loader, DataLoader) else loader).__name__
        self.reason = f"{kind} cannot say where it stands; a resumed run fetches the epoch's batches again"
        self.epoch = 0

    def facts(self) -> dict[str, Any]:
        """What must not change between a run and its continuation."""
        return {"batch_size": getattr(self.loader, "batch_size", None)}

    def begin(self, epoch: int, order: Sequence[Any] | None = None) -> None:
        """Pass the epoch to the loader where it asks for it; the number of batches is not known."""
        self.epoch = epoch
        for part in (self.loader, getattr(self.loader, "dataset", None), getattr(self.loader, "sampler", None)):
            if callable(advance := getattr(part, "set_epoch", None)):
                advance(epoch)

    def length(self) -> None:
        """What a loader says of its length is no promise."""

    def indices(self, number: int) -> None:
        """Samples have no indices here."""

    def batches(self, start: int, count: int | None) -> Iterator[Batch]:
        """Yield the micro-batches from `start` on, as long as any process has one."""
        key = mix(self.seed, _BATCH, self.rank, self.epoch)
        iterator = self._with_key(key, lambda: iter(self.loader))
        last: Any = None
        for number in itertools.count():
            data = self._with_key(mix(key, number), lambda: next(iterator, _END))
            filler = data is _END
            if self.world > 1:
                data = last = last if filler else data
                # The others may have more: go on with fillers until all are at the end.
                filler_only = _processes.add_up(0.0 if filler else 1.0)[0] == 0
            else:
                filler_only = filler
            if filler_only:
                return
            if filler and last is None:
                raise ValueError(f"train_loader gave process {self.rank} no batch, while others have some")
            if number >= start:
                yield Batch(data, filler)

    def _with_key(self, key: int, fetch: Callable[[], Any]) -> Any:
        """Fetch under the random numbers that the key stands for, which leaves the model's stream where it was.

        So a stream that draws its own order draws it again when a resumed run fetches the batches it has seen.
        """
        model_stream = torch.get_rng_state()
        _random.seed(key)
        try:
            return fetch()
        finally:
            torch.set_rng_state(model_stream)

    def order_to_save(self) -> None:
        """There is no order to keep."""


Source = MapSource | IterableSource


def training_source(loader: Iterable[Any], seed: int) -> Source:
    """Return the reader for `loader`; one that splits the samples among processes by itself is refused."""
    rank, world = _processes.process_index(), _processes.process_count()
    check_loader("train_loader", loader, passes=True)
    refuse_shared_out(loader, "train_loader", "pass shuffle=True instead: fit")
    if is_map_style(loader):
        return MapSource(loader, seed, rank=rank, world=world)
    return IterableSource(loader, seed, rank=rank, world=world)


def is_map_style(loader: Any) -> TypeGuard[DataLoader]:
    """Return whether a loader gives out samples by index, so that it can be rebuilt around its dataset."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader).__iter__ is DataLoader.__iter__
    )


def check_loader(argument: str, loader: object, *, passes: bool = False) -> None:
    """Raise for what is not a loader, also for one batch, whose rows or keys would be read as batches.

    With `passes` an iterator is refused as well, which is empty after the first pass.
    """
    one = isinstance(loader, (Tensor, Mapping, str, bytes))
    if one or not hasattr(loader, "__iter__"):
        fix = "; to give one batch, pass it in a list" if one else ""
        raise TypeError(f"{argument} must be a DataLoader or another iterable of batches, got {describe(loader)}{fix}")
    if passes and not isinstance(loader, DataLoader) and iter(loader) is loader:  # type: ignore[call-overload]
        raise TypeError(f"{argument} must be iterable once per epoch, got an iterator, which ends after the first")


def refuse_shared_out(loader: Any, argument: str, instead: str) -> None:
    """Raise where a sampler has shared the samples out already: each process would take its share of a share."""
    sampler = getattr(loader, "sampler", None)
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    if isinstance(sampler, DistributedSampler) or isinstance(inner, DistributedSampler):
        raise ValueError(
            f"{argument} has a DistributedSampler, which repeats samples; {instead} shares the samples out over the "
            "processes itself"
        )


def draw_order(sampler: Any, seed: int, epoch: int) -> Sequence[Any] | Tensor:
    """Return the order of an epoch: indices, or lists of them from a batch sampler; a function of seed and epoch."""
    key = mix(seed, _ORDER, epoch)
    if type(sampler) is SequentialSampler:
        return torch.arange(len(sampler))
    if type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == len(sampler.data_source):
        return torch.randperm(len(sampler), generator=torch.Generator().manual_seed(key))
    if callable(advance := getattr(sampler, "set_epoch", None)):
        advance(epoch)
    owners: list[Any] = [sampler, getattr(sampler, "sampler", None)]
    generators = [
        (owner, owner.generator) for owner in owners if isinstance(getattr(owner, "generator", None), torch.Generator)
    ]
    before = _random.capture()
    try:
        _random.seed(key)
        for owner, _ in generators:
            owner.generator = torch.Generator().manual_seed(key)
        return list(sampler)
    finally:
        for owner, generator in generators:
            owner.generator = generator
        _random.restore(before)


class _Feed:
    """The batch sampler of the rebuilt loader: its entries are set for every epoch."""

    def __init__(self) -> None:
        self.entries: Callable[[], Iterator[tuple[int, Any]]] = lambda: iter(())
        self.count = 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return self.entries()

    def __len__(self) -> int:
        return self.count


def _as_it_is(batch: Any) -> Any:
    return batch


def _rebuild(loader: DataLoader, feed: _Feed) -> Iterable[Any]:
    dataset = KeyedDataset(loader.dataset, loader.collate_fn, one_by_one=loader.batch_sampler is None)
    if loader.num_workers == 0 and not loader.pin_memory:
        return _InProcess(dataset, feed)
    return DataLoader(
        dataset,
        batch_sampler=feed,  # type: ignore[arg-type]  # yields (key, indices) for KeyedDataset.__getitems__
        num_workers=loader.num_workers,
        collate_fn=_as_it_is,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator(),  # otherwise its iterator draws a seed from the model's stream
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


class _InProcess:
    """What a `DataLoader` without workers does, without its cost per batch."""

    def __init__(self, dataset: KeyedDataset, feed: _Feed) -> None:
        self.dataset, self.feed = dataset, feed

    def __iter__(self) -> Iterator[Any]:
        return map(self.dataset.__getitems__, self.feed)


def fingerprint(source: Source) -> str | None:
    """Return a text that tells this data set from another of its length: its type, and its first samples.

    Samples are fetched only where that is sure to change nothing: not where workers do it, which may have open files of
    their own, and not from a stream. They count only if two fetches under the same random numbers agree.
    """
    if not isinstance(source, MapSource):
        return None
    dataset = source.loader.dataset
    name = type(dataset).__qualname__
    if source.lists or _length(dataset) is None or (source.in_workers and type(dataset) is not TensorDataset):
        return name
    with _random.same_random_numbers():
        digests = [_first_samples(dataset, source.seed) for _ in range(2)]
    return f"{name} {digests[0]}" if digests[0] is not None and digests[0] == digests[1] else name


def _first_samples(dataset: Any, seed: int) -> str | None:
    _random.seed(mix(seed, _BATCH))
    digest = hashlib.sha256()
    try:
        for index in range(min(2, len(dataset))):
            sample = dataset[index]
            tensors = tensors_in(sample)
            plain = repr(map_tensors(sample, lambda tensor: torch.zeros(0)))
            if " at 0x" in plain:  # an object that does not show what is in it
                return None
            digest.update(plain.encode())
            for tensor in tensors:
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                content = tensor.detach().cpu().contiguous().flatten()
                digest.update(content.view(torch.uint8).numpy().tobytes() if content.numel() else b"")
    except Exception:  # noqa: BLE001  # whatever is wrong with it, the training says so in its own words
        return None
    return digest.hexdigest()[:16]


def _length(dataset: Any) -> int | None:
    """Return the length of a dataset; `None` where it has none, which a sampler of its own makes unnecessary."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None
