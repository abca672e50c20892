"""The call: keys, padding, truncation, pairs, stride, overflow and offsets as transformers has them."""

import itertools
import random

import numpy as np
import pytest
import torch
from tests.text.test_ids import LETTERS, VOCABULARY, words_fuzz

from linkboy import BertTokenizer
from linkboy.text._encoding import Encoding

tokenizers = pytest.importorskip("tokenizers")

LISTS = ("input_ids", "token_type_ids", "attention_mask", "special_tokens_mask")


@pytest.fixture(scope="module")
def ours() -> BertTokenizer:
    return BertTokenizer(VOCABULARY, compat="hf")


@pytest.fixture(scope="module")
def peer(ours, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peer")
    ours.save_pretrained(folder)
    return str(folder / "tokenizer.json")


def texts(count, seed, width=14):
    # Latin, Chinese, Hangul and accents, on which the peer follows the reference.
    rng = random.Random(seed)
    letters = "abcde ab c 中国语豈.,!é각가 한\u0301"
    return ["".join(rng.choices(letters, k=rng.randint(0, width))) for _ in range(count)]


def from_peer(path, first, second=None, *, specials=True, padding=None, **truncation):
    tokenizer = tokenizers.Tokenizer.from_file(path)
    if truncation:
        tokenizer.enable_truncation(**truncation)
    if padding is not None:
        tokenizer.enable_padding(**padding)
    inputs = first if second is None else list(zip(first, second, strict=True))
    return tokenizer.encode_batch(inputs, add_special_tokens=specials)


def assert_same(encoding, peers):
    assert encoding["input_ids"] == [one.ids for one in peers]
    assert encoding["token_type_ids"] == [one.type_ids for one in peers]
    assert encoding["attention_mask"] == [one.attention_mask for one in peers]
    assert encoding["special_tokens_mask"] == [one.special_tokens_mask for one in peers]
    assert encoding["offset_mapping"] == [one.offsets for one in peers]


EXTRAS = {"return_offsets_mapping": True, "return_special_tokens_mask": True}


@pytest.mark.parametrize("specials", [True, False])
def test_ids_types_masks_and_offsets_are_those_of_tokenizers(ours, peer, specials):
    first = texts(300, 1)
    assert_same(ours(first, add_special_tokens=specials, **EXTRAS), from_peer(peer, first, specials=specials))
    second = texts(300, 2)
    assert_same(
        ours(first, second, add_special_tokens=specials, **EXTRAS),
        from_peer(peer, first, second, specials=specials),
    )


@pytest.mark.parametrize("max_length", [2, 3, 8, 16, 20, 64])
def test_truncation_of_single_texts_is_that_of_tokenizers(ours, peer, max_length):
    first = [*texts(150, 3, width=30), "", "x" * 300, "中" * 300]
    encoding = ours(first, truncation=True, max_length=max_length, **EXTRAS)
    assert_same(encoding, from_peer(peer, first, max_length=max_length))


@pytest.mark.parametrize("max_length", [3, 4, 5, 8, 13, 40])
def test_truncation_of_pairs_is_that_of_tokenizers(ours, peer, max_length):
    first, second = texts(250, 4, width=24), texts(250, 5, width=24)
    encoding = ours(first, second, truncation="longest_first", max_length=max_length, **EXTRAS)
    assert_same(encoding, from_peer(peer, first, second, max_length=max_length, strategy="longest_first"))


@pytest.mark.parametrize("side", ["only_first", "only_second"])
def test_truncation_of_one_side_is_that_of_tokenizers(ours, peer, side):
    short, long = texts(120, 6, width=5), texts(120, 7, width=40)
    first, second = (long, short) if side == "only_first" else (short, long)
    encoding = ours(first, second, truncation=side, max_length=20, **EXTRAS)
    assert_same(encoding, from_peer(peer, first, second, max_length=20, strategy=side))


@pytest.mark.parametrize(("max_length", "stride"), [(6, 0), (6, 1), (6, 3), (12, 5), (200, 5)])
def test_overflow_of_single_texts_is_that_of_tokenizers(ours, peer, max_length, stride):
    first = texts(80, 8, width=40)
    encoding = ours(
        first, truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True, **EXTRAS
    )
    peers = from_peer(peer, first, max_length=max_length, stride=stride)
    sample = [index for index, one in enumerate(peers) for _ in range(1 + len(one.overflowing))]
    assert encoding["overflow_to_sample_mapping"] == sample
    assert_same(encoding, [row for one in peers for row in (one, *one.overflowing)])


@pytest.mark.parametrize("side", ["only_first", "only_second"])
def test_overflow_of_pairs_is_that_of_tokenizers(ours, peer, side):
    short, long = texts(60, 9, width=5), texts(60, 10, width=60)
    first, second = (long, short) if side == "only_first" else (short, long)
    encoding = ours(first, second, truncation=side, max_length=24, stride=4, return_overflowing_tokens=True, **EXTRAS)
    peers = from_peer(peer, first, second, max_length=24, stride=4, strategy=side)
    assert_same(encoding, [row for one in peers for row in (one, *one.overflowing)])


@pytest.mark.parametrize("padding", [{}, {"length": 30}, {"pad_to_multiple_of": 8}])
def test_padding_is_that_of_tokenizers(ours, peer, padding):
    first = texts(40, 11)
    arguments = {"padding": True, "pad_to_multiple_of": padding.get("pad_to_multiple_of")}
    if "length" in padding:
        arguments = {"padding": "max_length", "max_length": padding["length"]}
    encoding = ours(first, **arguments, **EXTRAS)
    assert_same(encoding, from_peer(peer, first, padding={"pad_id": 0, "pad_token": "[PAD]", **padding}))


def test_real_headlines_and_questions_agree_with_tokenizers(shared_data):
    vocab = shared_data / "vocab" / "bert-base-chinese.txt"
    heads = (shared_data / "thucnews45k" / "dev.txt").read_text("utf-8").split("\n")[:3000]
    peer = tokenizers.BertWordPieceTokenizer(tokenizers.models.WordPiece.read_file(str(vocab)), lowercase=True)
    for max_length in (8, 16, 512):
        peer.enable_truncation(max_length)
        encoding = BertTokenizer(vocab, compat="hf")(heads, truncation=True, max_length=max_length, **EXTRAS)
        assert_same(encoding, peer.encode_batch(heads))


def test_every_return_type_holds_the_same_rows(ours):
    first = texts(50, 12)
    lists = ours(first, padding=True, return_special_tokens_mask=True)
    arrays = ours(first, padding=True, return_tensors="np", return_special_tokens_mask=True)
    tensors = ours(first, padding=True, return_tensors="pt", return_special_tokens_mask=True)
    assert list(lists) == list(arrays) == list(tensors) == list(LISTS)
    for key in LISTS:
        assert arrays[key].tolist() == tensors[key].tolist() == lists[key]
        assert (arrays[key].dtype, tensors[key].dtype) == (np.int64, torch.int64)
    ragged = ours(first)["input_ids"]
    flat = ours(first, return_tensors="flat")
    assert (flat.input_ids.dtype, flat.row_splits.dtype) == (torch.int64, torch.int32)
    bounds = flat.row_splits.tolist()
    assert [flat.input_ids[a:b].tolist() for a, b in itertools.pairwise(bounds)] == ragged


def test_flat_pairs_carry_types_masks_offsets_and_samples(ours):
    first, second = texts(20, 13), texts(20, 14, width=40)
    options = {"truncation": "only_second", "max_length": 24, "return_overflowing_tokens": True, **EXTRAS}
    lists, flat = ours(first, second, **options), ours(first, second, return_tensors="flat", **options)
    for key in ("input_ids", "token_type_ids", "special_tokens_mask"):
        assert flat[key].tolist() == [value for row in lists[key] for value in row]
    assert [tuple(span) for span in flat.offset_mapping.tolist()] == [s for row in lists["offset_mapping"] for s in row]
    assert flat.overflow_to_sample_mapping.tolist() == lists["overflow_to_sample_mapping"]


def test_a_small_batch_and_a_large_one_give_the_same_rows(ours):
    many = words_fuzz(300, 15)
    rows = ours(many)["input_ids"]
    assert [ours(text)["input_ids"] for text in many] == rows
    assert [row for i in range(0, 300, 3) for row in ours(many[i : i + 3])["input_ids"]] == rows
    assert [ours.encode(text) for text in many] == rows


def test_single_text_gives_plain_lists_and_tensors_of_one_row(ours):
    single = ours("中 ab", **EXTRAS)
    assert isinstance(single["input_ids"][0], int)
    assert isinstance(single["offset_mapping"][1], tuple)
    assert ours("中 ab", return_tensors="pt")["input_ids"].shape == (1, len(single["input_ids"]))
    overflow = ours("中" * 9, truncation=True, max_length=5, return_overflowing_tokens=True)
    assert len(overflow["input_ids"]) == 3


@pytest.mark.parametrize("tensors", [None, "np", "pt", "flat"])
def test_nothing_to_tokenize_gives_empty_rows(ours, tensors):
    pad = tensors in ("np", "pt")
    empty = ours([], padding=pad, return_tensors=tensors)
    assert len(empty["input_ids"]) == 0
    if pad:
        assert empty["input_ids"].shape == (0, 0)
    for text in ("", " \u200b\ufffd ", "\u3000", b""):
        assert ours(text)["input_ids"] == [2, 3]
        assert ours([text] * 40)["input_ids"] == [[2, 3]] * 40
    assert ours([""], add_special_tokens=False, padding=True, return_tensors="np")["input_ids"].shape == (1, 0)


def test_padding_without_truncation_leaves_long_rows_whole(ours):
    encoding = ours(["中" * 9, "中"], padding="max_length", max_length=5)
    assert [len(row) for row in encoding["input_ids"]] == [11, 11]


def test_model_max_length_stands_in_for_max_length():
    tokenizer = BertTokenizer(VOCABULARY, model_max_length=6)
    assert len(tokenizer("中" * 9, truncation=True)["input_ids"]) == 6
    assert tokenizer(["中"], padding="max_length", return_tensors="pt")["input_ids"].shape == (1, 6)


def test_an_encoding_is_a_dict_with_attributes_that_moves_to_a_device(ours):
    encoding = ours(["中"], return_tensors="pt")
    assert dict(**encoding)["input_ids"] is encoding.input_ids
    assert encoding.to("meta").input_ids.device.type == "meta"
    assert Encoding(names=["a"]).to("cpu") == {"names": ["a"]}
    with pytest.raises(AttributeError) as caught:
        encoding.labels
    assert str(caught.value) == "no key 'labels' here, only ['input_ids', 'token_type_ids', 'attention_mask']"


def test_bytes_and_strings_mix_in_a_batch(ours):
    assert ours(["中国", "中国".encode() + b"\xff"])["input_ids"] == [ours.encode("中国")] * 2


def test_decode_writes_chinese_without_spaces_and_latin_with():
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"北京，。是中国的2", "bert", "##s", "is", "(", "ok", ")", ",", "."]
    tokenizer = BertTokenizer(vocab)
    text = "北京，是berts (ok), is ok.中国"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == "北京，是 berts ( ok ), is ok.中国"
    assert tokenizer.decode(torch.tensor(ids)) == tokenizer.decode(ids)
    assert tokenizer.decode(ids, spaces=True) == "北 京 ， 是 berts ( ok ), is ok. 中 国"
    assert tokenizer.decode(ids, spaces=False) == "北京，是berts(ok),isok.中国"
    assert tokenizer.decode([2, 1, 3, 0, 0]) == "[UNK]"
    assert tokenizer.decode([2, 1, 3], skip_special_tokens=False, spaces=True) == "[CLS] [UNK] [SEP]"
    assert tokenizer.decode([]) == ""


