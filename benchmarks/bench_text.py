"""Tokenization beside tokenizers, transformers, flash_tokenizer, nanotoken and tokie; ids are compared in the same run.

Real headlines, 26 scripts and the published vocabularies are read from `../shared/data` where that is present, otherwise
made-up texts and a vocabulary trained on them take their place.
"""

import collections
import contextlib
import gc
import io
import os
import random
import sys
import time
import tracemalloc
import unicodedata
from pathlib import Path
from unittest import mock

import numpy as np
from tests.text.reference import Reference
from tests.text.test_basic import ALPHABET

from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.text_peers import Texts, beside_peers, docstrings, logs
from linkboy import BertTokenizer, train_wordpiece
from linkboy._compiled import SWITCH

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SCRIPTS = (
    "LATIN",
    "CYRILLIC",
    "GREEK",
    "HANGUL",
    "ARABIC",
    "HEBREW",
    "DEVANAGARI",
    "THAI",
    "HIRAGANA",
    "ARMENIAN",
    "TAMIL",
)
clock = time.process_time  # of one thread, so that other work on the machine counts as little as possible


def median_seconds(runs, *, rounds):
    """Time the candidates in turn, each together with the clearing up after it.

    The first larger allocation after many small objects were freed makes glibc merge them, which took 5 ms after 16 calls
    of transformers. Without the allocation in here, whoever comes next would pay that.
    """

    def settled(run):
        def call():
            run()
            np.empty(20_000, np.uint8)

        return call

    return harness.median_seconds({name: settled(run) for name, run in runs.items()}, rounds=rounds, clock=clock)


def headlines() -> list[str]:
    if SHARED.is_dir():
        lines = (SHARED / "thucnews45k" / "train.txt").read_text("utf-8").split("\n")
        return [line.split("\t")[0] for line in lines if line]
    rng = random.Random(0)
    han = [chr(0x4E00 + int(rng.expovariate(1 / 900))) for _ in range(20_000)]
    words = ["2008", "nba", "iphone", "gdp", "ipo", "3d", "qq", "10.5%"]
    return ["".join(rng.choices(han, k=rng.randint(10, 26))) + rng.choice(words) for _ in range(45_000)]


def scripts() -> dict[str, list[str]]:
    """Lines of the multilingual sample by the script most of their letters are of."""
    if not SHARED.is_dir():
        rng = random.Random(1)
        ranges = {"GREEK": range(0x391, 0x3C9), "HANGUL": range(0xAC00, 0xB000), "CYRILLIC": range(0x410, 0x44F)}
        words = {
            name: ["".join(map(chr, rng.choices(r, k=rng.randint(1, 8)))) for _ in range(3000)]
            for name, r in ranges.items()
        }
        return {name: [" ".join(rng.choices(found, k=12)) for _ in range(400)] for name, found in words.items()}
    groups = collections.defaultdict(list)
    for line in (SHARED / "multilingual_sample.txt").read_text("utf-8").split("\n"):
        names = collections.Counter(unicodedata.name(c, "?").split()[0] for c in line if c.isalpha())
        if names:
            groups[names.most_common(1)[0][0]].append(line.strip())
    return {name: groups[name] for name in SCRIPTS if len(groups[name]) >= 20}


def vocabulary(folder: Path, name: str) -> Path:
    if SHARED.is_dir():
        return SHARED / "vocab" / f"{name}.txt"
    path = folder / "vocab.txt"
    if not path.exists():
        texts = headlines()[:5000] + [line for lines in scripts().values() for line in lines]
        path.write_text("\n".join(train_wordpiece(texts, 12_000)) + "\n", "utf-8")
    return path


class Peers:
    """The peers on one vocabulary; flash_tokenizer is left out where it is not installed."""

    def __init__(self, vocab: Path) -> None:
        import tokenizers
        import transformers

        self.tokenizers = tokenizers.BertWordPieceTokenizer(str(vocab), lowercase=True)
        self.transformers = transformers.BertTokenizer(vocab=str(vocab))
        self.flash = None
        try:
            import flash_tokenizer
        except ImportError:
            return
        with contextlib.redirect_stdout(io.StringIO()):
            # The wrapper pads every text to 512; this is its encoder without that.
            self.flash = flash_tokenizer.BertTokenizerFlash(str(vocab), do_lower_case=True).tokenizer

    def ids(self, texts):
        return [one.ids for one in self.tokenizers.encode_batch(texts)]

    def flash_ids(self, texts):
        return [list(self.flash.encode(text, "longest", 512)) for text in texts]


