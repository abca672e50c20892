"""BasicTokenizer against the reference: every code point in three contexts, awkward strings, fuzz."""

import pickle
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.text.reference import basic

from linkboy import BasicTokenizer
from linkboy.text._characters import Rules, scan

AWKWARD = [
    "ΑΣ", "ΑΣ.", "ΑΣ'Α", "ΑΣ\x01Α", "Σ", "ΣΑ Σ", "İstanbul", "≠ ≮ ≯ \u1fef", "a≠b", "a\u200bb", "a\x1cb", "a\u2028b",
    "a\x85b", "\ufeffabc", "中\u0301国", "\u0301", "a\U0001d16d\U0001d165b", "a\U0002b820b", "a\U0002ceb0\U0002ceb1b",
    "\ue000", "a\u0378b", "\ud800", "a\udfffb", "한국어", "각", "\u1112\u1161\u11ab", "々〇〆", "ひらがなカタカナﾊﾝ",
    "😀😀", "👨\u200d👩\u200d👧", "\ufffd", "", " ", "\u3000", "naïve [MASK]", "“x”…", "a_b^c$d", "\uf900\uf901a\ufa0e",
    "\u0344x", "\u302e\u302fx", "q\u1dce\u0323\u0307", "\0", "¡§«»\xad", "e\u0301\U0001d165\u0323f", "x\u0338=\u0338",
    "\U0001d15e", "ﬁ ſ K Å", "\u0fb2\u0f71\u0f80", "\u0e01\u0e34\u0e49", "\u200dक\u094dष",
]  # fmt: skip
ALPHABET = sorted(set("".join(AWKWARD) + "aAzZ09 .,-中国语ΑΣσςά\t\n\r"))
MODES = [
    {},
    {"lower": False},
    {"strip": False},
    {"lower": False, "strip": True},
    {"han": False},
    {"never_split": ("[MASK]", "a.b")},
]

CONTEXTS = ["a{}b", "中{}b", "{}", "Α{}"]
# Elsewhere is nothing but unassigned and private use; the ends of these stretches are looked at.
WHERE_CHARACTERS_ARE = [
    *(range(first, first + 0x400) for first in range(0, 0x20000, 0x400)),
    *(range(first, first + 0x400) for first in (0x2A400, 0x2B400, 0x2B700, 0x2CC00, 0x2EB00, 0x2F800, 0x31300)),
    *(range(first, first + 0x200) for first in (0x20000, 0x3FF00, 0xDFF00, 0xE0000, 0xEFF00, 0xFFF00, 0x10FE00)),
]


def ours(lower=True, strip=None, han=True, never_split=()) -> BasicTokenizer:
    return BasicTokenizer(lower, strip, han, never_split)


def fuzz(count, seed) -> list[str]:
    rng = random.Random(seed)
    texts = []
    for index in range(count):
        length = rng.randint(1, 12)
        if index % 3 == 0:
            texts.append("".join(chr(rng.randrange(sys.maxunicode + 1)) for _ in range(length)))
        elif index % 3 == 1:
            texts.append("".join(rng.choices(ALPHABET, k=length)))
        else:
            texts.append("".join(chr(rng.randrange(0x3000)) for _ in range(length)))
    return texts


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_awkward_strings_are_cut_as_the_reference_cuts_them(mode):
    tokenizer = ours(**mode)
    for text in [*AWKWARD, " ".join(AWKWARD), "".join(AWKWARD), "x [MASK] y a.b a.b.", "[MA\u200bSK]"]:
        assert tokenizer.tokenize(text) == basic(text, **mode), repr(text)


def check_code_points(codes, mode, context):
    text = " ".join(context.format(chr(code)) for code in codes)
    assert ours(**mode).tokenize(text) == basic(text, **mode), f"{context} {mode} {codes}"


