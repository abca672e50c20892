"""Each rule of the reference, broken on purpose, is seen by the comparison: the checks can fail."""

import unicodedata

import pytest
from tests.text.reference import Reference
from tests.text.test_basic import AWKWARD
from tests.text.test_ids import IDS, LONG, assert_equal_ids, ours, words_fuzz

from linkboy.text import _characters as characters
from linkboy.text import _engines
from linkboy.text import _pages as pages
from linkboy.text import _wordpiece as wordpiece
from linkboy.text._characters import Rules

TEXTS = [*AWKWARD, *LONG, *words_fuzz(1500, 41), "a\U0002b820b 中\uf901a ≠= ¡é", "ΑΣ. ασςΣ'Α"]


def drops_only_control(self, character):
    return unicodedata.category(character) == "Cc" and character not in "\t\n\r"


def keeps_control(self, character):
    return character in "\0\ufffd" or unicodedata.category(character) == "Cf"


def no_marks_stripped(self, token):
    return unicodedata.normalize("NFD", token.lower() if self.lower else token)


def ascii_signs_only(character):
    return ord(character) < 128 and ord(character) >= 33 and not character.isalnum()


@pytest.fixture(autouse=True)
def no_answers_remembered():
    """Forget what characters were before and under a fault."""
    pages.make_page.cache_clear()
    pages.make_flags.cache_clear()
    yield
    pages.make_page.cache_clear()
    pages.make_flags.cache_clear()


def without_classes(rules, number):
    return MAKE_PAGE(rules, number)._replace(classes=bytes(len(MAKE_PAGE(rules, number).classes)))


MAKE_PAGE = pages.make_page
FAULTS = {
    "format characters kept": (Rules, "is_dropped", drops_only_control),
    "control characters kept": (Rules, "is_dropped", keeps_control),
    "marks not stripped": (Rules, "fold", no_marks_stripped),
    "punctuation only in ASCII": (pages, "is_punctuation", ascii_signs_only),
    "no Han alone": (Rules, "alone_ranges", lambda self: []),
    "compatibility ideographs forgotten": (characters, "GOOGLE_HAN", characters.GOOGLE_HAN[:6]),
    "spaces only in ASCII": (pages, "is_space", lambda character: character in " \t\n\r"),
    "sigma always medial": (pages, "_flags", lambda character: 0),
    "sigma never looked at": (pages, "SIGMA", "\0"),
    "order of marks ignored": (_engines, "make_page", without_classes),
}  # fmt: skip


def build_and_compare():
    assert_equal_ids(ours(), Reference(IDS), TEXTS)


def test_without_a_fault_nothing_is_seen():
    build_and_compare()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(monkeypatch, fault, compiled):
    owner, name, broken = FAULTS[fault]
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError):
        build_and_compare()


def test_a_wrong_word_limit_is_seen():
    with pytest.raises(AssertionError):
        assert_equal_ids(ours(max_input_chars_per_word=199), Reference(IDS), TEXTS)


def test_dropping_private_use_is_seen():
    with pytest.raises(AssertionError):
        assert_equal_ids(ours(compat="hf", max_input_chars_per_word=200), Reference(IDS), ["a\ue000b"])


def test_a_shortest_match_is_seen(monkeypatch):
    monkeypatch.setenv("LINKBOY_CORE", "0")

    def shortest(word, vocabulary, unknown_id, limit):
        found = [vocabulary.get(f"##{c}" if i else c) for i, c in enumerate(word)]
        return [(unknown_id if n is None else n, i, i + 1) for i, n in enumerate(found)]

    monkeypatch.setattr(wordpiece, "cut_word", shortest)
    tokenizer, reference = ours(), Reference(IDS)
    assert any(tokenizer.encode(t, add_special_tokens=False) != reference.ids(t) for t in TEXTS)
