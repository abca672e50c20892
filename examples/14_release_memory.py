"""A service unloads a model, but its process does not shrink: find out who holds the rest.

    python examples/14_release_memory.py

A cache of "one vector per request" keeps a view, and a view keeps the whole batch. `gc.collect(); malloc_trim(0)` prints
nothing and frees nothing here; the report names the holder and what to do about it.
"""

import weakref

import torch
from torch import nn

import linkboy as lb


class Service:
    """Keeps the last answer of each user."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(256, 4096), nn.ReLU(), nn.Linear(4096, 512))
        self.answers: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def answer(self, users: list[str]) -> weakref.ref:
        batch = self.model(torch.randn(len(users), 256))
        self.answers["ann"] = batch[0]
        return weakref.ref(batch.untyped_storage())


def main() -> None:
    service = Service()
    batch = service.answer(["ann"] * 10_000)
    weight = weakref.ref(service.model[0].weight.untyped_storage())
    service.model = None

    report = lb.release_memory(batch, weight)
    for name, watched in zip(("batch", "model"), report.watched, strict=True):
        print(f"{name} gone: {watched.gone}")
        for holder in watched.holders:
            print(f"  held by {holder.path}")
            print("  ", *holder.advice)

    service.answers["ann"] = service.answers["ann"].clone()
    report = lb.release_memory(batch)
    print(f"after the clone, batch gone: {report.watched[0].gone}")
    print(report.summary)


main()
