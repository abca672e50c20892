"""The words that the compiled core keeps: read again and again, among more than it has places for, they keep their ids."""

import random

import pytest

from linkboy import BertTokenizer
from linkboy._compiled import SWITCH

pytestmark = pytest.mark.usefixtures("compiled")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdeαβγδε"
CALL = {"add_special_tokens": False}


def vocabulary(first, seed):
    """Pieces whose ids begin at `first`, in an order of their own."""
    pieces = [*LETTERS, *(a + b for a in LETTERS for b in "ab"), "abc", "αβγδ"]
    pieces += [f"##{piece}" for piece in pieces]
    random.Random(seed).shuffle(pieces)
    return [*SPECIAL, *(f"[unused{n}]" for n in range(first - len(SPECIAL))), *pieces]


def plain(tokens, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv(SWITCH, "0")
        return BertTokenizer(tokens)


def words(count, seed):
    """Words of 1 to 16 letters, of one byte or two, which have one to sixteen pieces."""
    rng = random.Random(seed)
    return [
        "".join(rng.choices(LETTERS[:5] if rng.random() < 0.5 else LETTERS, k=rng.randint(1, 16))) for _ in range(count)
    ]


def shuffled(found, times, seed):
    """All words several times, in texts of one word and of twenty, so that they stand in the middle and at the end."""
    rng = random.Random(seed)
    texts = found * times
    rng.shuffle(texts)
    return [*texts[: len(texts) // 4], *(" ".join(texts[n : n + 20]) for n in range(len(texts) // 4, len(texts), 20))]


@pytest.mark.parametrize("first", [5, 65_500, 70_000])  # ids of 16 bits, and of more
def test_kept_words_have_the_ids_of_the_readable_path(first, monkeypatch):
    tokens = vocabulary(first, 0)
    texts = shuffled(words(90_000, 1), 2, 2)
    expected = plain(tokens, monkeypatch)(texts, **CALL)["input_ids"]
    tokenizer = BertTokenizer(tokens)
    for _ in range(2):
        assert tokenizer(texts, **CALL)["input_ids"] == expected


def test_two_vocabularies_do_not_mix_their_words(monkeypatch):
    vocabularies = vocabulary(5, 3), vocabulary(70_000, 4)
    texts = shuffled(words(3000, 5), 3, 6)
    expected = [plain(tokens, monkeypatch)(texts, **CALL)["input_ids"] for tokens in vocabularies]
    tokenizers = [BertTokenizer(tokens) for tokens in vocabularies]
    for start in range(0, len(texts), 100):
        for tokenizer, ids in zip(tokenizers, expected, strict=True):
            assert tokenizer(texts[start : start + 100], **CALL)["input_ids"] == ids[start : start + 100]