def agreement(ours, theirs) -> str:
    wrong = sum(a != b for a, b in zip(ours, theirs, strict=True))
    return "identical" if not wrong else f"{wrong} of {len(ours)} texts differ"


def rate(what, seconds, peer_name, peer_seconds, characters, peer_characters, target, equality):
    return Row(
        what,
        characters / seconds / 1e6,
        peer_name,
        peer_characters / peer_seconds / 1e6,
        unit="Mchar/s",
        equality=equality,
        target=target,
        higher_is_better=True,
    )


def size(texts) -> int:
    return sum(map(len, texts))


def batches(texts, width):
    return [texts[i : i + width] for i in range(0, len(texts), width)]


def bench_headlines(ours, peers, texts, rounds) -> list[Row]:
    part = texts[:2048]
    expected = ours(part)["input_ids"]
    same = agreement(expected, peers.ids(part))
    assert same == "identical", same
    runs = {
        "ours": lambda: ours(texts, return_tensors="flat"),
        "tokenizers": lambda: peers.tokenizers.encode_batch(part),
        "encode": lambda: [ours.encode(text) for text in part],
    }
    if peers.flash:
        flash = peers.flash
        runs["flash"] = lambda: [flash.encode(text, "longest", 512) for text in part]
    times = median_seconds(runs, rounds=rounds)
    total, chars = size(texts), size(part)
    rows = [
        rate(
            "headlines to ids",
            times["ours"],
            "tokenizers encode_batch",
            times["tokenizers"],
            total,
            chars,
            ">= 50x",
            same,
        )
    ]
    if peers.flash:
        agrees = agreement(expected, peers.flash_ids(part))
        rows += [
            rate(
                "headlines to ids",
                times["ours"],
                "flash_tokenizer one by one",
                times["flash"],
                total,
                chars,
                ">= 6x",
                agrees,
            ),
            Row(
                "one headline to ids",
                times["encode"] / len(part) * 1e6,
                "flash_tokenizer",
                times["flash"] / len(part) * 1e6,
                "us",
                agrees,
                "<= 2x",
            ),
        ]
    return rows


def bench_tensors(ours, peers, texts, rounds) -> list[Row]:
    rows = []
    for width, target in ((1024, ""), (256, ">= 40x"), (32, ">= 10x"), (1, "")):
        part = texts[: 4096 if width > 1 else 256]
        groups = batches(part, width)
        for group in groups:
            one, other = (t(group, padding=True, return_tensors="pt") for t in (ours, peers.transformers))
            assert all((one[key] == other[key]).all() for key in other)
        times = median_seconds(
            {
                "ours": lambda groups=groups: [ours(group, padding=True, return_tensors="pt") for group in groups],
                "transformers": lambda groups=groups: [
                    peers.transformers(group, padding=True, return_tensors="pt") for group in groups
                ],
            },
            rounds=rounds,
        )
        chars = size(part)
        rows.append(rate(f"to padded tensors, {width} texts", times["ours"], "transformers", times["transformers"], chars, chars, target, "identical"))  # fmt: skip  # noqa: E501
    return rows


