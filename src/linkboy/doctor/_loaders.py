"""Watch the loaders, and end their passes early."""

import contextlib
import dis
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, Subset

from linkboy._watch._places import user_line
from linkboy.doctor._facts import LoaderFacts
from linkboy.doctor._part import Part


class Loaders(Part):
    """Patches the iteration of DataLoader."""

    def __init__(self, watcher: Any) -> None:
        super().__init__(watcher)
        self.loaders: list[Any] = []
        self.datasets: list[Any] = []
        self.last: LoaderFacts | None = None  # the one that handed out the last batch
        self._called: tuple[LoaderFacts, int, int] | None = (
            None  # the last call: its loader, model and backward passes before
        )

    def patch(self) -> None:
        """Patch it."""
        self.patches.wrap(DataLoader, "__iter__", self._iterate)

    def _iterate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __iter__(loader: Any) -> Any:  # noqa: N807
            iterator = original(loader)
            if not self.on():
                return iterator
            with self.quiet():
                facts = self._loader_facts(loader)
            facts.passes += 1
            return _Pass(self, facts, iterator)

        return __iter__

    def _loader_facts(self, loader: Any) -> LoaderFacts:
        for known, facts in self._loaders():
            if known is loader or _same_loader(known, loader):
                return facts
        number = self._dataset_number(loader.dataset)
        facts = LoaderFacts(number, place=user_line(), workers=loader.num_workers, batch_size=loader.batch_size)
        with contextlib.suppress(TypeError, NotImplementedError):
            facts.batches = len(loader)
        if not isinstance(loader.dataset, IterableDataset):
            facts.in_order = isinstance(loader.sampler, SequentialSampler)
        facts.made = self.watcher.lines.loader_made_at(loader)
        self.facts.loaders.append(facts)
        self.loaders.append(loader)
        return facts

    def _loaders(self) -> Iterator[tuple[Any, LoaderFacts]]:
        yield from zip(self.loaders, self.facts.loaders, strict=True)

    def _dataset_number(self, dataset: Any) -> int:
        for number, known in enumerate(self.datasets):
            if known is dataset or (_is_subset(known) and _is_subset(dataset) and _same_subset(known, dataset)):
                return number
        self.datasets.append(dataset)
        return len(self.datasets) - 1

    def batch_taken(self, facts: LoaderFacts) -> None:
        """Note that a loader handed out a batch."""
        facts.taken += 1
        self.last = facts

    def may_cut(self, taken: int) -> bool:
        """Return whether a pass may end after so many batches: not while gradients wait for their step."""
        batches = self.watcher.batches
        if not batches or taken < batches:
            return False
        return taken >= 40 * batches or not any(facts.since_step for facts in self.record.optimizers)

    def trains_on(self, root: int, backwards: int) -> None:
        """Note a call of a model that would train on the last batch; the one before is idle if no backward pass came after it."""
        loader = self.last
        if loader is None or loader.backwards:
            return
        before, self._called = self._called, (loader, root, backwards)
        if before is not None and before[0] is loader and before[1:] == (root, backwards):
            loader.idle_calls[root] += 1
            loader.idle_place = loader.idle_place or user_line()

    def dataset_now(self) -> int:
        """Return the number of the dataset whose loader handed out the last batch, -1 where there is none."""
        return -1 if self.last is None else self.last.dataset


class _Pass:
    """One pass over a loader: hands out its batches, and may end early."""

    def __init__(self, loaders: Loaders, facts: LoaderFacts, iterator: Any) -> None:
        self._loaders, self._facts, self._iterator, self._taken = loaders, facts, iterator, 0

    def __iter__(self) -> "_Pass":
        return self

    def __next__(self) -> Any:
        loaders = self._loaders
        more = self._facts.batches is None or self._taken < self._facts.batches
        if more and loaders.may_cut(self._taken) and loaders.watcher.running and _in_for_loop(sys._getframe(1)):
            self._facts.cut += 1
            raise StopIteration
        batch = next(self._iterator)
        self._taken += 1
        loaders.batch_taken(self._facts)
        return batch

    def __len__(self) -> int:
        return len(self._iterator)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def _in_for_loop(frame: FrameType) -> bool:
    """Return whether a for loop asks for the next item; a call of `next` may not expect an end."""
    return frame.f_code.co_code[frame.f_lasti] == dis.opmap["FOR_ITER"]


def _same_loader(known: Any, loader: Any) -> bool:
    """Return whether a loader that is made again for every epoch is the one that was seen before."""
    same_data = known.dataset is loader.dataset or (
        _is_subset(known.dataset) and _is_subset(loader.dataset) and _same_subset(known.dataset, loader.dataset)
    )
    return same_data and known.batch_size == loader.batch_size and type(known.sampler) is type(loader.sampler)


def _is_subset(dataset: Any) -> bool:
    return isinstance(dataset, Subset)


def _same_subset(one: Any, other: Any) -> bool:
    return one.dataset is other.dataset and one.indices is other.indices
