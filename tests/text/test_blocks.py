"""ASCII, which the compiled core reads 64 characters at once, beside the readable path: borders, and what stands in its way."""

import random

import pytest

from linkboy import BertTokenizer
from linkboy._compiled import SWITCH

pytestmark = pytest.mark.usefixtures("compiled")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "The",
    "of",
    "a",
    "I",
    "2026",
    "understand",
    "understanding",
    "incomprehensibilities",
    "x" * 70,
    "y" * 130,
]
SIGNS = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
SPACES = [" ", "  ", "\t", "\n", "\r\n", " " * 9]
# Letters that fold to ASCII, others, marks, other signs and spaces, what vanishes, what stands alone, a capital sigma.
ODD = [
    "é",
    "É",
    "ß",
    "ł",
    "ÿ",
    "ế",
    "и",
    "ά",
    "Σ",
    "e\u0301",
    "\u0301",
    "«",
    "—",
    "\u00a0",
    "\u2003",
    "\x00",
    "\x7f",
    "\u200d",
    "中",
    "한",
    "🙂",
    "𝒜",
]
BASE = [
    *SPECIAL,
    *"abcdefghijklmnopqrstuvwxyzABCDE0123456789",
    *SIGNS,
    "ß",
    "ł",
    "и",
    "中",
    "the",
    "The",
    "of",
    "under",
]
VOCABULARY = [*BASE, *(f"##{piece}" for piece in BASE[5:]), "##stand", "##ing", "é", "##é", "\u0301", "a b", "a\x01"]
CASES = {
    "uncased": {},
    "cased": {"do_lower_case": False},
    "accents kept": {"strip_accents": False},
    "as tokenizers": {"compat": "hf"},
    "no Chinese characters": {"tokenize_chinese_chars": False},
    "never split": {"never_split": ["the", "x-y"]},
}


def texts(count, seed, odd=0.0, literal=0.0):
    """Texts of up to 260 characters, most of them near a multiple of 64."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        size = max(0, rng.choice((0, 64, 80, 128, 192)) + rng.randint(-6, 6))
        text = ""
        while len(text) < size:
            part = rng.choice((WORDS, WORDS, SIGNS, SPACES, SPACES))
            part = ODD if rng.random() < odd else ["[MASK]", "[mask]", "[MA", "<s>"] if rng.random() < literal else part
            text += rng.choice(part) if rng.random() < 0.7 else rng.choice("abcdefgxyzABXYZ019")
        made.append(text[:size])
    return made


def both(options, monkeypatch, tokens=VOCABULARY):
    quick = BertTokenizer(tokens, **options)
    with monkeypatch.context() as patch:
        patch.setenv(SWITCH, "0")
        return quick, BertTokenizer(tokens, **options)


def assert_equal_in_all_forms(quick, plain, made):
    for call in (
        {},
        {"return_offsets_mapping": True},
        {"truncation": True, "max_length": 9},
        {"truncation": True, "max_length": 70},
    ):
        assert dict(quick(made, **call)) == dict(plain(made, **call)), call


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(("odd", "literal"), [(0, 0), (0.1, 0.02), (0.5, 0.1)])
def test_ids_and_offsets_are_those_of_the_readable_path(options, odd, literal, monkeypatch):
    made = texts(120, 1, odd, literal)
    assert_equal_in_all_forms(*both(options, monkeypatch), made)
    wider = [f"{text}{'—🙂'[n % 2]}" for n, text in enumerate(made[:80])]  # two and four bytes a character
    assert_equal_in_all_forms(*both(options, monkeypatch), wider)


def test_every_character_at_every_place_of_a_block(monkeypatch):
    quick, plain = both({}, monkeypatch)
    made = [
        "ab, " * (at // 4) + "abcd"[: at % 4] + odd + tail
        for odd in ODD
        for at in range(60, 69)
        for tail in ("", "e of", " " * 80)
    ]
    assert_equal_in_all_forms(quick, plain, made)


def test_letters_of_ascii_that_the_vocabulary_lacks_are_not_taken_for_others(monkeypatch):
    # The numbers of q and w are free for other letters then.
    cyrillic = [chr(code) for code in range(0x430, 0x530)]
    tokens = [*SPECIAL, "a", "b", *cyrillic, *(a + b for a in cyrillic[:40] for b in cyrillic[:40]), "\x01", "\x02\x03"]
    quick, plain = both({}, monkeypatch, tokens)
    rng = random.Random(3)
    letters = [*"abqwxyzABQW019", *cyrillic[:60]]
    made = [" ".join("".join(rng.choices(letters, k=rng.randint(1, 4))) for _ in range(30)) for _ in range(300)]
    assert_equal_in_all_forms(quick, plain, made)


def test_words_are_as_long_as_the_limit_says(monkeypatch):
    for limit in (1, 5, 8, 9, 16, 40, 63, 64, 65):
        quick, plain = both({"max_input_chars_per_word": limit}, monkeypatch)
        made = ["a" * n + " of " + "b" * n for n in range(1, 80)]
        assert_equal_in_all_forms(quick, plain, made)


def test_many_rare_words_before_one_is_read(monkeypatch):
    quick, plain = both({}, monkeypatch)
    rng = random.Random(4)
    made = [
        " ".join("".join(rng.choices("abcdefgh", k=rng.choice((1, 2, 3, 30)))) for _ in range(600)) for _ in range(20)
    ]
    assert_equal_in_all_forms(quick, plain, made)


@pytest.mark.parametrize("options", [{}, {"never_split": ["и"]}])
@pytest.mark.parametrize("text", ["alи", "alи al", "b alи"])
def test_a_text_is_not_cut_within_a_word_of_which_not_all_is_known_yet(options, text, monkeypatch):
    # A new tokenizer asks what и is when it meets it. Of "al" alone the second piece would be another one.
    quick, plain = both(options, monkeypatch, [*SPECIAL, "a", "b", "и", "##l", "##lи", "##и"])
    for length in range(1, 5):
        call = {"truncation": True, "max_length": length, "add_special_tokens": False}
        assert quick(text, **call) == plain(text, **call)
