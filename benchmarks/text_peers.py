"""The tokenizer beside nanotoken and tokie, which are compiled from Rust, on seven kinds of text.

What is compared is what a user of each gets for the same call:

- to tensors: `tokenizer(texts, padding=True, return_tensors="pt")` of linkboy and of nanotoken's `as_hf()`, each with ids, types
  and mask as three tensors; tokie has no tensors, so its lists of padded ids, types and masks are made into three.
- to flat ids: one array of all ids and the borders of the texts, from each.
- the first 1,000 texts: flat ids from a tokenizer that was just made, and has seen no text.

All of it is on one thread, by processor time, and no result is kept while the next is made.
"""

import importlib
import inspect
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import harness
from benchmarks.harness import Row
from linkboy import BertTokenizer

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # read when the first text is cut

PADDED = {"padding": True, "return_tensors": "pt"}
# How many times as long nanotoken is to take, at the least.
WANTED = {
    1: dict.fromkeys(("docstrings", "questions", "news titles", "reviews", "Korean", "26 scripts", "logs"), ">= 1.5x"),
    32: {
        **dict.fromkeys(("questions", "news titles", "reviews", "Korean", "logs"), ">= 1x"),
        **dict.fromkeys(("docstrings", "26 scripts"), ">= 0.9x"),
    },
    256: {
        **dict.fromkeys(("questions", "news titles", "reviews", "logs"), ">= 1x"),
        **dict.fromkeys(("docstrings", "Korean", "26 scripts"), ">= 0.6x"),
    },
    "flat": {
        "news titles": ">= 2x",
        "reviews": ">= 20x",
        "questions": ">= 0.9x",
        "docstrings": ">= 0.55x",
        "logs": ">= 3x",
    },
    "cold": dict.fromkeys(("docstrings", "news titles", "reviews", "26 scripts", "logs"), ">= 1x"),
}


class Texts(NamedTuple):
    """Texts of one kind, and the vocabulary that they are cut with."""

    name: str
    vocabulary: Path
    texts: list[str]


def docstrings() -> list[str]:
    """Return the documentation of everything public in the largest modules of torch and NumPy."""
    modules = (
        torch,
        torch.nn,
        torch.nn.functional,
        torch.linalg,
        torch.optim,
        torch.Tensor,
        np,
        np.linalg,
        np.random,
        np.ma,
    )
    found = [inspect.getdoc(getattr(module, name, None)) for module in modules for name in sorted(dir(module))]
    texts = list(dict.fromkeys(filter(None, found)))
    random.Random(0).shuffle(texts)
    return texts


def logs(seed: int, count: int) -> list[str]:
    """Return lines of a server, in which most words are new."""
    rng = random.Random(seed)
    return [
        f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:"
        f"{rng.randint(0, 59):02}.{rng.randint(0, 999):03}Z host{rng.randint(0, 9999)} app[{rng.randint(1, 65000)}]: "
        f"request {rng.getrandbits(64):016x} from 10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(0, 255)} "
        f"took {rng.randint(1, 99999)}us status={rng.choice([200, 404, 500])} key=x{rng.getrandbits(40):x}"
        for _ in range(count)
    ]


class Peer(NamedTuple):
    """A tokenizer of another library, by what is asked of it."""

    name: str
    tensors: Callable[[list[str]], Any]
    flat: Callable[[list[str]], Any]
    specials: bool  # whether it puts [CLS] and [SEP] around texts


def _nanotoken(vocabulary: Path) -> Peer:
    tokenizer = importlib.import_module("nanotoken").Tokenizer(str(vocabulary))
    like_transformers = tokenizer.as_hf()
    return Peer(
        "nanotoken",
        lambda texts: like_transformers(texts, **PADDED),
        lambda texts: tokenizer.encode_batch(texts, parallel=False).ids,
        specials=True,
    )


def _tokie(vocabulary: Path) -> Peer:
    tokie = importlib.import_module("tokie")
    with tempfile.TemporaryDirectory() as folder:
        BertTokenizer(vocabulary, compat="hf").save_pretrained(folder)
        plain, padding = (tokie.Tokenizer.from_json(str(Path(folder) / "tokenizer.json")) for _ in range(2))
    padding.enable_padding()

    def tensors(texts: list[str]) -> dict[str, torch.Tensor]:
        rows = padding.encode_batch(texts)
        return {
            "input_ids": torch.tensor([row.ids for row in rows]),
            "token_type_ids": torch.tensor([row.type_ids for row in rows]),
            "attention_mask": torch.tensor([row.attention_mask for row in rows]),
        }

    return Peer("tokie", tensors, lambda texts: plain.encode_batch_flat(texts)[0], specials=False)


def beside_peers(sets: list[Texts], *, rounds: int, quick: bool) -> list[Row]:
    """Return the rows of all kinds of text beside each peer that is installed, and one that says so for each other."""
    rows = []
    for name, make in (("nanotoken", _nanotoken), ("tokie", _tokie)):
        try:
            importlib.import_module(name)
        except ImportError:
            rows.append(Row(f"to tensors and to flat ids beside {name}", 0.0, name, 0.0, "", "it is not installed"))
            continue
        for texts in sets:
            rows += _rows_of(texts, make, rounds, quick)
    return [*rows, *_threads(sets[0], rounds)]


