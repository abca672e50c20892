"""Added and special tokens: found in texts as tokenizers finds them, whatever stands around them."""

import copy
import itertools
import pickle
import random
import time

import pytest
from tests.text.test_ids import LETTERS, VOCABULARY, words_fuzz

from linkboy import BertTokenizer
from linkboy.text import AddedToken

tokenizers = pytest.importorskip("tokenizers")

FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
CONTENTS = [
    "[E1]", "[E10]", "<e>", "</e>", "graft", "grafts", "Graft", "É", "ab c", "中", "中国",   "1", "-", "a\tb",
    "Ab", "aB", "_", "\u0301a", "ÀB", "[MASK]", "ß", "e1", "\u200db", "가", "😀",
]  # fmt: skip


def peer_of(added, lower=True, strip=None, han=True):
    """Build the tokenizer of `tokenizers` with the same vocabulary and the same added tokens."""
    vocab = {token: number for number, token in enumerate(VOCABULARY)}
    peer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    peer.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=lower, strip_accents=strip, handle_chinese_chars=han
    )
    peer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    peer.add_special_tokens(special)
    for token in added:
        flags = {name: getattr(token, name) for name in FLAGS}
        peer.add_tokens([tokenizers.AddedToken(token.content, **flags)])
    return peer


def random_tokens(rng, count):
    contents = rng.sample(CONTENTS, count)
    return [
        AddedToken(content, **{name: rng.random() < 0.35 for name in FLAGS})
        for content in contents
        if content != "[MASK]"
    ]


