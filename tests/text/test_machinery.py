"""Threads, forks, pickles, bounds: what must never show in an id."""

import concurrent.futures
import multiprocessing
import pathlib
import pickle
import resource
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from tests.text.reference import Reference
from tests.text.test_basic import AWKWARD
from tests.text.test_ids import IDS, VOCABULARY, ours, words_fuzz

from linkboy import BertTokenizer
from linkboy.text._arrays import ranges

TEXTS = [*AWKWARD, *words_fuzz(600, 31)]


def test_the_word_table_of_the_readable_path_is_bounded(monkeypatch):
    monkeypatch.setenv("LINKBOY_CORE", "0")
    monkeypatch.setattr("linkboy.text._wordpiece.WORDS_KEPT", 20)
    tokenizer, reference = ours(), Reference(IDS)
    for text in words_fuzz(200, 5):
        assert tokenizer.encode(text, add_special_tokens=False) == reference.ids(text)
    assert len(tokenizer._encoder.reader._words) <= 20


def test_threads_that_are_cold_together_agree(engine):
    expected = ours()(TEXTS)["input_ids"]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(3):
            tokenizer, gate = ours(), threading.Barrier(4)

            def work(shift, tokenizer=tokenizer, gate=gate):
                gate.wait()
                rows = [tokenizer(TEXTS[i : i + 40])["input_ids"] for i in range(shift, len(TEXTS), 40)]
                return [row for part in rows for row in part]

            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                for shift, rows in enumerate(pool.map(work, range(4))):
                    assert rows == expected[shift:]
    finally:
        sys.setswitchinterval(before)


def child(tokenizer, queue):
    queue.put(tokenizer(TEXTS[:80])["input_ids"])


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_another_process_gives_the_same_ids(method, engine):
    tokenizer = ours()
    expected = tokenizer(TEXTS[:80])["input_ids"]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=child, args=(tokenizer, queue))
    process.start()
    try:
        assert queue.get(timeout=60) == expected
    finally:
        process.join(timeout=10)
        process.kill()


def test_a_data_loader_with_workers_tokenizes_without_a_warning():
    tokenizer = ours()
    tokenizer(TEXTS)

    def collate(texts):
        return tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]

    loader = torch.utils.data.DataLoader(TEXTS[:200], batch_size=50, num_workers=1, collate_fn=collate)
    for index, batch in enumerate(loader):
        assert torch.equal(batch, collate(TEXTS[50 * index : 50 * index + 50]))


def test_a_pickled_tokenizer_keeps_its_options():
    tokenizer = ours(False, never_split=["a.b"], compat="hf", max_input_chars_per_word=7, model_max_length=9, kana=True)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy._options() == tokenizer._options()
    assert copy(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


@pytest.mark.parametrize("letter", ["中", "a ", "é", "😀 ", "한국 "])
@pytest.mark.parametrize("width", [100, 1_000_000], ids=["many short texts", "one long text"])
def test_what_is_returned_is_all_that_python_holds(letter, width, compiled):
    texts = [letter * (width // len(letter))] * (1_200_000 // width)
    tokenizer = ours()
    tokenizer([texts[0][:4000]], return_tensors="flat")
    tracemalloc.start()
    flat = tokenizer._encoder.engine.encode(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = flat.ids.nbytes + flat.begin.nbytes + flat.end.nbytes
    assert peak - result < 20 * len(texts) + 100_000


def test_memory_does_not_grow_with_new_words(compiled):
    rng = np.random.default_rng(0)
    tokenizer = ours()
    sizes = []
    for _ in range(3):
        texts = ["".join(word) for word in rng.choice(list("abcdefgh"), (50_000, 7)).tolist()]
        tokenizer._encoder.engine.encode([" ".join(texts)])
        sizes.append(resident())
    assert sizes[2] - sizes[1] < 4 << 20


def resident() -> int:
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def test_ranges_are_concatenated():
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


def test_construction_of_a_large_vocabulary_is_quick(shared_data):
    path = shared_data / "vocab" / "bert-base-uncased.txt"
    BertTokenizer(path)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        BertTokenizer(path)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.4  # 0.1 s unloaded; the benchmark holds the bound of 0.2 s


def test_repr_names_the_options():
    assert repr(BertTokenizer(VOCABULARY)).startswith(
        f"BertTokenizer({len(VOCABULARY)} tokens, {{'do_lower_case': True"
    )