def _rows_of(kind: Texts, make: Callable[[Path], Peer], rounds: int, quick: bool) -> Iterator[Row]:
    ours, peer = BertTokenizer(kind.vocabulary, compat="hf"), make(kind.vocabulary)

    def tensors(texts: list[str]) -> Any:
        return ours(texts, add_special_tokens=peer.specials, **PADDED)

    for width, count in ((1, 300), (32, 2048), (256, 4096)):
        texts = kind.texts[: count // 8 if quick else count]
        groups = [texts[at : at + width] for at in range(0, len(texts), width)]
        same = _agreement(groups, tensors, peer.tensors)
        fresh = _fresh(kind, width, len(texts), rounds)
        seconds = _seconds({"ours": tensors, "peer": peer.tensors}, groups, fresh=fresh, rounds=rounds)
        yield _row(f"{kind.name}, {_texts(width)} to tensors", width, kind, peer, seconds, len(texts), same)
    texts = kind.texts[:10_000]

    def flat(texts: list[str]) -> Any:
        return ours(texts, add_special_tokens=peer.specials, return_tensors="flat_np")["input_ids"]

    same = _same_ids(flat(texts), peer.flat(texts))
    fresh = _fresh(kind, len(texts), len(texts), rounds)
    seconds = _seconds({"ours": flat, "peer": peer.flat}, [texts], fresh=fresh, rounds=rounds)
    yield _row(f"{kind.name}, to flat ids", "flat", kind, peer, seconds, len(texts), same)
    yield _cold_row(kind, make, rounds, same)


def _cold_row(kind: Texts, make: Callable[[Path], Peer], rounds: int, same: str) -> Row:
    texts, taken = kind.texts[:1000], {"ours": [], "peer": []}
    for _ in range(rounds):
        ours, peer = BertTokenizer(kind.vocabulary, compat="hf"), make(kind.vocabulary)
        runs = {
            "ours": lambda ours=ours: ours(texts, return_tensors="flat_np"),
            "peer": lambda peer=peer: peer.flat(texts),
        }
        for name, run in runs.items():
            taken[name].append(harness.median_seconds({name: run}, rounds=1, warmup=0, clock=time.process_time)[name])
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    return _row(f"{kind.name}, the first 1,000 texts", "cold", kind, peer, seconds, len(texts), same)


def _threads(kind: Texts, rounds: int) -> Iterator[Row]:
    """Two threads of the caller that read half of the texts each; the core lets go of Python's lock."""
    ours, texts = BertTokenizer(kind.vocabulary, compat="hf"), kind.texts
    half = len(texts) // 2
    with ThreadPoolExecutor(2) as pool:
        seconds = harness.median_seconds(
            {
                "two": lambda: list(pool.map(ours._encoder.encode, (texts[:half], texts[half:]))),
                "one": lambda: ours._encoder.encode(texts),
            },
            rounds=rounds,
        )
    what = f"{kind.name}, to flat ids on two threads"
    yield Row(what, seconds["two"], "one thread", seconds["one"], "s", "identical", "<= 0.75x")


def _seconds(
    runs: dict[str, Callable[[list[str]], Any]], groups: list[list[str]], *, fresh: Iterator[Any] | None, rounds: int
) -> dict[str, float]:
    """Return the median time of each run over all groups; `fresh` gives other groups for each round."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        if fresh is not None:
            groups = next(fresh)
        for name, run in runs.items():
            start = time.process_time()
            for group in groups:
                run(group)
            if number:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def _fresh(kind: Texts, width: int, count: int, rounds: int) -> Iterator[list[list[str]]] | None:
    """Return other logs for each round, so that no peer knows their words; `None` for texts that may come again."""
    if kind.name != "logs":
        return None
    made = (logs(1000 * width + number, count) for number in range(1, rounds + 2))
    return ([texts[at : at + width] for at in range(0, count, width)] for texts in made)


def _agreement(groups: list[list[str]], ours: Callable[..., Any], theirs: Callable[..., Any]) -> str:
    wrong = 0
    for group in groups:
        one, other = ours(group), theirs(group)
        wrong += any(one[key].shape != other[key].shape or not torch.equal(one[key], other[key]) for key in one)
    return "identical" if not wrong else f"{wrong} of {len(groups)} batches differ"


def _same_ids(ours: Any, theirs: Any) -> str:
    return "identical" if np.array_equal(ours, np.asarray(theirs)) else "not identical"


def _texts(width: int) -> str:
    return "1 text" if width == 1 else f"{width} texts"


def _row(what: str, of: int | str, kind: Texts, peer: Peer, seconds: dict[str, float], count: int, same: str) -> Row:
    wanted = WANTED[of].get(kind.name, "") if peer.name == "nanotoken" else ""
    ours, theirs = count / seconds["ours"], count / seconds["peer"]
    return Row(what, ours, peer.name, theirs, "texts/s", same, wanted, higher_is_better=True)
