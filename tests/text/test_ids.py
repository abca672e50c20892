"""Ids of the compiled core and of the readable path, against the reference: 0 wrong, spans included."""

import random
import sys

import pytest
from tests.text.reference import Reference
from tests.text.test_basic import AWKWARD, CONTEXTS, MODES, WHERE_CHARACTERS_ARE, fuzz

from linkboy import BertTokenizer


def make_vocabulary() -> list[str]:
    """A vocabulary with pieces of all lengths in many scripts, so that few words are unknown."""
    rng = random.Random(7)
    letters = (
        "abcdefghijklmnopqrstuvwxyzABCÉéßσςαάнтㄱかガ뷁क्" + "\u1112\u1161\u11ab\u11a8\u1100\u0e01\u0e34\u302e\u200d"
    )
    letters += "\U0001d165\U0001d16d\U0001d158😀\U0002ceb0々\ue000\u0378"
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *".,!?\"#=`<'¡§-_中国语豈北京é",
        "更",
        "##中",
        "\u2028",
        "##\u2028",
    ]
    tokens += [*letters, *("##" + letter for letter in letters)]
    for _ in range(1500):
        body = "".join(rng.choices(letters, k=rng.randint(2, 5)))
        tokens.append(rng.choice(["", "##"]) + body)
    return list(dict.fromkeys(tokens))


VOCABULARY = make_vocabulary()
IDS = {token: number for number, token in enumerate(VOCABULARY)}
LETTERS = sorted({c for token in VOCABULARY if token[0] != "[" for c in token} | set(" .Σ\u200b\u0301\u3000가각Aİ"))


def ours(lower=True, strip=None, han=True, never_split=(), vocab=VOCABULARY, **options) -> BertTokenizer:
    return BertTokenizer(
        vocab,
        do_lower_case=lower,
        strip_accents=strip,
        tokenize_chinese_chars=han,
        never_split=never_split,
        **options,
    )


def words_fuzz(count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choices(LETTERS, k=rng.randint(1, 16))) for _ in range(count)]


def rows(tokenizer, texts, **options):
    return tokenizer(texts, add_special_tokens=False, **options)["input_ids"]


def assert_equal_ids(tokenizer, reference, texts):
    __tracebackhide__ = True
    got = rows(tokenizer, texts)
    for text, ids in zip(texts, got, strict=True):
        assert ids == reference.ids(text), repr(text)


