"""Many texts at once without the compiled core: the ids that each has by itself, whatever stands beside it."""

import functools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.text.test_basic import ALPHABET, AWKWARD, MODES, WHERE_CHARACTERS_ARE, fuzz
from tests.text.test_ids import LETTERS, LONG, VOCABULARY, ours, words_fuzz

from linkboy.text import _many_texts
from linkboy.text._flat import MARK
from linkboy.text._many_texts import LETTER, REFERENCE, SPACE, UNSEEN, ManyTexts

DROPPED_SPACES = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"  # where `str.split` parts words, and BERT does not


@pytest.fixture(autouse=True)
def _without_core(monkeypatch):
    monkeypatch.setenv("LINKBOY_CORE", "0")


def assert_as_each(tokenizer, texts):
    """Hold the ids of many texts to what character by character comes out for each."""
    __tracebackhide__ = True
    engine = tokenizer._encoder._plain
    flat = engine.encode(texts)
    for text, begin, end in zip(texts, flat.begin.tolist(), flat.end.tolist(), strict=True):
        assert flat.ids[begin] == flat.ids[end] == MARK
        assert flat.ids[begin + 1 : end].tolist() == [piece[0] for piece in engine.reader.read(text)], repr(text)
    assert len(flat.ids) == (flat.end - flat.begin + 1).sum()


@pytest.mark.parametrize("compat", ["google", "hf"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_ids_are_those_of_each_text_by_itself(mode, compat):
    texts = [*AWKWARD, "".join(AWKWARD), " ".join(AWKWARD), *LONG, "x [MASK] a.b", *fuzz(150, 3), *words_fuzz(300, 4)]
    assert_as_each(ours(**mode, compat=compat), texts)


@pytest.mark.parametrize("limit", [1, 2, 7, 10**9])
def test_any_limit_of_a_word_gives_the_ids_of_each_text(limit):
    assert_as_each(ours(max_input_chars_per_word=limit), [*AWKWARD, *LONG[:12], *words_fuzz(300, 5)])


@pytest.mark.parametrize("context", ["a{}b", "Α{}Σ{}", "{}"])
def test_every_assigned_code_point_has_its_ids_among_many(context):
    codes = [code for some in WHERE_CHARACTERS_ARE for code in some][:: 5 if context == "a{}b" else 23]
    assert_as_each(ours(never_split=["a\u200bΣ", "中"]), [context.format(chr(code), chr(code)) for code in codes])


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_code_point_has_its_ids_among_many(mode):
    tokenizer = ours(**mode)
    for first in range(0, sys.maxunicode + 1, 1 << 14):
        assert_as_each(tokenizer, [f"a{chr(code)}b" for code in range(first, first + (1 << 14))])


@pytest.mark.parametrize("at_once", [1, 2, 7, 50])
def test_texts_are_taken_in_groups_without_a_trace(monkeypatch, at_once):
    monkeypatch.setattr(_many_texts, "AT_ONCE", at_once)
    texts = ["", "ΑΣ", *AWKWARD, "", "", *words_fuzz(100, 6), "a\x1cb", ""]
    assert_as_each(ours(), texts)
    assert_as_each(ours(), [])
    assert_as_each(ours(), ["", "", ""])


@functools.cache
def kept(lower, never_split):
    """A tokenizer that knows the words of the examples before."""
    return ours(lower, never_split=never_split)


@given(
    st.lists(st.text(st.sampled_from([*LETTERS, *ALPHABET, *DROPPED_SPACES]), max_size=30), max_size=6),
    st.booleans(),
    st.sampled_from([(), ("b.", "Σa")]),
)
def test_any_batch_has_the_ids_of_each_text(texts, lower, never_split):
    assert_as_each(kept(lower, never_split), texts)


@given(st.lists(st.text(max_size=20), max_size=4))
def test_any_text_at_all_has_its_ids_among_others(texts):
    assert_as_each(kept(True, ()), texts)


def test_what_a_character_is_decides_where_it_is_read():
    many = ManyTexts(ours(never_split=["[x]"])._encoder.reader)
    many.encode(["a\u0301中 .\x0bΣ[\u200b"])
    kinds = {character: int(many._kinds[ord(character)]) for character in "a\u0301 \n\x0bΣ[\u200b中.b"}
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    assert kinds == {
        "a": LETTER,
        "\u0301": LETTER,  # of a word that may be empty
        "\u200b": LETTER,
        " ": SPACE,
        "\n": SPACE,
        "\x0b": REFERENCE,
        "Σ": REFERENCE,
        "[": REFERENCE,
        "中": vocabulary["中"] + 1,
        ".": vocabulary["."] + 1,
        "b": UNSEEN,
    }


def test_the_words_kept_are_bounded(monkeypatch):
    monkeypatch.setattr("linkboy.text._wordpiece.WORDS_KEPT", 20)
    tokenizer = ours()
    assert_as_each(tokenizer, words_fuzz(200, 5))
    assert len(tokenizer._encoder.engine._many._words) <= 20