def random_texts(rng, tokens, count):
    """Return texts of added tokens, their parts and variants, and what may stand around them."""
    contents = [token.content for token in tokens] + ["[MASK]", "[CLS]"]
    pieces = [
        *contents,
        *contents,
        *(c.upper() for c in contents),
        *(c[:-1] for c in contents),
        *(f" {c} " for c in contents),
    ]
    # Without what the two libraries read in different ways: the final sigma, and characters newer than the peer's tables.
    pieces += [
        *"ab .,1_é中Aß-",
        "\t",
        "\n",
        "\u3000",
        "\u200b",
        "\u0301",
        "\x1c",
        "\x85",
        "²",
        "가",
        "  ",
        "\u200d",
        "hello",
    ]
    return ["".join(rng.choices(pieces, k=rng.randint(0, 9))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(12))
def test_random_added_tokens_are_found_where_tokenizers_finds_them(seed):
    rng = random.Random(seed)
    tokens = random_tokens(rng, rng.randint(1, 9))
    lower = rng.random() < 0.7
    ours = BertTokenizer(VOCABULARY, compat="hf", do_lower_case=lower)
    for token in tokens:
        ours.add_tokens(token)
    peer = peer_of(tokens, lower)
    texts = random_texts(rng, tokens, 250)
    found = ours(texts, add_special_tokens=False, return_offsets_mapping=True)
    for text, ids, spans, other in zip(
        texts,
        found["input_ids"],
        found["offset_mapping"],
        peer.encode_batch(texts, add_special_tokens=False),
        strict=True,
    ):
        assert (ids, spans) == (other.ids, other.offsets), (text, tokens)
        assert ours.encode(text, add_special_tokens=False) == ids
    for index, other in enumerate(peer.encode_batch(texts, add_special_tokens=False)):
        assert found.word_ids(index) == other.word_ids, (texts[index], tokens)


def test_a_token_with_every_flag_alone_is_found_where_tokenizers_finds_it():
    texts = [
        "a<e>b",
        "a <e> b",
        "  <e>  ",
        "<e>",
        "x<E>",
        "1<e>.",
        "<e><e>",
        " <e> <e> ",
        "_<e>",
        "²<e>²",
        "\u3000<e>\n中",
    ]
    for flags in itertools.product((False, True), repeat=4):
        token = AddedToken("<e>", **dict(zip(FLAGS, flags, strict=False)))
        ours, peer = BertTokenizer(VOCABULARY, compat="hf", added_tokens=[token]), peer_of([token])
        for text in texts:
            other = peer.encode(text, add_special_tokens=False)
            encoding = ours(text, add_special_tokens=False, return_offsets_mapping=True)
            assert (encoding["input_ids"], encoding["offset_mapping"]) == (other.ids, other.offsets), (text, token)


def test_of_tokens_that_begin_alike_the_longest_that_fits_is_found():
    tokenizer = BertTokenizer(VOCABULARY, added_tokens=["graft", "grafts", "grafted on", "gr"])
    first = len(VOCABULARY)
    ids = tokenizer("grafts grafted grafted on gr", add_special_tokens=False)["input_ids"]
    assert ids[0] == first + 1
    assert (ids[1], ids[-1]) == (first, first + 3)
    assert first + 2 in ids


def test_a_thousand_tokens_that_share_beginnings_are_found_and_cost_little():
    words = sorted({"".join(letters) for letters in itertools.product("abcdefghij", repeat=3)})
    tokens = {AddedToken(word + "q" * (number % 3)): 10_000 + number for number, word in enumerate(words)}
    tokenizer = BertTokenizer(VOCABULARY, added_tokens=tokens)
    for token, number in itertools.islice(tokens.items(), 0, None, 97):
        assert number in tokenizer.encode(f"zz {token.content} zz", add_special_tokens=False)
    texts = words_fuzz(300, 3)
    plain = BertTokenizer(VOCABULARY)
    plain(texts), tokenizer(texts)
    start = time.process_time()
    tokenizer(texts, return_tensors="flat_np")
    assert time.process_time() - start < 0.5  # 0.05 s unloaded


def test_tokens_nested_a_hundred_deep_are_found():
    tokens = ["a" * size for size in range(1, 120)]
    tokenizer = BertTokenizer(VOCABULARY, added_tokens=tokens)
    assert tokenizer.encode("a" * 119, add_special_tokens=False) == [tokenizer.token_to_id("a" * 119)]
    assert len(tokenizer.encode("a" * 119 + " " + "a" * 60, add_special_tokens=False)) == 2


def test_texts_that_hold_the_separators_are_cut_right():
    texts = ["".join(map(chr, range(9))) + "<e>", "<e>\x00<e>", "a\x00\x01b", "<e>", "", "\x00<e>"]
    tokenizer = BertTokenizer(VOCABULARY, added_tokens=["<e>"])
    number = tokenizer.token_to_id("<e>")
    counts = [row.count(number) for row in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    assert counts == [1, 2, 0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"^text must leave one of 25 control characters and non-characters unused"):
        tokenizer("".join(map(chr, (*range(9), *range(0x10FFEF, 0x110000)))) + "<e>")


def test_a_token_is_found_in_many_short_texts_and_in_a_long_one(engine):
    tokenizer = BertTokenizer(VOCABULARY, compat="hf", added_tokens=["<e>"])
    many = [f"a {'b' * (n % 5)}<e> [MASK]{'c' * (n % 3)}" for n in range(400)]
    alone = [tokenizer.encode(text, add_special_tokens=False) for text in many]
    assert tokenizer(many, add_special_tokens=False)["input_ids"] == alone
    whole = " ".join(many)
    ids = tokenizer.encode(whole, add_special_tokens=False)
    assert tokenizer([whole] * 3, add_special_tokens=False)["input_ids"] == [ids] * 3


def test_google_splits_mask_and_finds_what_was_added():
    tokenizer = BertTokenizer(VOCABULARY, added_tokens=["[E1]"])
    assert tokenizer.tokenize("[MASK] [E1]")[-1] == "[E1]"
    assert "[MASK]" not in tokenizer.tokenize("[MASK] [E1]")


def test_adding_tokens_gives_the_next_ids_and_says_how_many_are_new():
    tokenizer = BertTokenizer(["[UNK]", "a", "[CLS]", "[SEP]"])
    assert tokenizer.add_tokens("<x>") == 1
    assert tokenizer.add_tokens(["<x>", "a", AddedToken("<y>", special=True)]) == 1
    assert tokenizer.add_tokens([tokenizers.AddedToken("<z>", rstrip=True)], special_tokens=True) == 1
    assert (len(tokenizer), tokenizer.vocab_size) == (7, 4)
    assert tokenizer.get_added_vocab() == {"a": 1, "<x>": 4, "<y>": 5, "<z>": 6}
    assert tokenizer.added_tokens_decoder[6] == AddedToken("<z>", rstrip=True, normalized=True, special=True)
    assert tokenizer.encode("<z>  a<x>") == [2, 6, 1, 4, 3]
    assert tokenizer.decode([4, 5, 6, 1]) == "<x> a"
    assert tokenizer.id_to_token(4) == "<x>"
    assert tokenizer.convert_tokens_to_ids(["<y>", "nowhere"]) == [5, 0]


def test_added_tokens_survive_pickles_and_copies():
    tokenizer = BertTokenizer(
        VOCABULARY, compat="hf", added_tokens=["<x>"], extra_special_tokens=["<y>"], cls_token="中"
    )
    tokenizer.sep_token = None
    texts = ["a<x>b", "<Y><y>[MASK]"]
    for other in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert other(texts, add_special_tokens=False) == tokenizer(texts, add_special_tokens=False)
        assert (other.cls_token, other.sep_token, other.extra_special_tokens) == ("中", None, ["<y>"])
        assert other.get_vocab() == tokenizer.get_vocab()


def test_a_copy_of_a_tokenizer_does_not_change_with_it():
    tokenizer = BertTokenizer(VOCABULARY)
    other = copy.deepcopy(tokenizer)
    tokenizer.add_tokens("<x>")
    assert other.token_to_id("<x>") is None
    assert "<x>" not in other.tokenize("<x>")


def test_special_tokens_take_their_places():
    tokenizer = BertTokenizer(["[UNK]", "[CLS]", "[SEP]", "<s>", "</s>", "a"], compat="hf")
    tokenizer.cls_token, tokenizer.sep_token_id = "<s>", 4
    assert tokenizer.encode("a") == [3, 5, 4]
    assert tokenizer.encode("<s>", add_special_tokens=False) == [3]
    assert tokenizer.add_special_tokens({"pad_token": "<pad>", "extra_special_tokens": ["<e>"]}) == 2
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 6)
    assert tokenizer(["a", "a <e>"], padding=True)["input_ids"] == [[3, 5, 4, 6], [3, 5, 7, 4]]
    assert tokenizer.all_special_tokens == ["[UNK]", "</s>", "<pad>", "<s>", "<e>"]
    assert tokenizer.all_special_ids == [0, 4, 6, 3, 7]
    assert tokenizer.special_tokens_map == {
        "unk_token": "[UNK]", "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>",
    }  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": ["a"]}, replace_extra_special_tokens=False)
    assert tokenizer.additional_special_tokens == ["<e>", "a"]
    assert tokenizer.get_special_tokens_mask([3, 5, 4, 6], already_has_special_tokens=True) == [1, 1, 1, 1]
    assert tokenizer.get_special_tokens_mask([5], [5, 5]) == [1, 0, 1, 0, 0, 1]


def test_tokens_with_names_of_their_own_are_attributes():
    tokenizer = BertTokenizer(VOCABULARY, extra_special_tokens={"entity_token": "<e>"})
    assert (tokenizer.entity_token, tokenizer.entity_token_id) == ("<e>", len(VOCABULARY))
    assert tokenizer.special_tokens_map["entity_token"] == "<e>"
    with pytest.raises(AttributeError, match=r"^BertTokenizer has no attribute 'entitty_token'"):
        tokenizer.entitty_token


def bad_tokens():
    tokenizer = BertTokenizer(["[UNK]", "a", "b"])
    return [
        (lambda: BertTokenizer(["[UNK]"], added_tokens="ab"), "added_tokens must be a list of tokens, got 'ab'"),
        (lambda: BertTokenizer(["[UNK]"], added_tokens=[3]), "added_tokens must be a string or an AddedToken, got 3"),
        (lambda: BertTokenizer(["[UNK]"], added_tokens=[""]), "added_tokens must not hold an empty token"),
        (lambda: BertTokenizer(["[UNK]"], cls_token=3), "cls_token must be a string or an AddedToken, got 3"),
        (
            lambda: BertTokenizer(["[UNK]", "a"], added_tokens={"x": 1}),
            "added token 'x' must have an id of its own, 1 is that of 'a'",
        ),
        (
            lambda: BertTokenizer(["[UNK]", "a"], added_tokens={"a": 7}),
            "added token 'a' must have the id that it has in the vocabulary, 1, got 7",
        ),
        (
            lambda: BertTokenizer(["[UNK]"], added_tokens={"x": -1}),
            "added token 'x' must have an id from 0 to 16777214, got -1",
        ),
        (
            lambda: BertTokenizer(["[UNK]"], unk_token="<unk>"),
            "vocab needs the token <unk>: words that have no pieces become it",
        ),
        (lambda: AddedToken(3), "content must be a string, got int"),
        (lambda: AddedToken(""), "content must not be empty: an empty token would be everywhere"),
        (lambda: AddedToken("a", lstrip=1), "lstrip must be True or False, got 1"),
        (lambda: tokenizer.add_tokens([3]), "new_tokens must be a string or an AddedToken, got 3"),
        (
            lambda: tokenizer.add_special_tokens({"cls_tokn": "a"}),
            "special tokens are named bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token, "
            "extra_special_tokens, additional_special_tokens, got 'cls_tokn'; did you mean 'cls_token'?",
        ),
        (lambda: tokenizer.add_special_tokens(["a"]), "special_tokens_dict must be a dict, got list"),
        (
            lambda: tokenizer.add_special_tokens({"extra_special_tokens": "ab"}),
            "extra_special_tokens must be a list of tokens, got 'ab'",
        ),
        (
            lambda: setattr(tokenizer, "pad_token", "<pad>"),
            "pad_token must be a token of the vocabulary, got '<pad>'; add_special_tokens({'pad_token': '<pad>'}) adds a new one",
        ),
        (lambda: setattr(tokenizer, "pad_token_id", 9), "id must be one of the vocabulary's, from 0 to 2, got 9"),
        (
            lambda: setattr(tokenizer, "unk_token", "a"),
            "unk_token cannot be set on a tokenizer: make a new one, with unk_token as an argument",
        ),
        (
            lambda: tokenizer.get_special_tokens_mask([1], [1], already_has_special_tokens=True),
            "token_ids_1 must be None where token_ids_0 is a whole row",
        ),
    ]


@pytest.mark.parametrize(("call", "message"), bad_tokens())
def test_bad_tokens_say_what_is_wrong_and_change_nothing(call, message):
    with pytest.raises((TypeError, ValueError, AttributeError)) as caught:
        call()
    assert str(caught.value) == message


def test_a_list_that_ends_in_a_bad_token_adds_none():
    tokenizer = BertTokenizer(["[UNK]", "a"])
    with pytest.raises(TypeError):
        tokenizer.add_tokens(["<x>", 3])
    with pytest.raises(ValueError):
        tokenizer.add_special_tokens({"pad_token": "<pad>", "extra_special_tokens": [""]})
    assert (len(tokenizer), tokenizer.pad_token, tokenizer.get_added_vocab()) == (2, None, {})


def test_a_token_that_begins_with_a_space_is_found_also_behind_one_that_takes_it_along():
    tokens = [AddedToken(" x"), AddedToken("<e>", rstrip=True, normalized=False)]
    texts = ["a x", "<e> x", "<e>  xx", " x x", "\u3000x"]
    ours, peer = BertTokenizer(VOCABULARY, compat="hf", added_tokens=tokens), peer_of(tokens)
    assert ours(texts, add_special_tokens=False)["input_ids"] == [
        one.ids for one in peer.encode_batch(texts, add_special_tokens=False)
    ]


def test_letters_of_added_tokens_are_no_longer_split_from_their_neighbours():
    ours = BertTokenizer([*VOCABULARY, "hello"], added_tokens=["lo"])
    assert ours.tokenize("hello")[-1] == "lo"
    assert len(set(LETTERS)) == len(LETTERS)