def cold_seconds(vocab: Path, texts, rounds) -> float:
    """Median time of the very first call of a new tokenizer, which knows the vocabulary and nothing else."""
    seconds = []
    for _ in range(rounds):
        ours = BertTokenizer(vocab)
        gc.collect()
        start = clock()
        ours(texts, return_tensors="flat")
        seconds.append(clock() - start)
    return sorted(seconds)[rounds // 2]


def bench_scripts(vocab: Path, peers: Peers, rounds: int) -> list[Row]:
    ours, rows = BertTokenizer(vocab), []
    reference = Reference(dict(ours.vocab))
    for name, lines in scripts().items():
        part = (lines * 20)[:400]
        ids = ours(part, add_special_tokens=False)["input_ids"]
        assert ids == [reference.ids(text) for text in part]
        equality = f"ours identical to the reference; tokenizers: {agreement(ours(part)['input_ids'], peers.ids(part))}"
        runs = {"ours": lambda part=part: ours(part, return_tensors="flat"), "peer": lambda part=part: peers.ids(part)}
        if peers.flash:
            runs["flash"] = lambda part=part: [peers.flash.encode(text, "longest", 512) for text in part]
            equality += f", flash: {agreement(ours(part)['input_ids'], peers.flash_ids(part))}"
        times = median_seconds(runs, rounds=rounds)
        cold, chars = cold_seconds(vocab, part, 3), size(part)
        rows.append(
            rate(f"{name.lower()}, warm", times["ours"], "tokenizers", times["peer"], chars, chars, ">= 10x", equality)
        )
        rows.append(rate(f"{name.lower()}, cold", cold, "tokenizers", times["peer"], chars, chars, ">= 2x", equality))
        if peers.flash:
            rows.append(rate(f"{name.lower()}, warm", times["ours"], "flash_tokenizer", times["flash"], chars, chars, "stretch: >= 1x", equality))  # fmt: skip  # noqa: E501
            rows.append(rate(f"{name.lower()}, cold", cold, "flash_tokenizer", times["flash"], chars, chars, "stretch: >= 1x", equality))  # fmt: skip  # noqa: E501
    return rows


def bench_construction(vocab: Path, rounds: int) -> Row:
    import tokenizers

    times = median_seconds(
        {
            "ours": lambda: BertTokenizer(vocab),
            "tokenizers": lambda: tokenizers.BertWordPieceTokenizer(str(vocab), lowercase=True),
        },
        rounds=rounds,
    )
    return Row(
        "construction, vocabulary of bert-base-uncased",
        times["ours"],
        "tokenizers",
        times["tokenizers"],
        target="<= 0.2 s",
    )


def bench_memory(vocab: Path, texts) -> Row:
    ours = BertTokenizer(vocab)
    ours(texts[:1000], return_tensors="flat")
    tracemalloc.start()
    flat = ours._encoder.encode(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = flat.ids.nbytes + flat.begin.nbytes + flat.end.nbytes
    return Row(
        "temporary memory, headlines", (peak - result) / size(texts), "the bound", 50, "bytes/char", target="<= 50"
    )


def fuzz_texts(count: int) -> dict[str, list[str]]:
    rng = random.Random(5)
    assigned = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) not in ("Cn", "Co", "Cs")]
    return {
        "assigned code points as a?b": [f"a{c}b" for c in assigned[:: max(1, len(assigned) // count)]],
        "random assigned fuzz": ["".join(rng.choices(assigned, k=rng.randint(1, 12))) for _ in range(count // 4)],
        "fuzz over awkward characters": [
            "".join(c for c in rng.choices(ALPHABET, k=rng.randint(1, 20)) if not "\ud800" <= c <= "\udfff") or "a"
            for _ in range(count // 4)
        ],
        "words of 90 to 205 characters": ["a" * n for n in range(90, 206)],
    }


def bench_agreement(vocab: Path, peers: Peers, texts, count: int) -> list[Row]:
    """Per cent of texts whose ids are not those of the reference, ours beside the peers'."""
    ours, rows = BertTokenizer(vocab), []
    reference = Reference(dict(ours.vocab))
    corpora = {"headlines": texts[: count // 4], "26 scripts": [t for lines in scripts().values() for t in lines]}
    for name, corpus in {**corpora, **fuzz_texts(count)}.items():
        expected = [reference.ids(text) for text in corpus]
        wrong = {
            "ours": ours(corpus, add_special_tokens=False)["input_ids"],
            "tokenizers": [r[1:-1] for r in peers.ids(corpus)],
        }
        if peers.flash:
            wrong["flash_tokenizer"] = [row[1:-1] for row in peers.flash_ids(corpus)]
        share = {
            who: 100 * sum(a != b for a, b in zip(got, expected, strict=True)) / len(corpus)
            for who, got in wrong.items()
        }
        assert share["ours"] == 0, name
        what = f"wrong ids: {name} ({len(corpus)})"
        rows += [Row(what, 0.0, who, share[who], "%", "ours identical", "0 %") for who in share if who != "ours"]
    return rows


def kinds_of_text(chinese: Path, uncased: Path, *, quick: bool) -> list[Texts]:
    """Return the texts for the peers in `text_peers`; of the real ones, those that are there."""
    groups = scripts()
    lines = [line for some in groups.values() for line in some]
    kinds = {"docstrings": docstrings(), "Korean": groups["HANGUL"] * 10, "26 scripts": lines, "logs": logs(0, 4000)}
    kinds["news titles"] = headlines()[:10_000]
    if SHARED.is_dir():
        for name, file in (("questions", "banking77/train.txt"), ("reviews", "chnsenticorp_htl/train.txt")):
            read = (SHARED / file).read_text("utf-8").split("\n")
            kinds[name] = [line.split("\t")[0] for line in read if line]
    for texts in kinds.values():
        random.Random(0).shuffle(texts)
    return [
        Texts(name, chinese if name in ("news titles", "reviews") else uncased, texts[: 600 if quick else None])
        for name, texts in kinds.items()
    ]


def bench_without_core(kinds: list[Texts], rounds: int) -> list[Row]:
    """Lists and padded arrays without the compiled core, with a vocabulary trained on the texts of each kind."""
    import tokenizers

    rows = []
    for kind in kinds:
        if kind.name not in ("docstrings", "questions", "news titles", "reviews"):
            continue
        ends = np.cumsum([len(text) for text in kind.texts])
        texts = kind.texts[: 1 + int(np.searchsorted(ends, 200_000))]
        vocab = train_wordpiece(kind.texts, 8000)
        with mock.patch.dict(os.environ, {SWITCH: "0"}):
            ours = BertTokenizer(vocab)
        peer, padding = (
            tokenizers.BertWordPieceTokenizer({token: number for number, token in enumerate(vocab)}) for _ in range(2)
        )
        padding.enable_padding(pad_id=ours.pad_token_id)
        forms = {
            "lists": (
                lambda ours=ours, texts=texts: ours(texts)["input_ids"],
                lambda peer=peer, texts=texts: [one.ids for one in peer.encode_batch(texts)],
            ),
            "padded": (
                lambda ours=ours, texts=texts: ours(texts, padding=True, return_tensors="np")["input_ids"],
                lambda peer=padding, texts=texts: np.array([one.ids for one in peer.encode_batch(texts)]),
            ),
        }
        for form, (mine, theirs) in forms.items():
            same = agreement([list(row) for row in mine()], [list(row) for row in theirs()])
            seconds = median_seconds({"ours": mine, "peer": theirs}, rounds=rounds)
            what = f"without a compiler, {kind.name}, {form}"
            rows.append(
                rate(
                    what,
                    seconds["ours"],
                    "tokenizers encode_batch",
                    seconds["peer"],
                    size(texts),
                    size(texts),
                    ">= 5x",
                    same,
                )
            )
    return rows


def bench_one_text(ours, rounds: int) -> Row:
    """One text of 60 characters, which is what a call costs where there is hardly anything to do."""
    import transformers

    text, padded = (
        "I am still waiting on my new card, when will it come to me ?",
        {"padding": True, "return_tensors": "pt"},
    )
    assert len(text) == 60
    peer = transformers.BertTokenizer(vocab=dict(ours.vocab))
    one, other = ours(text, **padded), peer(text, **padded)
    assert all((one[key] == other[key]).all() for key in other)
    times = median_seconds(
        {
            "ours": lambda: [ours(text, **padded) for _ in range(500)],
            "transformers": lambda: [peer(text, **padded) for _ in range(500)],
        },
        rounds=rounds,
    )
    us = {name: seconds / 500 * 1e6 for name, seconds in times.items()}
    what = "one text of 60 characters to tensors"
    return Row(what, us["ours"], "transformers", us["transformers"], "us", "identical", "<= 12 us")


def run(*, quick: bool) -> list[Row]:
    import tempfile

    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rounds = 1 if quick else 9
    try:
        with tempfile.TemporaryDirectory() as folder:
            chinese, uncased = (vocabulary(Path(folder), name) for name in ("bert-base-chinese", "bert-base-uncased"))
            texts = headlines()[: 2048 if quick else 45_000]
            ours, peers = BertTokenizer(chinese), Peers(chinese)
            rows = bench_headlines(ours, peers, texts, rounds) + bench_tensors(ours, peers, texts, rounds)
            peers = Peers(uncased)
            rows += bench_scripts(uncased, peers, 1 if quick else 5)
            rows += [bench_construction(uncased, rounds), bench_memory(chinese, texts)]
            rows.append(bench_one_text(BertTokenizer(uncased, compat="hf"), rounds))
            kinds = kinds_of_text(chinese, uncased, quick=quick)
            rows += bench_without_core(kinds, 1 if quick else 5)
            rows += beside_peers(kinds, rounds=rounds, quick=quick)
            return rows + bench_agreement(uncased, peers, texts, 2000 if quick else 40_000)
    finally:
        torch.set_num_threads(threads)
