"""A call that is like the one before it: the same as of a tokenizer that was just made, whatever changed in between."""

import concurrent.futures
import random

import pytest
from tests.text.test_call import texts
from tests.text.test_ids import VOCABULARY

from linkboy import BertTokenizer
from linkboy._compiled import core

PLAIN = {"padding": True, "return_tensors": "pt"}
OPTIONS = [
    PLAIN,
    PLAIN | {"add_special_tokens": False},
    PLAIN | {"truncation": True, "max_length": 5},
    PLAIN | {"padding_side": "left", "pad_to_multiple_of": 8},
    PLAIN | {"return_token_type_ids": False},
    PLAIN | {"return_attention_mask": False, "return_length": True},
    {"padding": "max_length", "max_length": 300, "return_tensors": "pt"},
    {"padding": "max_length", "max_length": 9, "truncation": True, "return_tensors": "np"},
    {"return_tensors": "flat_np"},
    {"return_tensors": "flat", "truncation": True, "max_length": 4, "return_length": True},
    {"return_tensors": "flat", "add_special_tokens": False},
    {"truncation": True, "max_length": 6},
    {},
]


def new() -> BertTokenizer:
    return BertTokenizer(VOCABULARY, compat="hf")


def plain(encoding):
    return {
        key: (value.dtype, value.tolist()) if hasattr(value, "tolist") else value for key, value in encoding.items()
    }


def assert_alike(made, expected):
    assert type(made) is type(expected)
    assert list(made) == list(expected)
    assert plain(made) == plain(expected)
    for row in range(len(expected["input_ids"]) if "row_splits" not in expected else 0):
        assert made.tokens(row) == expected.tokens(row)
        assert made.word_ids(row) == expected.word_ids(row)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_of_many_calls_gives_what_a_new_tokenizer_gives(options):
    used = new()
    for seed in range(8):
        batch = texts(6, seed, width=14 if seed < 5 else 400)
        assert_alike(used(batch, **options), new()(batch, **options))


def test_calls_that_take_turns_do_not_mix():
    used, rng = new(), random.Random(0)
    for seed in range(60):
        options, batch = rng.choice(OPTIONS), texts(4, seed)
        assert_alike(used(batch, **options), new()(batch, **options))


@pytest.mark.parametrize("given", ["a b", ["a b"], ["a", b"b"], ["中 \U0001d7ff é", "a"], [["a", "b"]], ("a", "b")])
@pytest.mark.parametrize("pairs", [False, True])
def test_a_call_may_give_other_kinds_of_texts_than_the_one_before(given, pairs):
    used, arguments = new(), (given, given) if pairs and given != [["a", "b"]] else (given,)
    used(["a"], **PLAIN), used(["a"], **PLAIN)
    assert_alike(used(*arguments, **PLAIN), new()(*arguments, **PLAIN))


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: setattr(tokenizer, "padding_side", "left"),
        lambda tokenizer: setattr(tokenizer, "truncation_side", "left"),
        lambda tokenizer: setattr(tokenizer, "model_max_length", 4),
        lambda tokenizer: setattr(tokenizer, "model_input_names", ["input_ids"]),
        lambda tokenizer: tokenizer.add_tokens(["<e>"]),
        lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "a", "cls_token": "<e>"}),
    ],
)
def test_a_change_of_the_tokenizer_shows_in_the_next_call(change):
    options = PLAIN | {"truncation": True}
    used, expected = new(), new()
    for tokenizer in (used, expected):
        tokenizer.model_max_length = 6
    batch = ["a b c d <e> e a b c", "a"]
    used(batch, **options), used(batch, **options)
    change(used), change(expected)
    assert_alike(used(batch, **options), expected(batch, **options))


def test_an_option_that_is_only_equal_is_not_the_same():
    used = new()
    used(["a"], **PLAIN), used(["a"], **PLAIN)
    with pytest.raises(TypeError, match=r"^return_attention_mask must be True or False, got 1$"):
        used(["a"], **PLAIN, return_attention_mask=1)


@pytest.mark.parametrize("given", [3, ["a", 3], {"a": 1}, None, ["a", None], [[1]]])
def test_what_is_no_text_is_refused_as_in_a_first_call(given):
    used = new()
    used(["a"], **PLAIN), used(["a"], **PLAIN)
    with pytest.raises(TypeError) as first:
        new()(given, **PLAIN)
    with pytest.raises(TypeError) as later:
        used(given, **PLAIN)
    assert str(later.value) == str(first.value)


def test_texts_that_the_caller_changes_afterwards_leave_the_details_alone():
    used, batch = new(), ["a b", "c"]
    for _ in range(3):
        batch[:] = ["a b", "c"]
        made = used(batch, **PLAIN)
        batch[0] = "d d d d d"
        assert made.tokens(0) == ["[CLS]", "a", "b", "[SEP]"]


def test_each_call_has_tensors_of_its_own():
    used, batch = new(), ["a b", "a"]
    first, *others = [used(batch, **PLAIN) for _ in range(4)]
    kept = plain(first)
    for other in others:
        for value in other.values():
            value.fill_(7)
    assert plain(first) == kept
    assert plain(used(batch, **PLAIN)) == kept


def test_threads_share_a_tokenizer_whose_calls_differ():
    used, expected = new(), {str(o): new()(["a b c d e a b", "中"], **o) for o in OPTIONS}

    def calls(seed):
        rng = random.Random(seed)
        for _ in range(200):
            options = rng.choice(OPTIONS)
            assert plain(used(["a b c d e a b", "中"], **options)) == plain(expected[str(options)])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(calls, range(4)))


@pytest.mark.usefixtures("compiled")
def test_the_core_refuses_a_plan_that_is_none():
    encoder, asked = core().Encoder({"a": 0}, 3, 0), (1,)
    row = (-1, -1, -1, 0, 0, 1, False)
    names = ("input_ids", None, None, "_details")
    assert encoder.again("a", asked, None) is None
    assert encoder.again("a", (2,), (asked, row, list, names, dict, ())) is None
    assert encoder.again("a", (1, 2), (asked, row, list, names, dict, ())) is None
    assert encoder.again(3, asked, (asked, row, list, names, dict, ())) is None
    for plan in [
        (),
        (asked, row[:6], list, names, dict, ()),
        (asked, row, list, names[:3], dict, ()),
        (1, 2, 3, 4, 5, 6),
    ]:
        with pytest.raises(TypeError):
            encoder.again("a", asked, plan)
    with pytest.raises(TypeError, match=r"^expected 3 arguments, got 1$"):
        encoder.again("a")