LONG = [
    letter * size
    for letter in ("a", "各", "각", "х", "a\u200b")
    for size in (66, 67, 99, 100, 101, 200, 201, 255, 257, 600)
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_awkward_strings_fuzz_and_long_words_give_the_ids_of_the_reference(mode, engine):
    texts = [*AWKWARD, "".join(AWKWARD), " ".join(AWKWARD), *LONG, "x [MASK] a.b", "[MA\u200bSK]", *fuzz(700, 11)]
    texts += words_fuzz(2500, 12)
    assert_equal_ids(ours(**mode), Reference(IDS, **mode), texts)


def test_twenty_thousand_fuzz_strings_give_the_ids_of_the_reference(engine):
    texts = fuzz(8_000, seed=21) + words_fuzz(12_000, seed=22)
    assert_equal_ids(ours(), Reference(IDS), texts)


@pytest.mark.slow
def test_a_million_fuzz_strings_give_the_ids_of_the_reference():
    for lower in (True, False):
        tokenizer, reference = ours(lower), Reference(IDS, lower=lower)
        for seed in range(25):
            assert_equal_ids(tokenizer, reference, fuzz(8_000, seed=seed) + words_fuzz(12_000, seed=100 + seed))
            reference.seen.clear()


@pytest.mark.parametrize("context", CONTEXTS[:3])
def test_every_assigned_code_point_gives_the_ids_of_the_reference(context, engine):
    texts = [context.format(chr(code)) for codes in WHERE_CHARACTERS_ARE for code in codes]
    assert_equal_ids(ours(), Reference(IDS), texts)


@pytest.mark.slow
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_code_point_gives_the_ids_of_the_reference_in_every_context(context, lower):
    tokenizer, reference = ours(lower), Reference(IDS, lower=lower)
    for first in range(0, sys.maxunicode + 1, 1 << 16):
        assert_equal_ids(tokenizer, reference, [context.format(chr(code)) for code in range(first, first + (1 << 16))])


@pytest.mark.parametrize("name", ["bert-base-chinese", "bert-base-uncased"])
@pytest.mark.parametrize("lower", [True, False])
def test_real_texts_in_twenty_six_scripts_give_the_ids_of_the_reference(shared_data, name, lower, engine):
    tokenizer = ours(lower, vocab=shared_data / "vocab" / f"{name}.txt")
    reference = Reference(dict(tokenizer.vocab), lower=lower)
    texts = (shared_data / "multilingual_sample.txt").read_text("utf-8").split("\n")[:: 4 if lower else 12]
    texts += (shared_data / "thucnews45k" / "dev.txt").read_text("utf-8").split("\n")[:1000]
    assert_equal_ids(tokenizer, reference, texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-base-chinese", "bert-base-uncased"])
def test_all_real_texts_and_code_points_give_the_ids_of_the_reference(shared_data, name):
    tokenizer = ours(vocab=shared_data / "vocab" / f"{name}.txt")
    reference = Reference(dict(tokenizer.vocab))
    files = [shared_data / "multilingual_sample.txt", *sorted(shared_data.glob("*/*.txt"))]
    for path in files:
        assert_equal_ids(tokenizer, reference, path.read_text("utf-8").split("\n"))
    for first in range(0, sys.maxunicode + 1, 1 << 16):
        assert_equal_ids(tokenizer, reference, [f"a{chr(code)}b" for code in range(first, first + (1 << 16))])
    assert_equal_ids(tokenizer, reference, fuzz(20_000, 5))


def test_spans_index_the_original_text_through_everything_that_moves_characters(engine):
    tokenizer = ours(vocab=["[UNK]", "e", "##b", "中", "\u1112", "##\u1161", "##\u11ab", ".", "α", "##ς", "="])
    text = "\ufeffÉ\u200bb中\u0301한 ΑΣ.≠"
    tokens = tokenizer.tokenize(text)
    spans = tokenizer([text], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"][0]
    assert list(zip(tokens, spans, strict=True)) == [
        ("e", (1, 2)),
        ("##b", (3, 4)),
        ("中", (4, 5)),
        ("\u1112", (6, 7)),
        ("##\u1161", (6, 7)),
        ("##\u11ab", (6, 7)),
        ("α", (8, 9)),
        ("##ς", (9, 10)),
        (".", (10, 11)),
        ("=", (11, 12)),
    ]


def test_canonical_reordering_swaps_ids_and_keeps_their_spans(engine):
    tokenizer = ours(vocab=["[UNK]", "a", "##\U0001d165", "##\U0001d16d"])
    encoding = tokenizer(["a\U0001d16d\U0001d165"], add_special_tokens=False, return_offsets_mapping=True)
    assert encoding["input_ids"] == [[0, 1, 2, 3][1:]]
    assert encoding["offset_mapping"] == [[(0, 1), (2, 3), (1, 2)]]


def test_the_word_limit_counts_folded_characters(engine):
    vocab = ["[UNK]", "a", "##a", "\u1112", "##\u1112", "##\u1161", "##\u11ab"]
    for compat, limit in (("google", 200), ("hf", 100)):
        tokenizer = ours(vocab=vocab, compat=compat)
        fits, too_long = rows(tokenizer, ["a" * limit, "a" * (limit + 1)] * 20)[:2]
        assert (len(fits), too_long) == (limit, [0])
        syllables = limit // 3
        fits, too_long = rows(tokenizer, ["한" * syllables, "한" * (syllables + 1)] * 20)[:2]
        assert (len(fits), too_long) == (3 * syllables, [0])


def test_compat_hf_matches_special_tokens_and_drops_private_use(engine):
    google, hf = ours(), ours(compat="hf")
    assert google.tokenize("a[MASK]b a\ue000b")[1:4] != ["[MASK]", "b", "a"]
    assert hf.tokenize("a[MASK]b")[1] == "[MASK]"
    assert hf.tokenize("a\ue000b") == hf.tokenize("ab") != google.tokenize("a\ue000b")
    many = ["a[MASK]b a\ue000b", "[MASK]", "[CLS] [SEP]x"] * 30
    assert rows(hf, many) == [hf.encode(text, add_special_tokens=False) for text in many]
    spans = hf(["éa[MASK]"], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"][0]
    assert spans[-1] == (2, 8)


def test_google_wordpiece_examples(engine):
    vocab = ["[UNK]", "[CLS]", "[SEP]", "want", "##want", "##ed", "wa", "un", "runn", "##ing"]
    tokenizer = ours(vocab=vocab)
    assert tokenizer.tokenize("") == []
    assert tokenizer.tokenize("unwanted running") == ["un", "##want", "##ed", "runn", "##ing"]
    assert tokenizer.tokenize("unwantedX running") == ["[UNK]", "runn", "##ing"]
    full = ours(vocab=["[UNK]", "[CLS]", "[SEP]", "want", "##want", "##ed", "wa", "un", "runn", "##ing", ","])
    assert full.encode("UNwant\u00e9d,running", add_special_tokens=False) == [7, 4, 5, 10, 8, 9]


def test_without_chinese_splitting_a_second_han_continues_the_word(engine):
    tokenizer = ours(vocab=["[UNK]", "中", "##中", "国", "##国"], han=False)
    assert tokenizer.tokenize("中国") == ["中", "##国"]
    assert rows(tokenizer, ["中国"] * 30)[0] == [1, 4]
