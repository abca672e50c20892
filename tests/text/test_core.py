"""The compiled core beside the readable path: equal ids and spans, whatever the texts, options and threads."""

import concurrent.futures
import pickle
import random
import subprocess
import sys

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.test_basic import ALPHABET, AWKWARD, MODES, WHERE_CHARACTERS_ARE, fuzz
from tests.text.test_ids import IDS, LETTERS, LONG, VOCABULARY, ours, words_fuzz

from linkboy import BertTokenizer
from linkboy._compiled import core
from linkboy.text import AddedToken
from linkboy.text._flat import MARK
from linkboy.text._pages import ALONE, LETTER, PUNCTUATION, SEVERAL, SIZE, make_page

pytestmark = pytest.mark.usefixtures("compiled")
PAGE = make_page(ours().rules, 0)


def assert_as_read(tokenizer, texts):
    """Hold ids, spans and lists of the core to what the readable path says."""
    __tracebackhide__ = True
    engine = tokenizer._encoder._plain
    flat, lists = engine.encode(texts, spans=True), engine.lists(texts)
    assert engine.encode(texts).ids.tolist() == flat.ids.tolist()
    for text, begin, end, ids in zip(texts, flat.begin.tolist(), flat.end.tolist(), lists, strict=True):
        pieces = engine.reader.read(text)
        assert flat.ids[begin] == flat.ids[end] == MARK
        assert flat.ids[begin + 1 : end].tolist() == ids == [piece[0] for piece in pieces], repr(text)
        assert [tuple(span) for span in flat.spans[begin + 1 : end].tolist()] == [p[1:] for p in pieces], repr(text)


@pytest.mark.parametrize("compat", ["google", "hf"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_ids_and_spans_are_those_of_the_readable_path(mode, compat):
    texts = [*AWKWARD, "".join(AWKWARD), " ".join(AWKWARD), *LONG, "x [MASK] a.b", *fuzz(150, 3), *words_fuzz(300, 4)]
    assert_as_read(ours(**mode, compat=compat), texts)


@pytest.mark.parametrize("limit", [1, 2, 7, 10**9])
def test_any_limit_of_a_word_cuts_as_the_readable_path(limit):
    assert_as_read(ours(max_input_chars_per_word=limit), [*AWKWARD, *LONG[:12], *words_fuzz(300, 5)])


@pytest.mark.parametrize("context", ["a{}b", "Α{}Σ{}"])
def test_every_assigned_code_point_has_the_spans_of_the_readable_path(context):
    codes = [code for some in WHERE_CHARACTERS_ARE for code in some][:: 7 if context == "a{}b" else 23]
    assert_as_read(ours(), [context.format(chr(code), chr(code)) for code in codes])


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_code_point_has_the_ids_and_spans_of_the_readable_path(mode):
    tokenizer = ours(**mode)
    for first in range(0, sys.maxunicode + 1, 1 << 14):
        assert_as_read(tokenizer, [f"a{chr(code)}b" for code in range(first, first + (1 << 14))])


def test_marks_that_stay_are_put_in_canonical_order():
    rng = random.Random(1)
    marks = "\u302e\u302f\U0001d165\U0001d166\U0001d16d\u094d\u0301\u0323\u200d\u1dce\u0344.ae"
    vocab = ["[UNK]", *(mark for mark in marks), *("##" + mark for mark in marks)]
    assert_as_read(ours(vocab=vocab), ["".join(rng.choices(marks, k=rng.randint(1, 9))) for _ in range(3000)])


@given(st.lists(st.text(st.sampled_from(LETTERS + ALPHABET), max_size=30), max_size=6), st.booleans())
def test_any_batch_has_the_ids_and_spans_of_the_readable_path(texts, lower):
    assert_as_read(TOKENIZERS[lower], texts)


TOKENIZERS = {lower: ours(lower) for lower in (True, False)}


@settings(deadline=None)
@given(st.lists(st.text(max_size=20), max_size=4))
def test_any_text_at_all_has_the_ids_and_spans_of_the_readable_path(texts):
    assert_as_read(TOKENIZERS[True], texts)


CALLS = {
    "padding": st.sampled_from([False, True, "max_length"]),
    "truncation": st.booleans(),
    "max_length": st.integers(2, 12),
    "return_tensors": st.sampled_from([None, "np", "pt"]),
    "pad_to_multiple_of": st.sampled_from([None, 4]),
    "padding_side": st.sampled_from(["left", "right"]),
    "add_special_tokens": st.booleans(),
    "return_length": st.booleans(),
    "stride": st.integers(0, 3),
    "return_overflowing_tokens": st.booleans(),
    "return_offsets_mapping": st.booleans(),
}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("ab中 .[MASK]éΣ\u200b"), max_size=12), max_size=5) | st.text(max_size=9),
    st.fixed_dictionaries(CALLS),
)
def test_every_call_answers_as_without_the_core(texts, options):
    made, plain = BOTH
    answers = []
    for tokenizer in (made, plain):
        try:
            encoding = tokenizer(texts, **options)
        except ValueError as error:
            answers.append(str(error))
        else:
            values = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in encoding.items()}
            answers.append((values, [str(getattr(value, "dtype", "")) for value in encoding.values()]))
    assert answers[0] == answers[1]


