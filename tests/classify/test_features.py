"""The vectorised n-grams equal a plain-Python count, and scikit-learn's weights."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from linkboy.classify.encoding import _features as features
from linkboy.classify.encoding._features import END, START, FlatFeatures, NgramEncoder
from linkboy.text._scripts import unspaced_share

ALPHABET = "abAB 中国，。é\u0301१😀\ud800"
TEXTS = st.lists(st.text(ALPHABET, max_size=12), min_size=1, max_size=12)


def plain_ngrams(text, longest, words):
    """The n-grams of a text as strings, by the definition."""
    text = " ".join(text.split())
    marked = START + text.lower() + END
    grams = [marked[i : i + n] for n in range(1, longest + 1) for i in range(len(marked) - n + 1)]
    grams = [gram for gram in grams if gram not in (START, END)]
    if words:
        spaced = "".join(c if features.is_word_character(c) else " " for c in text.lower())
        tokens = spaced.split(" ")
        tokens = [token for token in tokens if token]
        grams += [("word", token) for token in tokens]
        grams += [("pair", *pair) for pair in itertools.pairwise(tokens)]
    return Counter(grams)


@settings(deadline=None)
@given(TEXTS, st.integers(1, 5), st.booleans())
def test_counts_and_weights_equal_the_definition(texts, longest, words):
    encoder = NgramEncoder.fit(texts, longest=longest, words=words)
    counted = [plain_ngrams(text, longest, words) for text in texts]
    df = Counter(gram for grams in counted for gram in grams)
    kept = {gram: math.log((1 + len(texts)) / (1 + n)) + 1 for gram, n in df.items() if n >= 2}
    assert len(encoder) == len(kept)
    encoded = encoder.encode(texts)
    for row, grams in enumerate(counted):
        expected = [(1 + math.log(n)) * kept[gram] for gram, n in grams.items() if gram in kept]
        norm = math.sqrt(sum(weight * weight for weight in expected))
        got = encoded.weights[encoded.offsets[row] : encoded.offsets[row + 1]]
        np.testing.assert_allclose(np.sort(got), np.sort([weight / norm for weight in expected]), rtol=1e-5)


def test_white_space_counts_as_one_space():
    texts = ["good  film", "good\tfilm", " good film\n", "good\u3000film", "good\r\n\u00a0film", "good film"]
    encoder = NgramEncoder.fit(texts)
    rows = [encoder.encode([text]) for text in texts]
    for row in rows:
        assert row.ids.tolist() == rows[-1].ids.tolist()
        assert row.weights.tolist() == rows[-1].weights.tolist()
    assert encoder.normalized("  a\n\n b ") == "a b"
    assert len(NgramEncoder.fit([" \n", "\t"])) == len(NgramEncoder.fit(["", ""]))


def test_an_encoder_that_was_saved_before_takes_white_space_as_it_is():
    made = NgramEncoder.fit(["a  b", "a  b", "a b", "a b"], longest=4, words=False)
    settings = made.settings()
    assert settings.pop("collapse_whitespace") is True
    before = NgramEncoder.restore(settings, made.arrays())
    assert before.settings() == settings
    assert before.encode(["a b"]).ids.tolist() == made.encode(["a b"]).ids.tolist()
    assert before.encode(["a  b"]).ids.tolist() != made.encode(["a  b"]).ids.tolist()
    with pytest.raises(TypeError):
        NgramEncoder.restore({**settings, "collapse_whitespace": 1}, made.arrays())


def test_character_weights_equal_scikit_learn():
    texts = ["deep learning", "deep sea", "Sea Level", "learning to learn"] * 3
    oracle = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2)
    expected = oracle.fit_transform([f"{START}{text.lower()}{END}" for text in texts])
    # scikit-learn counts the lone markers, which ours does not: compare without them, scaled anew.
    columns = [i for gram, i in oracle.vocabulary_.items() if gram not in (START, END)]
    expected = expected[:, columns].toarray()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    encoder = NgramEncoder.fit(texts, longest=3, words=False)
    got = encoder.encode(texts)
    assert len(encoder) == expected.shape[1]
    for row in range(len(texts)):
        weights = got.weights[got.offsets[row] : got.offsets[row + 1]]
        np.testing.assert_allclose(np.sort(weights), np.sort(expected[row][expected[row] > 0]), rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_chunks_change_nothing(monkeypatch, chunk):
    texts = [f"text number {n} 中文{n % 7}" for n in range(50)]
    whole = NgramEncoder.fit(texts)
    encoded = whole.encode(texts)
    monkeypatch.setattr(features, "CHUNK_CHARACTERS", chunk)
    cut = NgramEncoder.fit(texts)
    assert np.array_equal(whole.hashes, cut.hashes)
    assert np.array_equal(whole.idf, cut.idf)
    again = cut.encode(texts)
    assert np.array_equal(encoded.ids, again.ids)
    assert np.array_equal(encoded.weights, again.weights)
    assert np.array_equal(encoded.offsets, again.offsets)


def test_texts_without_a_known_ngram_and_no_texts_at_all_give_empty_rows():
    encoder = NgramEncoder.fit(["abc", "abd"])
    encoded = encoder.encode(["", "中", "abc"])
    lengths = np.diff(encoded.offsets)
    assert lengths[1] == 0
    assert lengths[2] > 0
    assert len(encoder.encode([])) == 0


def test_an_empty_vocabulary_is_no_error():
    encoder = NgramEncoder.fit(["a"])
    assert len(encoder) == 0
    assert list(np.diff(encoder.encode(["a", "b"]).offsets)) == [0, 0]


@given(st.data())
def test_gather_and_part_return_the_rows_asked_for(data):
    lengths = np.array(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=8)))
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    flat = FlatFeatures(np.arange(offsets[-1]), np.arange(offsets[-1], dtype=np.float32), offsets)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8)), np.int64)
    gathered = flat.gather(rows)
    expected = [list(range(offsets[row], offsets[row + 1])) for row in rows]
    got = [list(gathered.ids[gathered.offsets[i] : gathered.offsets[i + 1]]) for i in range(len(rows))]
    assert got == expected
    assert np.array_equal(gathered.ids, gathered.weights)
    start, stop = data.draw(st.integers(0, len(lengths) - 1)), data.draw(st.integers(1, 10))
    part, same = flat.part(start, start + stop), flat.gather(np.arange(len(lengths))[start : start + stop])
    assert np.array_equal(part.ids, same.ids)
    assert np.array_equal(part.weights, same.weights)
    assert np.array_equal(part.offsets, same.offsets)
    assert np.shares_memory(part.ids, flat.ids) or not len(part.ids)


def test_the_script_decides_what_counts():
    assert unspaced_share(["机器学习很有趣 abc"]) > 0.5
    assert unspaced_share(["machine learning", "машинное обучение"]) == 0
    assert unspaced_share(["123 !", ""]) == 0
    for text, longest, words in (("机器学习", 3, False), ("machine learning", 4, True), ("learning " * 5, 5, True)):
        encoder = NgramEncoder.fit([text] * 2)
        assert (encoder.longest, encoder.words) == (longest, words)


def test_log_odds_are_those_of_the_formula_and_of_weighted_texts():
    texts, targets = ["ab", "abc", "xb", "x"], np.array([0, 0, 1, 2])
    encoder = NgramEncoder.fit(texts, longest=1, words=False, min_df=1, binary=True)
    encoded = encoder.encode(texts)
    ones = np.ones(4, np.float32)
    odds = features.log_odds([(encoded, targets, ones)], 3, len(encoder))
    held = np.zeros((4, len(encoder)))
    for row in range(4):
        held[row, encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]]] = 1
    for label in range(3):
        inside, outside = (1 + held[side].sum(0) for side in (targets == label, targets != label))
        expected = np.log(inside / inside.sum()) - np.log(outside / outside.sum())
        np.testing.assert_allclose(odds[:, label], expected, rtol=1e-6)
    again = (encoder.encode(["ab"]), targets[:1], ones[:1])
    in_pieces = features.log_odds([(encoded, targets, ones), again], 3, len(encoder))
    weighted = features.log_odds([(encoded, targets, np.array([2, 1, 1, 1], np.float32))], 3, len(encoder))
    np.testing.assert_allclose(weighted, in_pieces, rtol=1e-6)


def test_presence_gives_every_ngram_of_a_text_the_same_weight_at_unit_length():
    encoder = NgramEncoder.fit(["ababab x", "ab y", "ab"], longest=2, words=False, min_df=1, binary=True)
    encoded = encoder.encode(["ababab x", "ab"])
    for row in range(2):
        weights = encoded.weights[encoded.offsets[row] : encoded.offsets[row + 1]]
        np.testing.assert_allclose(weights, 1 / np.sqrt(len(weights)), rtol=1e-6)
