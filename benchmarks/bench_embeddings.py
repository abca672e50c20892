"""Pretrained vectors beside gensim, a plain loop, polars and pandas, on generated files; processor time and peak memory."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import torch
from gensim.models import KeyedVectors
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.harness import Row, median_seconds
from linkboy import PretrainedEmbedding, load_embeddings

DIM, VOCABULARY = 100, 20_000
NUMBERS_AGAIN = 10_000


def generate(path: Path, rows: int, *, binary: Path | None = None) -> list[str]:
    """Write rows like those of GloVe, a fifth of the words Chinese; return the words. Numbers come again, words do not."""
    numbers = np.random.default_rng(0).normal(0, 0.4, (min(rows, NUMBERS_AGAIN), DIM))
    pattern = " %.5g" * DIM + "\n"
    texts = [pattern % tuple(row) for row in numbers]
    packs = [b" " + row.tobytes() for row in numbers.astype("<f4")]
    words = [
        f"{chr(0x4E00 + n % 20_000)}{chr(0x4E00 + 7 * n % 20_000)}{n}" if n % 5 == 0 else f"w{n}" for n in range(rows)
    ]
    with path.open("w", encoding="utf-8") as text:
        text.writelines(word + texts[n % len(texts)] for n, word in enumerate(words))
    if binary:
        with binary.open("wb") as packed:
            packed.write(b"%d %d\n" % (rows, DIM))
            packed.writelines(word.encode() + packs[n % len(packs)] for n, word in enumerate(words))
    return words


def choose(words: list[str], size: int) -> list[str]:
    """Return a vocabulary of which nine tenths are in the file, all over it."""
    order = np.random.default_rng(1).permutation(len(words))[: size * 9 // 10]
    return [words[n] for n in order] + [f"missing {n}" for n in range(size - len(order))]


# --- the peers: each gives the rows of the vocabulary that were found, in its order ---


def ours(path: Path, vocab: list[str]) -> NDArray[np.float32]:
    weight, report = load_embeddings(path, vocab, unk_init="zeros")
    return weight[report.known].numpy()


def with_gensim(path: Path, vocab: list[str], *, limit: int | None = None, binary: bool = False) -> NDArray[np.float32]:
    vectors = KeyedVectors.load_word2vec_format(path, no_header=not binary, limit=limit, binary=binary)
    return np.stack([vectors[word] for word in vocab if word in vectors])


def with_a_loop(path: Path, vocab: list[str]) -> NDArray[np.float32]:
    """Follow the script that is copied for Chinese text classification, but for a dictionary to look the words up in."""
    row_of = {word: row for row, word in enumerate(vocab)}
    found = {}
    for line in path.open("r", encoding="utf-8").readlines():
        parts = line.strip().split(" ")
        if parts[0] in row_of:
            found[row_of[parts[0]]] = np.asarray([float(number) for number in parts[1:]], dtype="float32")
    return np.stack([found[row] for row in sorted(found)])


def with_polars(path: Path, vocab: list[str]) -> NDArray[np.float32]:
    names = ["word", *map(str, range(DIM))]
    schema = {name: pl.Float64 if number else pl.String for number, name in enumerate(names)}
    scan = pl.scan_csv(path, has_header=False, separator=" ", quote_char=None, schema=schema)
    rows = scan.filter(pl.col("word").is_in(vocab)).collect(engine="streaming")
    place = {word: number for number, word in enumerate(rows["word"])}
    numbers = rows.drop("word").to_numpy().astype(np.float32)
    return numbers[[place[word] for word in vocab if word in place]]


def all_with_pandas(path: Path) -> NDArray[np.float32]:
    options = {"header": None, "sep": " ", "quoting": 3, "na_filter": False, "dtype": {0: str}}
    return pd.read_csv(path, **options).iloc[:, 1:].to_numpy(np.float32)


def all_with_polars(path: Path) -> NDArray[np.float32]:
    frame = pl.read_csv(path, has_header=False, separator=" ", quote_char=None)
    return frame[:, 1:].to_numpy().astype(np.float32)


# --- measuring ---


def seconds(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    return median_seconds(candidates, rounds=rounds, clock=time.process_time)


def filtered(path: Path, words: list[str], vocab: list[str], rounds: int) -> list[Row]:
    """Measure our load beside the peers; gensim reads a part of a large file and the time of the whole is extrapolated."""
    megabytes = path.stat().st_size / 1e6
    part = max(1, len(words) // 20)
    inside = set(words[:part])
    ours_found = ours(path, vocab)
    assert np.array_equal(
        with_gensim(path, vocab, limit=part), ours_found[[w in inside for w in vocab if w[:8] != "missing "]]
    )
    peers: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(path, vocab),
        "gensim": lambda: with_gensim(path, vocab, limit=part),
        "loop": lambda: with_a_loop(path, vocab),
        "polars": lambda: with_polars(path, vocab),
    }
    for name in ("loop", "polars"):
        assert np.array_equal(peers[name](), ours_found)
    taken = seconds(peers, rounds)
    what = f"{len(vocab):,} words of {len(words):,} rows, {megabytes:.0f} MB"
    extrapolated = taken["gensim"] * len(words) / part
    return [
        Row(what, taken["ours"], "gensim 4.4.0, then pick (extrapolated)", extrapolated, "s", "equal bits", "<= 1/30"),
        Row(what, taken["ours"], "plain loop", taken["loop"], "s", "equal bits"),
        Row(what, taken["ours"], "polars scan + filter", taken["polars"], "s", "equal bits", "<= 1/2.5"),
        Row(
            f"{what}: speed",
            megabytes / taken["ours"] / 1e3,
            "demand",
            1.0,
            "GB/s",
            target=">= 1" if len(words) >= 1_000_000 else "",
            higher_is_better=True,
        ),
    ]


def whole(path: Path, words: list[str], rounds: int) -> list[Row]:
    part = max(1, len(words) // 10)
    weight = load_embeddings(path)[0].numpy()
    peers: dict[str, Callable[[], object]] = {
        "ours": lambda: load_embeddings(path),
        "gensim": lambda: KeyedVectors.load_word2vec_format(path, no_header=True, limit=part),
        "pandas": lambda: all_with_pandas(path),
        "polars": lambda: all_with_polars(path),
    }
    assert np.array_equal(all_with_polars(path), weight)
    assert np.allclose(all_with_pandas(path), weight, rtol=2e-7, atol=0)
    taken = seconds(peers, rounds)
    what = f"all of {len(words):,} rows"
    return [
        Row(
            what,
            taken["ours"],
            "gensim (extrapolated)",
            taken["gensim"] * len(words) / part,
            "s",
            "equal bits",
            "<= 1/10",
        ),
        Row(what, taken["ours"], "pandas, bare", taken["pandas"], "s", "to 2e-7"),
        Row(what, taken["ours"], "polars, bare", taken["polars"], "s", "equal bits"),
    ]


def from_binary(path: Path, words: list[str], vocab: list[str], rounds: int) -> list[Row]:
    taken = seconds(
        {
            "picked": lambda: ours(path, vocab),
            "all": lambda: load_embeddings(path),
            "gensim": lambda: with_gensim(path, vocab, binary=True),
        },
        rounds,
    )
    assert np.array_equal(with_gensim(path, vocab, binary=True), ours(path, vocab))
    what = f"word2vec binary, {len(words):,} rows"
    return [
        Row(f"{what}, {len(vocab):,} words", taken["picked"], "gensim", taken["gensim"], "s", "equal bits", "<= 1/8"),
        Row(f"{what}, all", taken["all"], "gensim", taken["gensim"], "s", "equal bits"),
    ]


def from_cache(path: Path, vocab: list[str], rounds: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        load_embeddings(path, vocab, cache=folder)
        taken = seconds({"warm": lambda: load_embeddings(path, vocab, cache=folder)}, rounds)
    return Row(
        f"warm cache, {len(vocab):,} words", taken["warm"] * 1e3, "demand", 50, "ms", "same bits (tests)", "< 50 ms"
    )


PEAK = """
import sys
from linkboy import load_embeddings
small, path, vocab = sys.argv[1:]
words = open(vocab, encoding="utf-8").read().split("\\n")
load_embeddings(small, words, unk_init="zeros")
def status(field):
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1])
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = status("VmRSS")
load_embeddings(path, words)
print(status("VmHWM") - before)
"""


def memory(vocab_of: dict[Path, list[str]], folder: Path) -> list[Row]:
    """Measure the peak beyond what is resident after a load of a few rows, in new processes."""
    rows = []
    for path, vocab in vocab_of.items():
        (folder / "vocab.txt").write_text("\n".join(vocab), "utf-8")
        (folder / "warm-up.txt").write_text(vocab[0] + " 0" * DIM + "\n", "utf-8")  # found, so that it is parsed
        done = subprocess.run(
            [sys.executable, "-c", PEAK, folder / "warm-up.txt", path, folder / "vocab.txt"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        limit = 32 + len(vocab) * DIM * 4 / 2**20
        what = f"extra peak memory, {len(vocab):,} words of {path.stat().st_size / 1e6:.0f} MB"
        rows.append(Row(what, int(done.stdout) / 1024, "matrix + 32 MiB", limit, "MiB", "", "<= 1"))
    return rows


def partly_frozen(*, quick: bool) -> list[Row]:
    rows, dim, trained = (2000, 32, 50) if quick else (20_000, 300, 500)
    torch.manual_seed(0)
    frozen = torch.ones(rows, dtype=torch.bool)
    frozen[torch.randperm(rows)[:trained]] = False
    table = torch.randn(rows, dim)
    part = PretrainedEmbedding(table, freeze=frozen)
    plain = nn.Embedding.from_pretrained(table.clone(), freeze=False)
    ids = torch.randint(rows, (64, 128))
    assert torch.equal(part(ids), plain(ids))

    def step(module: nn.Module) -> Tensor:
        module.zero_grad()
        output = module(ids)
        output.backward(torch.ones_like(output))
        return output

    taken = median_seconds({"ours": lambda: step(part), "peer": lambda: step(plain)}, rounds=5 if quick else 51)
    what = f"{trained} of {rows:,} rows trained, forward + backward"
    return [Row(what, taken["ours"] * 1e3, "nn.Embedding, all trained", taken["peer"] * 1e3, "ms", "equal", "<= 1")]


def run(*, quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    small, large = (4000, 20_000) if quick else (200_000, 1_000_000)
    rounds = 1 if quick else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, binary, big = folder / "small.txt", folder / "small.bin", folder / "large.txt"
        words = generate(path, small, binary=binary)
        vocab = choose(words, VOCABULARY // (20 if quick else 1))
        rows = filtered(path, words, vocab, rounds)
        rows += whole(path, words, rounds)
        rows += from_binary(binary, words, vocab, 2 * rounds + 1)
        rows.append(from_cache(path, vocab, 4 * rounds + 1))
        more = generate(big, large)
        of_more = choose(more, len(vocab))
        rows += filtered(big, more, of_more, 1)
        rows += memory({path: vocab, big: of_more}, folder)
    return [*rows, *partly_frozen(quick=quick)]