@pytest.mark.parametrize("mode", MODES[:2], ids=str)
@pytest.mark.parametrize("context", CONTEXTS[:1])
def test_every_assigned_code_point_is_treated_as_in_the_reference(mode, context):
    for codes in WHERE_CHARACTERS_ARE:
        check_code_points(codes, mode, context)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_code_point_is_treated_as_in_the_reference_in_every_context(mode, context):
    for first in range(0, sys.maxunicode + 1, 1 << 14):
        check_code_points(range(first, first + (1 << 14)), mode, context)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_fuzz_agrees_with_the_reference(mode):
    tokenizer = ours(**mode)
    for text in fuzz(600, seed=1):
        assert tokenizer.tokenize(text) == basic(text, **mode), repr(text)


@given(st.text(st.characters(), max_size=40))
def test_any_text_agrees_with_the_reference(text):
    assert BasicTokenizer().tokenize(text) == basic(text)


@given(st.text(st.sampled_from(ALPHABET), max_size=20), st.booleans(), st.booleans())
def test_the_readable_path_agrees_with_the_quick_one(text, lower, strip):
    words = scan(text, Rules(lower, strip))
    assert [word.text for word in words] == BasicTokenizer(lower, strip).tokenize(text)
    assert all(len(word.text) == len(word.sources) for word in words)


def test_sources_point_at_the_original_characters():
    words = scan("\ufeffÉa\u0301\u200bb 한.ΑΣ", Rules())
    assert [(word.text, word.sources) for word in words] == [
        ("eab", [1, 2, 5]),
        ("\u1112\u1161\u11ab", [7, 7, 7]),
        (".", [8]),
        ("ας", [9, 10]),
    ]


def test_bytes_are_read_as_utf8_and_what_is_not_is_left_out():
    assert BasicTokenizer().tokenize("中a".encode() + b"\xff\xfeb\xe4\xb8") == ["中", "ab"]


def test_options_split_more_only_when_asked():
    text = "\U0002ceb0\U0002ceb1 々〇 カナが 😀😀"
    assert BasicTokenizer().tokenize(text) == ["\U0002ceb0\U0002ceb1", "々〇", "カナか", "😀😀"]
    assert BasicTokenizer(han="all").tokenize(text)[:4] == ["\U0002ceb0", "\U0002ceb1", "々", "〇"]
    assert BasicTokenizer(kana=True).tokenize(text)[2:5] == ["カ", "ナ", "か"]
    assert BasicTokenizer(emoji=True).tokenize(text)[-2:] == ["😀", "😀"]


def test_a_batch_is_its_texts_one_by_one():
    tokenizer = BasicTokenizer()
    assert tokenizer.tokenize_batch(AWKWARD) == [tokenizer.tokenize(text) for text in AWKWARD]
    assert tokenizer.tokenize_batch([]) == []


def test_a_pickled_tokenizer_is_the_same_tokenizer():
    tokenizer = BasicTokenizer(False, never_split=["[MASK]"])
    tokenizer.tokenize("warm 中")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.tokenize("A [MASK] É") == ["A", "[MASK]", "É"]


def test_the_character_table_forgets_instead_of_growing(monkeypatch):
    monkeypatch.setattr("linkboy.text._character_table.CHARACTERS_KEPT", 10)
    tokenizer = BasicTokenizer()
    text = "".join(map(chr, range(0x100, 0x180)))
    assert tokenizer.tokenize(text) == basic(text)
    assert len(tokenizer._table) <= 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BasicTokenizer(do_lower_case=1), "do_lower_case must be True or False, got 1"),
        (lambda: BasicTokenizer(strip_accents="no"), "strip_accents must be True, False or None, got 'no'"),
        (lambda: BasicTokenizer(han="ext"), "han must be one of ('google', 'all'), got 'ext'"),
        (
            lambda: BasicTokenizer(never_split="[MASK]"),
            "never_split must be a collection of tokens, got the bare str '[MASK]'",
        ),
        (lambda: BasicTokenizer(never_split=[""]), "never_split must hold non-empty strings, got ''"),
        (lambda: BasicTokenizer().tokenize(None), "text must be str or bytes, got NoneType"),
        (lambda: BasicTokenizer().tokenize_batch("abc"), "texts must be a list of texts, got a single str"),
        (lambda: BasicTokenizer().tokenize_batch(["a", None]), "texts[1] must be str or bytes, got NoneType"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message