def both(**options):
    tokenizers = [BertTokenizer(VOCABULARY, **options)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINKBOY_CORE", "0")
        tokenizers.append(BertTokenizer(VOCABULARY, **options))
    return tokenizers


BOTH = both(compat="hf")


@pytest.mark.parametrize("asked", [{}, {"padding": True}, {"return_tensors": "np"}], ids=str)
def test_a_length_that_means_none_is_longer_than_any_text(asked):
    # 1e30 is what files of tokenizers hold where no length was given.
    endless = {"max_length": int(1e30), "truncation": True}
    for tokenizer in [*both(), *both(max_input_chars_per_word=int(1e30))]:
        assert str(tokenizer(["ab", "b."], **asked, **endless)) == str(tokenizer(["ab", "b."], **asked))


FLAGGED = AddedToken("<f>", lstrip=True, rstrip=True)


@pytest.mark.parametrize(
    "options",
    [
        {"compat": "hf"},
        {"added_tokens": [AddedToken("<e>", normalized=False), AddedToken("<e><e>", normalized=False)]},
        {"compat": "hf", "added_tokens": ["<e>", FLAGGED]},
        {"compat": "hf", "added_tokens": [AddedToken("foo", special=True)]},
        {"compat": "hf", "never_split": ["a.b"]},
    ],
    ids=str,
)
def test_added_tokens_are_found_as_without_the_core(options):
    made, plain = both(**options)
    rng = random.Random(2)
    parts = [
        "[MASK]",
        "[CLS]",
        "[M",
        "ASK]",
        "<e>",
        "<e",
        "<f>",
        "foo",
        "a.b",
        "a",
        " ",
        "ΑΣ",
        "é",
        "中",
        ".",
        "\u200b",
        "Σ",
    ]
    texts = ["".join(rng.choices(parts, k=rng.randint(1, 8))) for _ in range(600)]
    for asked in ({}, {"return_offsets_mapping": True}, {"truncation": True, "max_length": 6}):
        assert made(texts, **asked) == plain(texts, **asked)
    assert [made.encode(text) for text in texts] == [plain.encode(text) for text in texts]
    assert [made(text).word_ids() for text in texts[:50]] == [plain(text).word_ids() for text in texts[:50]]


def test_threads_that_read_long_texts_at_once_change_nothing():
    texts = words_fuzz(9000, 6) + ["", "[MASK]"] * 100
    expected = ours()._encoder.engine.lists(texts)
    engine = ours()._encoder.engine
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert all(lists == expected for lists in pool.map(engine.lists, [texts] * 6))


def test_a_process_ends_while_a_daemon_thread_is_in_the_core():
    program = """
import threading, time
from linkboy import BertTokenizer
engine = BertTokenizer(["[UNK]", "a"])._encoder.engine
def work():
    while True:
        engine.encode(["a " * 100_000] * 10)
        begun.set()
begun = threading.Event()
threading.Thread(target=work, daemon=True).start()
begun.wait()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_list_that_is_emptied_while_it_is_read_is_read_whole():
    texts = words_fuzz(9000, 7)
    expected = ours()(texts)["input_ids"]
    tokenizer = ours()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        given_away = ["".join(text) for text in texts]
        reading = pool.submit(tokenizer._encoder.engine.lists, given_away)
        while not reading.done():
            given_away.clear()
    found = reading.result()
    assert [[IDS["[CLS]"], *row, IDS["[SEP]"]] for row in found] == expected[: len(found)]


SMALL = {"a": 0, "[UNK]": 1, "b": 2, "##b": 3, "ab": 4, "##中": 5}


@settings(deadline=None)
@given(
    st.integers(-1, 1 << 33),
    st.binary(min_size=250, max_size=258),
    st.binary(min_size=250, max_size=258),
    st.binary(max_size=2000),
    st.binary(max_size=500),
)
def test_a_page_that_is_no_page_is_refused(number, kinds, lengths, folded, classes):
    encoder = core().Encoder(SMALL, 200, 1)
    with pytest.raises((ValueError, OverflowError)):
        encoder.fill(number, kinds, lengths, folded, classes)
    if number > 0x10FF or len(kinds) != SIZE:
        with pytest.raises((ValueError, OverflowError)):
            encoder.fill_flags(number, kinds)


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(0, 1 << 30))
def test_whatever_the_kinds_of_a_page_say_reading_ends_and_stays_in_bounds(text, seed):
    rng = random.Random(seed)
    kinds = rng.choices([kind for kind in range(10) if kind != SEVERAL], k=SIZE)
    lengths = [
        rng.choice([1, 1, 2, 8]) if kind == LETTER else 1 if kind in (ALONE, PUNCTUATION) else 0 for kind in kinds
    ]
    total = sum(lengths)
    folded = "".join(chr(rng.choice([97, 98, 0x4E2D, 0x10FFFF])) for _ in range(total)).encode("utf-32-le")
    classes = bytes(rng.choice([0, 0, 1, 230]) for _ in range(total))
    encoder = core().Encoder(SMALL, 3, 1)
    encoder.fill_flags(0, bytes(rng.choice([0, 1, 2, 3]) for _ in range(256)))
    encoder.fill(0, bytes(kinds), bytes(lengths), folded, classes)
    found = encoder.flat(["".join(chr(ord(c) & 255) for c in text)] * 3, MARK, MARK, -1, True, False)
    assert type(found) is tuple
    assert len(found[0]) * 2 == len(found[3])


NO_PAGE = "a page needs the kinds and lengths of 256 characters, and all that they fold to"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e.flat("abc", MARK, MARK, -1, False, False), TypeError, "texts must be a list of strings, got str"),
        (lambda e: e.flat(["a", 3], MARK, MARK, -1, False, False), TypeError, "texts must be strings, got int"),
        (lambda e: e.with_literals(["é"], [3]), ValueError, "a literal must begin with an ASCII sign, and have an id"),
        (lambda e: e.with_literals([""], [3]), ValueError, "a literal must begin with an ASCII sign, and have an id"),
        (lambda e: e.fill(1 << 32, *PAGE), ValueError, NO_PAGE),
        (lambda e: e.fill_flags(1 << 32, bytes(SIZE)), ValueError, "a page needs the flags of 256 characters"),
        (lambda e: e.fill(0, bytes([SEVERAL] * SIZE), bytes(SIZE), b"", b""), ValueError, NO_PAGE),
        (lambda e: type(e)({}, 3, 1 << 24), ValueError, "a vocabulary must map strings to ids below 2 ** 24 - 1"),
        (lambda e: type(e)({"a": -1}, 3, 0), ValueError, "a vocabulary must map strings to ids below 2 ** 24 - 1"),
        (lambda e: type(e)({b"a": 1}, 3, 0), ValueError, "a vocabulary must map strings to ids below 2 ** 24 - 1"),
        (lambda e: e.padded(["a"], -1, -1, -1, 0, 1 << 62, 1, False, None), MemoryError, ""),
    ],
)
def test_what_is_not_asked_for_by_its_own_is_refused(call, error, message):
    encoder = core().Encoder({"a": 0}, 3, 0)
    encoder.fill(0, *PAGE)
    with pytest.raises(error) as caught:
        call(encoder)
    assert str(caught.value) == message


def test_words_that_come_again_are_those_of_the_readable_path():
    rng = random.Random(2)
    # Of up to 18 bytes, in one, two and four bytes a character; some with the same bytes, with many pieces, or with none.
    letters = "ab\xe9\u0301\u5bff\u0142\u0100\U0001d400\u03a3"
    words = ["".join(rng.choices(letters[: rng.choice([2, 3, 9])], k=rng.randint(1, 18))) for _ in range(400)]
    words += ["\uac61\uac61", "a\xaca\xac", "ab" * 6, "ba" * 8, "a" * 17]
    vocab = [
        "[UNK]",
        "a",
        "##a",
        "b",
        "##b",
        "##ab",
        "##\xac",
        "e",
        "##e",
        "\u0142",
        "##\u0142",
        "##\u03c2",
        "##\u03c3",
    ]
    tokenizers = [ours(vocab=vocab[:size]) for size in (7, len(vocab))]
    for _ in range(4):
        texts = [" ".join(rng.choices(words, k=40)) for _ in range(20)] + words
        for tokenizer in tokenizers:
            assert_as_read(tokenizer, texts)


def test_each_tensor_of_a_call_has_memory_of_its_own():
    made = BertTokenizer(VOCABULARY)(["a b", "a"], padding=True, return_tensors="pt")
    before = {key: value.tolist() for key, value in made.items()}
    assert [value.dtype for value in made.values()] == [torch.int64] * 3
    for key, value in made.items():
        assert value.is_contiguous()
        assert value.data_ptr() % 64 == 0
        value.fill_(7)
        assert {other: kept.tolist() for other, kept in made.items() if other != key} == {
            other: kept for other, kept in before.items() if other != key
        }
        value.copy_(torch.tensor(before[key]))
    kept = made["input_ids"]
    del made, value
    assert pickle.loads(pickle.dumps(kept)).tolist() == before["input_ids"]


def test_arrays_that_torch_did_not_take_are_freed():
    encoder = core().Encoder({"a": 0}, 3, 0)
    encoder.fill(0, *PAGE)
    row = ["a" * 8], -1, -1, -1, 0, 1 << 20, 1, False, lambda capsule: capsule  # 24 MiB in all
    before = resident()
    for _ in range(50):
        encoder.padded(*row)[2]
    assert resident() - before < 300 << 20
    taken = [torch.utils.dlpack.from_dlpack(capsule) for capsule in encoder.padded(*row)]
    assert [tensor.shape for tensor in taken] == [(1, 1 << 20)] * 3
    assert [int(tensor.sum()) for tensor in taken] == [0, 0, 1]


def resident():
    """Return the bytes of memory of this process."""
    return psutil.Process().memory_info().rss


def test_an_empty_vocabulary_and_one_of_odd_tokens_are_taken():
    assert core().Encoder({}, 3, 0).flat([], MARK, MARK, -1, False, False)[0] == b""
    encoder = core().Encoder({"": 0, "##": 1, "#": 2, "###": 3, "\ud800": 4, "##\U0010ffff": 5}, 3, 0)
    encoder.fill(0, *PAGE)
    assert encoder.lists(["# ### a"], -1, -1, -1)[0] == [[2, 2, 2, 2, 0]]