def test_decode_of_headlines_gives_the_headline_back(shared_data):
    tokenizer = BertTokenizer(shared_data / "vocab" / "bert-base-chinese.txt")
    lines = (shared_data / "thucnews45k" / "dev.txt").read_text("utf-8").split("\n")
    han = [line for line in lines if line and all("\u4e00" <= c <= "\u9fff" for c in line.split("\t")[0])]
    han = [line.split("\t")[0] for line in han]
    assert len(han) > 300
    for text in han:
        decoded = tokenizer.decode(tokenizer.encode(text))
        assert decoded == text or "[UNK]" in decoded


def test_the_ids_of_special_tokens_have_the_names_that_training_code_asks_for():
    tokenizer = BertTokenizer({"[MASK]": 9, "[UNK]": 4, "[CLS]": 7, "[SEP]": 2, "[PAD]": 5, "a": 0})
    names = ("pad_token_id", "unk_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    assert [getattr(tokenizer, name) for name in names] == [5, 4, 7, 2, 9]
    assert [getattr(BertTokenizer(["a", "[UNK]"]), name) for name in names] == [None, 1, None, None, None]


def test_tokens_and_ids_convert_into_each_other_one_or_many():
    tokenizer = BertTokenizer(["[UNK]", "a", "##b"])
    assert tokenizer.convert_tokens_to_ids("a") == 1
    assert tokenizer.convert_tokens_to_ids(["a", "##b", "zz"]) == [1, 2, 0]
    assert tokenizer.convert_ids_to_tokens(2) == "##b"
    assert tokenizer.convert_ids_to_tokens(torch.tensor(2)) == "##b"
    for ids in ([1, 2], np.array([1, 2]), torch.tensor([1, 2])):
        assert tokenizer.convert_ids_to_tokens(ids) == ["a", "##b"]
        assert tokenizer.decode(ids) == "ab"
    assert tokenizer.convert_ids_to_tokens([]) == tokenizer.convert_tokens_to_ids([]) == []


def test_explain_accounts_for_every_character():
    tokenizer = BertTokenizer(["[UNK]", "na", "##ive", "中", "."])
    report = tokenizer.explain(["na\u200bïve\u0301 中x\ufffd.", "\t"])
    assert [(r.text_index, r.start, r.end, r.token, r.characters) for r in report.rows] == [
        (0, 0, 2, "na", "na"),
        (0, 3, 6, "##ive", "ïve"),
        (0, 8, 9, "中", "中"),
        (0, 9, 10, "[UNK]", "x"),
        (0, 11, 12, ".", "."),
    ]
    assert [(d.index, d.code_point) for d in report.dropped] == [(2, "U+200B"), (6, "U+0301"), (10, "U+FFFD")]
    assert (report.character_count, report.unknown_share) == (13, 0.2)
    assert report.to_dict()["unknown_share"] == 0.2
    assert "ZERO WIDTH SPACE, category Cf" in str(report)
    assert "and 60 more" in str(tokenizer.explain(["中" * 100]))
    covered = tokenizer.explain(["".join(LETTERS)])
    spans = {i for row in covered.rows for i in range(row.start, row.end)} | {d.index for d in covered.dropped}
    assert {i for i, c in enumerate(LETTERS) if not c.isspace()} <= spans


def bad_calls():
    small = BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])
    bare = BertTokenizer(["[UNK]", "a"])
    long = ["a " * 9, "a " * 8]
    ends = "needs the token"
    return [
        (lambda: small(["a", None]), "text[1] must be str or bytes, got NoneType"),
        (lambda: small(None), "text must be a text or a list of texts, got NoneType"),
        (lambda: small(["a"], ["a", "b"]), "text_pair must have as many texts as text, 1, got 2"),
        (lambda: small(["a"], ["a", 1][1:]), "text_pair[0] must be str or bytes, got int"),
        (lambda: small("a", ["a"]), "text and text_pair must both be one text or both be lists of texts"),
        (
            lambda: small("a", truncation=True),
            "truncation=True needs max_length, as this tokenizer has no model_max_length",
        ),
        (
            lambda: small("a", padding="max_length"),
            "padding='max_length' needs max_length, as this tokenizer has no model_max_length",
        ),
        (
            lambda: small("a", max_length=5),
            "max_length=5 has no effect without truncation=True or padding='max_length'",
        ),
        (
            lambda: small("a", truncation=True, max_length=1),
            "max_length must leave room for the 2 special tokens [CLS] and [SEP], got 1",
        ),
        (
            lambda: small("a", "a", truncation=True, max_length=2),
            "max_length must leave room for the 3 special tokens [CLS], [SEP] and [SEP], got 2",
        ),
        (lambda: small("a", truncation=True, max_length=0), "max_length must be an integer of at least 1, got 0"),
        (lambda: small("a", truncation="only_second", max_length=5), "truncation='only_second' needs a text_pair"),
        (lambda: small("a", truncation="longest", max_length=5), CHOICES.format("truncation", "'longest'")),
        (lambda: small("a", stride=2), "stride=2 has no effect without return_overflowing_tokens=True"),
        (lambda: small("a", stride=-1), "stride must be an integer of at least 0, got -1"),
        (
            lambda: small("a", return_overflowing_tokens=True),
            "return_overflowing_tokens=True needs truncation: without it no text overflows",
        ),
        (
            lambda: small(long, truncation=True, max_length=5, stride=3, return_overflowing_tokens=True),
            "stride must be below the 3 tokens of the text that fit into max_length=5, got 3",
        ),
        (
            lambda: small(long, long, truncation=True, max_length=9, return_overflowing_tokens=True),
            "return_overflowing_tokens=True with pairs needs truncation='only_first' or 'only_second', got "
            "'longest_first': which text flows over would differ from row to row",
        ),
        (
            lambda: small(["a", *long], ["a", *long], truncation="only_first", max_length=9),
            "truncation='only_first' cannot bring pair 1 to max_length=9: the other text alone is too long",
        ),
        (lambda: small("a", pad_to_multiple_of=8), "pad_to_multiple_of=8 has no effect without padding"),
        (
            lambda: small("a", padding=True, pad_to_multiple_of=0),
            "pad_to_multiple_of must be an integer of at least 1 and of at most 16777216, got 0",
        ),
        (
            lambda: small("a", padding="max_length", max_length=10**9),
            "padding='max_length' needs max_length of at most 16777216, got 1000000000: "
            "padding=True pads to the longest row",
        ),
        (
            lambda: small("a", padding=True, pad_to_multiple_of=10**9),
            "pad_to_multiple_of must be an integer of at least 1 and of at most 16777216, got 1000000000",
        ),
        (lambda: small({"a", "b"}), "text must be a text or a list of texts, got set"),
        (lambda: small({"a": 1}), "text must be a text or a list of texts, got dict"),
        (
            lambda: small.decode([[1]]),
            "ids must be one row of whole numbers, got a list in it; batch_decode takes many rows",
        ),
        (lambda: small.decode(1), "ids must be a list or a 1-D tensor of ids, got int"),
        (lambda: small.decode(torch.tensor(1)), "ids must be a list or a 1-D tensor of ids, got i64[]"),
        (lambda: small.token_to_id(["a"]), "token must be a string, got list"),
        (lambda: small("a", add_special_tokens=None), "add_special_tokens must be True or False, got None"),
        (lambda: small("a", return_offsets_mapping="no"), "return_offsets_mapping must be True or False, got 'no'"),
        (lambda: small("a", return_special_tokens_mask=2), "return_special_tokens_mask must be True or False, got 2"),
        (lambda: small("a", return_overflowing_tokens=2), "return_overflowing_tokens must be True or False, got 2"),
        (lambda: small.id_to_token(1.0), "id must be a whole number, got 1.0"),
        (lambda: small.convert_ids_to_tokens([5]), "id must be one of the vocabulary's, from 0 to 4, got 5"),
        (lambda: small.convert_tokens_to_ids(["a", 3]), "tokens must be a string or a list of them, got int"),
        (lambda: small.convert_tokens_to_ids(3), "tokens must be a string or a list of them, got int"),
        (
            lambda: small("a", padding=True, return_tensors="flat"),
            "padding has no effect with return_tensors='flat', whose rows are not padded",
        ),
        (
            lambda: small(long, return_tensors="pt"),
            "return_tensors='pt' needs rows of one length, got 10 to 11: pass padding=True, or return_tensors='flat'",
        ),
        (
            lambda: small("a", return_tensors="tf"),
            "return_tensors must be one of (None, 'pt', 'np', 'flat', 'flat_np'), got 'tf'",
        ),
        (lambda: bare("a"), f"add_special_tokens=True {ends} [CLS] in the vocabulary"),
        (lambda: bare.encode("a"), f"add_special_tokens=True {ends} [CLS] in the vocabulary"),
        (lambda: bare("a", add_special_tokens=False, padding=True), f"padding {ends} [PAD] in the vocabulary"),
        (lambda: small.decode([7]), "id must be one of the vocabulary's, from 0 to 4, got 7"),
        (lambda: small.decode([1], spaces="no"), "spaces must be one of ('auto', True, False), got 'no'"),
        (lambda: small.explain([1]), "texts[0] must be str or bytes, got int"),
    ]


CHOICES = "{} must be one of (False, 'do_not_truncate', True, 'longest_first', 'only_first', 'only_second'), got {}; did you mean 'longest_first'?"  # noqa: E501


@pytest.mark.parametrize(("call", "message"), bad_calls())
def test_bad_calls_say_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message
