"""The n-grams of the compiled core beside those of the NumPy path: the same numbers, bit for bit."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.test_basic import AWKWARD, fuzz

from linkboy._compiled import core
from linkboy.classify.encoding._features import NgramEncoder
from linkboy.classify.reading._columns import FIELD

TEXTS = [
    *AWKWARD,
    *fuzz(400, 8),
    *(f"the {a} {b} cat_{a} sat, on 北京 {b}{a}" for a in "abcdef" for b in range(30)),
    "aaa" * 500,
    "\0\1\2\3",
    f"a{FIELD}b c{FIELD}d",
    f"{FIELD}a b",
    "",
] * 2


def encoders(**options):
    """An encoder with the core, and one of the same vocabulary without it."""
    made = NgramEncoder.fit(TEXTS, **options)
    if core() is None:
        pytest.skip("the compiled core is not here")
    plain = copy.copy(made)
    plain.__dict__["_core"] = None
    return made, plain


def assert_same_bits(made, plain, texts):
    for one, other in zip(
        *((f.ids, f.weights, f.offsets) for f in (made.encode(texts), plain.encode(texts))), strict=True
    ):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize("collapse", [False, True])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("longest", "words"), [(1, False), (3, True), (5, True), (16, False)])
def test_every_bit_is_that_of_the_numpy_path(longest, words, binary, collapse):
    made, plain = encoders(longest=longest, words=words, binary=binary)
    made, plain = (dataclasses.replace(each, collapse_whitespace=collapse) for each in (made, plain))
    plain.__dict__["_core"] = None
    assert made._core is not None
    assert len(made) > 20
    assert_same_bits(made, plain, TEXTS)
    assert_same_bits(made, plain, TEXTS[:1])
    assert_same_bits(made, plain, [])


PAIR = []


@settings(deadline=None)
@given(st.lists(st.text(max_size=20) | st.text(st.sampled_from(f"ab c_{FIELD}北"), max_size=40), max_size=5))
def test_any_texts_have_the_bits_of_the_numpy_path(texts):
    if not PAIR:
        PAIR.extend(encoders(longest=4, words=True))
    assert_same_bits(*PAIR, texts)


def test_hashes_that_are_not_spread_evenly_are_found_too():
    hashes = np.sort(np.concatenate([encoders()[0].hashes[:50], np.arange(3000, dtype=np.uint64)]))
    made = NgramEncoder(3, True, hashes, np.ones(len(hashes), np.float32))
    plain = copy.copy(made)
    plain.__dict__["_core"] = None
    assert_same_bits(made, plain, TEXTS)


def test_texts_whose_ngrams_come_again_and_again_have_the_bits_of_the_numpy_path():
    texts = [f"{a}{b}{c}" * 100 for a in "abcdef" for b in "ghijkl" for c in "mnopq"]
    made = NgramEncoder.fit(texts, longest=5, words=True)
    plain = copy.copy(made)
    plain.__dict__["_core"] = None
    assert_same_bits(made, plain, texts)
    assert_same_bits(made, plain, [" ".join(texts)])


def test_chunks_of_several_threads_change_nothing(monkeypatch):
    made, plain = encoders(longest=4, words=True)
    monkeypatch.setattr("linkboy.classify.encoding._features.CHUNK_CHARACTERS", 1000)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert_same_bits(made, plain, TEXTS)


def test_an_encoder_is_pickled_without_what_is_compiled():
    made, plain = encoders()
    made.encode(["a"])
    assert_same_bits(pickle.loads(pickle.dumps(made)), plain, TEXTS[:50])
    assert_same_bits(copy.deepcopy(made), plain, TEXTS[:50])


@pytest.mark.parametrize(
    ("hashes", "idf", "longest"),
    [
        (np.array([2, 1], np.uint64), np.ones(2, np.float32), 3),
        (np.array([1, 2], np.uint64), np.ones(3, np.float32), 3),
        (b"1234567", b"", 3),
        (np.array([1, 2], np.uint64), np.ones(2, np.float32), 0),
    ],
)
def test_what_is_no_vocabulary_is_refused(hashes, idf, longest):
    if core() is None:
        pytest.skip("the compiled core is not here")
    expected = r"^hashes must be sorted, idf have a number for each of them, and longest be at least 1$"
    with pytest.raises(ValueError, match=expected):
        core().Grams(hashes, idf, longest, True, False, 31)


def test_too_few_logarithms_are_refused():
    made, _ = encoders()
    with pytest.raises(ValueError, match=r"^logs must hold one for each count of an n-gram in the longest text$"):
        made._core.encode(["abcd"], np.zeros(5))
