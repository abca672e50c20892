"""Hash collisions, threads, forks, pickles, bounds: what must never show in an id."""

import concurrent.futures
import multiprocessing
import pickle
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from tests.text.reference import Reference
from tests.text.test_basic import AWKWARD
from tests.text.test_ids import IDS, VOCABULARY, assert_equal_ids, ours, words_fuzz

from linkboy import BertTokenizer
from linkboy.text import _word_cache as cache
from linkboy.text import _word_keys
from linkboy.text._arrays import ranges
from linkboy.text._hash_table import HashTable
from linkboy.text._trie import PieceTrie

TEXTS = [*AWKWARD, *words_fuzz(600, 31)]


def colliding(constant):
    make = cache.make_keys

    def make_keys(symbols, starts, lengths):
        return make(symbols, starts, lengths)._replace(hashes=np.full(len(starts), constant, np.uint64))

    return make_keys


def test_when_every_hash_collides_every_id_is_still_right(monkeypatch):
    monkeypatch.setattr(cache, "make_keys", colliding(12345))
    tokenizer = ours()
    assert len(tokenizer._encoder.engine.cache) == 1
    assert_equal_ids(tokenizer, Reference(IDS), TEXTS)
    flat = tokenizer._encoder.engine.encode(TEXTS, spans=True)
    begin, end = int(flat.begin[9]), int(flat.end[9])
    assert [tuple(s) for s in flat.spans[begin + 1 : end].tolist()] == [
        p[1:] for p in tokenizer._encoder.reader.read(TEXTS[9])
    ]


def test_a_collision_taken_for_a_hit_would_be_seen(monkeypatch):
    monkeypatch.setattr(cache, "make_keys", colliding(12345))
    monkeypatch.setattr(cache.WordCache, "_collisions", lambda self, keys, numbers: np.zeros(0, np.int64))
    with pytest.raises(AssertionError):
        assert_equal_ids(ours(), Reference(IDS), TEXTS)


def test_words_that_differ_only_in_length_or_in_a_late_chunk_are_told_apart(monkeypatch):
    monkeypatch.setattr(_word_keys, "MULTIPLIER", np.uint64(0))  # the hash is then the last chunk alone
    texts = [body * count + end for body in ("abcd", "abce") for count in range(1, 9) for end in ("", "a", "abcd")]
    assert_equal_ids(ours(), Reference(IDS), texts * 3)


def test_the_word_cache_is_bounded_and_stays_right(monkeypatch):
    monkeypatch.setattr(cache, "WORDS_KEPT", 300)
    tokenizer, reference = ours(), Reference(IDS)
    for seed in range(8):
        assert_equal_ids(tokenizer, reference, words_fuzz(150, seed))
    many = tokenizer._encoder.engine.cache
    assert len(many) <= 300 + 150 * 16


def test_the_word_table_of_the_readable_path_is_bounded(monkeypatch):
    monkeypatch.setattr("linkboy.text._wordpiece.WORDS_KEPT", 20)
    tokenizer, reference = ours(), Reference(IDS)
    for text in words_fuzz(200, 5):
        assert tokenizer.encode(text, add_special_tokens=False) == reference.ids(text)
    assert len(tokenizer._encoder.reader._words) <= 20


def test_threads_that_are_cold_together_agree():
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
def test_another_process_gives_the_same_ids_even_when_forked_with_locks_held(method):
    tokenizer = ours()
    expected = tokenizer(TEXTS[:80])["input_ids"]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=child, args=(tokenizer, queue))
    with tokenizer._encoder.engine.cache._lock, tokenizer._encoder.engine.table._lock:
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
def test_memory_stays_below_fifty_bytes_per_character_beyond_the_result(letter, width):
    texts = [letter * (width // len(letter))] * (1_200_000 // width)
    characters = sum(map(len, texts))
    tokenizer = ours()
    tokenizer([texts[0][:4000]], return_tensors="flat")
    tracemalloc.start()
    flat = tokenizer._encoder.engine.encode(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = flat.ids.nbytes + flat.begin.nbytes + flat.end.nbytes
    assert peak - result < 50 * characters


def test_memory_for_new_words_is_bounded_by_cutting_some_at_a_time():
    rng = np.random.default_rng(0)
    texts = ["".join(word) + " " for word in rng.choice(list("abcdefgh"), (26_000, 7)).tolist()]
    tokenizer = ours()
    tracemalloc.start()
    tokenizer._encoder.engine.encode(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120 * sum(map(len, texts))  # 92; 152 where all are cut at once


def test_words_cut_in_several_goes_have_the_same_ids(monkeypatch):
    monkeypatch.setattr("linkboy.text._word_cutter.CUT_AT_ONCE", 7)
    assert_equal_ids(ours(), Reference(IDS), TEXTS)


def test_the_hash_table_is_a_dictionary():
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, 2**63, 5000, dtype=np.uint64) << np.uint64(1))
    table, expected = HashTable(), {}
    for part in np.array_split(rng.permutation(keys), 13):
        table.insert(part, len(expected) + np.arange(len(part)))
        expected.update(zip(part.tolist(), range(len(expected), len(expected) + len(part)), strict=True))
    asked = np.concatenate([keys, keys + np.uint64(1)])
    assert table.find(asked).tolist() == [expected.get(key, -1) for key in asked.tolist()]
    assert table.find(np.zeros(0, np.uint64)).tolist() == []


def test_ranges_are_concatenated():
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


def test_the_trie_matches_greedily():
    pieces = ["ab", "abcd", "##c", "##cx"]
    bodies = [piece.removeprefix("##") for piece in pieces]
    symbols = np.array([ord(c) for body in bodies for c in body], np.uint16)
    continued = np.array([piece.startswith("##") for piece in pieces])
    trie = PieceTrie(symbols, np.array(list(map(len, bodies))), continued, [10, 11, 12, 13])
    words = ["abc", "abcd", "abcx", "abx", "abcdc"]
    joined = np.array([ord(c) for c in "\0".join(words) + "\0"], np.uint16)
    ends = np.flatnonzero(joined == 0)
    starts = np.append(0, ends[:-1] + 1)
    cut, unknown = trie.match(joined, starts, ends)
    assert list(zip(cut.word.tolist(), cut.id.tolist(), strict=True)) == [
        (0, 10), (0, 12), (1, 11), (2, 10), (2, 13), (4, 11), (4, 12),
    ]  # fmt: skip
    assert unknown.tolist() == [False, False, False, True, False]


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
