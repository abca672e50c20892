"""Directories as others save them: what they say of ids is done as transformers does it, or refused by name."""

import json
import shutil

import pytest
from tests.text.test_with_transformers import minilm

from linkboy import BasicTokenizer, BertTokenizer, train_wordpiece
from linkboy.text import AddedToken

transformers = pytest.importorskip("transformers")

__all__ = ["minilm"]  # a fixture
VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))

TOKENS = str.split(
    "[PAD] [UNK] [CLS] [SEP] [MASK] [unused0] [unused1] tom is here hello world the dogs bowls it fine ok em ##bed ##ding ##s "
    "a b ' [ ] e ##1 - x y rock n roll 1 < > / mask unused ##0 中"
)
FREE = len(TOKENS)
PLAIN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
TEXTS = [
    "Tom [E1] [e1] is [MASK]here",
    "[unused0] hello [UNK][SEP] [E2]",
    "hello <e>world</E> [mask] a[E1]b",
    "a  [E1]  b [E10]",
    "ROCK 中[E1]中",
    "",
]


@pytest.fixture
def make(tmp_path):
    """Make a directory of `vocab.txt`, `tokenizer_config.json` and further JSON files."""

    def folder(said=None, *, name="tokenizer", **files):
        path = tmp_path / name
        path.mkdir()
        (path / "vocab.txt").write_text("".join(token + "\n" for token in TOKENS), "utf-8")
        contents = {"tokenizer_config": {"tokenizer_class": "BertTokenizer", **(said or {})}, **files}
        for file, content in contents.items():
            (path / f"{file}.json").write_text(json.dumps(content), "utf-8")
        return path

    return folder


def token(content, **flags):
    return {"content": content, **PLAIN, **flags}


SAID = {
    "nothing": ({}, {}),
    "added_tokens.json": ({}, {"added_tokens": {"[E1]": FREE, "<e>": FREE + 1}}),
    "added_tokens.json of special ones": (
        {"additional_special_tokens": ["<e>"]},
        {"added_tokens": {"<e>": FREE, "[E1]": FREE + 1}},
    ),
    "additional_special_tokens": ({"additional_special_tokens": ["[E1]", "</e>"]}, {}),
    "extra_special_tokens": ({"extra_special_tokens": ["[E1]"]}, {}),
    "extra_special_tokens in the map": ({}, {"special_tokens_map": {"extra_special_tokens": ["[E1]"]}}),
    "extra_special_tokens with names": ({"extra_special_tokens": {"entity_token": "[E1]"}}, {}),
    "a name of its own": ({"entity_token": "[E1]", "additional_special_tokens": ["<e>"]}, {}),
    "added_tokens_decoder": (
        {"added_tokens_decoder": {str(FREE): token("[E1]", special=True), str(FREE + 1): token("<e>", special=False)}},
        {},
    ),
    "added tokens with flags": (
        {"added_tokens_decoder": {str(FREE): token("[E1]", special=False, normalized=True, lstrip=True, rstrip=True)}},
        {},
    ),
    "single words": (
        {"added_tokens_decoder": {str(FREE): token("[E1]", special=False, single_word=True, normalized=True)}},
        {},
    ),
    "a name with other flags than the added token": (
        {
            "mask_token": token("[E1]", lstrip=True, rstrip=True, __type="AddedToken"),
            "added_tokens_decoder": {str(FREE): token("[E1]", special=True)},
        },
        {},
    ),
    "a name with other flags than a token that is no special one": (
        {
            "mask_token": token("[E1]", single_word=True, __type="AddedToken"),
            "added_tokens_decoder": {str(FREE): token("[E1]", special=False, normalized=True, lstrip=True)},
        },
        {},
    ),
    "an extra token with other flags than the added one": (
        {
            "additional_special_tokens": [token("<e>", single_word=True, __type="AddedToken")],
            "added_tokens_decoder": {str(FREE): token("<e>", special=True, rstrip=True)},
        },
        {},
    ),
    "a token of the vocabulary": ({"added_tokens_decoder": {"7": token("tom", special=False, normalized=True)}}, {}),
    "cls and sep": ({"cls_token": "[unused0]", "sep_token": "[unused1]"}, {}),
    "cls that is new": ({"cls_token": "<e>"}, {}),
    "mask": ({"mask_token": "[E1]"}, {}),
    "mask that takes spaces along": ({"mask_token": token("[MASK]", lstrip=True, __type="AddedToken")}, {}),
    "pad": ({"pad_token": "[unused1]"}, {}),
    "unk": ({"unk_token": "[unused1]"}, {}),
    "bos and eos": ({"bos_token": "[unused0]", "eos_token": "[E1]"}, {}),
    "names in the map": (
        {},
        {"special_tokens_map": {"cls_token": "[unused0]", "mask_token": token("[E1]", lstrip=True)}},
    ),
    "left": ({"padding_side": "left", "truncation_side": "left"}, {}),
    "cased": ({"do_lower_case": False}, {}),
    "accents": ({"do_lower_case": False, "strip_accents": True}, {}),
    "no Chinese": ({"tokenize_chinese_chars": False}, {}),
    "inputs": ({"model_input_names": ["input_ids", "attention_mask"]}, {}),
    "DistilBERT": ({"tokenizer_class": "DistilBertTokenizer"}, {}),
    "DistilBERT's model": ({"tokenizer_class": "DistilBertTokenizerFast"}, {"config": {"model_type": "distilbert"}}),
    "MobileBERT": ({"tokenizer_class": "MobileBertTokenizer"}, {}),
    "Electra": ({"tokenizer_class": "ElectraTokenizerFast"}, {}),
    "notes of transformers": (
        {"name_or_path": "bert", "special_tokens_map_file": "x", "do_basic_tokenize": True, "never_split": None,
         "max_len": 20, "pad_token_type_id": 0, "use_fast": True, "clean_up_tokenization_spaces": True,
         "split_special_tokens": False, "chat_template": "{{ x }}", "processor_class": "P", "stride": 0},
        {},
    ),
}  # fmt: skip


def assert_same(ours, peer, texts=TEXTS):
    options = {"padding": True, "truncation": True, "max_length": 12}
    for found, expected in (
        (ours(texts), peer(texts)),
        (ours(texts, **options), peer(texts, **options)),
        (ours(texts, texts[::-1], return_offsets_mapping=True), peer(texts, texts[::-1], return_offsets_mapping=True)),
    ):
        assert list(found) == list(expected)
        for key in found:
            assert found[key] == expected[key], key
    assert ours.get_vocab() == peer.get_vocab()
    assert ours.all_special_tokens == peer.all_special_tokens
    named = {
        name: token for name, token in peer.special_tokens_map.items() if isinstance(token, str)
    }  # no list, as in 5
    assert ours.special_tokens_map == named
    assert len(ours) == len(peer)
    assert {number: str(t) for number, t in ours.added_tokens_decoder.items()} == {
        number: str(t) for number, t in peer.added_tokens_decoder.items()
    }


@pytest.mark.parametrize("said", SAID)
def test_what_a_directory_says_is_what_transformers_does(make, tmp_path, said):
    config, files = SAID[said]
    if VERSION < (5,) and said in (
        "extra_special_tokens",
        "extra_special_tokens in the map",
        "extra_special_tokens with names",
        "a name of its own",
    ):
        pytest.skip("transformers 4 does not know this entry")
    if VERSION < (5,) and said == "an extra token with other flags than the added one":
        pytest.skip("transformers 4 takes the flags of the extra token")
    folder = make(config, **files)
    kind = config.get("tokenizer_class", "BertTokenizer").removesuffix("Fast")
    # In transformers 4 the class in pure Python has the name without "Fast"; 5 has one class, not always under both names.
    loader = getattr(transformers, f"{kind}Fast", None) or getattr(transformers, kind, transformers.BertTokenizerFast)
    peer = loader.from_pretrained(folder)
    ours = BertTokenizer.from_pretrained(folder)
    assert_same(ours, peer)
    peer.save_pretrained(tmp_path / "theirs")
    assert_same(BertTokenizer.from_pretrained(tmp_path / "theirs"), peer)
    ours.save_pretrained(tmp_path / "ours")
    again = BertTokenizer.from_pretrained(tmp_path / "ours")
    assert again._options() == ours._options()
    assert again._special == ours._special
    assert_same(again, transformers.BertTokenizerFast.from_pretrained(tmp_path / "ours"))
    assert [t.ids for t in transformers_tokenizers(tmp_path / "ours").encode_batch(TEXTS)] == ours(TEXTS)["input_ids"]


def transformers_tokenizers(folder):
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_an_own_directory_with_googles_rules_keeps_them_and_its_tokens(tmp_path):
    ours = BertTokenizer(TOKENS, added_tokens=[AddedToken("<e>", lstrip=True)], mask_token="[E1]", padding_side="left")
    ours.save_pretrained(tmp_path)
    again = BertTokenizer.from_pretrained(tmp_path)
    assert again.compat == "google"
    assert again(TEXTS)["input_ids"] == ours(TEXTS)["input_ids"]
    assert (again.mask_token, again.padding_side) == ("[E1]", "left")


REFUSED = {
    "no basic tokenization": (
        {"do_basic_tokenize": False},
        {},
        "do_basic_tokenize in {config!r} must be true, which is what BERT's tokenizer does, got false",
    ),
    "another prefix": (
        {"wordpieces_prefix": "@@"},
        {},
        'wordpieces_prefix in {config!r} must be "##", which is what BERT\'s tokenizer does, got "@@"',
    ),
    "special tokens that are split": (
        {"split_special_tokens": True},
        {},
        "split_special_tokens in {config!r} must be false, which is what BERT's tokenizer does, got true",
    ),
    "more around a text": (
        {"add_bos_token": True},
        {},
        "add_bos_token in {config!r} must be false, which is what BERT's tokenizer does, got true",
    ),
    "an entry nobody knows": (
        {"word_tokenizer_type": "mecab"},
        {},
        "word_tokenizer_type in {config!r} is an entry that BertTokenizer does not know, so it cannot say whether ids depend "
        "on it, got \"mecab\"; where they do not, pass ignore=['word_tokenizer_type']",
    ),
    "an id that is taken": (
        {},
        {"added_tokens": {"[E1]": 5}},
        "added token '[E1]' must have an id of its own, 5 is that of '[unused0]'; read from {folder!r}",
    ),
    "another id than in the vocabulary": (
        {"added_tokens_decoder": {"3": token("tom")}},
        {},
        "added token 'tom' must have the id that it has in the vocabulary, 7, got 3; read from {folder!r}",
    ),
    "two ids": (
        {"added_tokens_decoder": {str(FREE): token("[E1]")}},
        {"added_tokens": {"[E1]": FREE + 1}},
        "added token '[E1]' must have one id, got "
        + str(FREE + 1)
        + " in {added!r} and "
        + str(FREE)
        + " in another file of "
        "the directory",
    ),
    "two names": (
        {"cls_token": "[CLS]", "added_tokens_decoder": {}},
        {"special_tokens_map": {"cls_token": "[unused0]"}},
        "cls_token must be the same in the files of a directory, got '[unused0]' in {map!r} and '[CLS]' in "
        "'tokenizer_config.json'",
    ),
    "an unknown that the vocabulary lacks": (
        {"unk_token": "<unk>"},
        {},
        "vocab needs the token <unk>: words that have no pieces become it; read from {folder!r}",
    ),
    "a token that is a number": (
        {"mask_token": 7},
        {},
        "mask_token in {config!r} must be a token or an object with its content, got 7",
    ),
    "extra tokens in a string": (
        {"extra_special_tokens": "[E1]"},
        {},
        "extra_special_tokens in {config!r} must be a list of tokens, got '[E1]'",
    ),
    "a decoder that is a list": (
        {"added_tokens_decoder": [token("[E1]")]},
        {},
        "added_tokens_decoder in {config!r} must map ids to tokens, got [{{'content': '[E1]', 'lstrip': False, 'rstrip': False,"
        " 'normalized': False, 'sin",
    ),
    "an id in words": ({}, {"added_tokens": {"[E1]": "x"}}, "{added!r} must map tokens to ids, got '[E1]': 'x'"),
    "a side that is none": (
        {"padding_side": "top"},
        {},
        "padding_side must be one of ('left', 'right'), got 'top'; read from {folder!r}",
    ),
    "inputs that BERT has not": (
        {"model_input_names": ["input_ids", "bbox"]},
        {},
        "model_input_names must be one of ('input_ids', 'token_type_ids', 'attention_mask'), got 'bbox'; read from {folder!r}",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_directory_says_and_is_not_done_is_refused_by_name(make, case):
    config, files, message = REFUSED[case]
    folder = make(config, **files)
    with pytest.raises(ValueError) as caught:
        BertTokenizer.from_pretrained(folder)
    places = {name: str(folder / f"{file}.json") for name, file in
              (("config", "tokenizer_config"), ("added", "added_tokens"), ("map", "special_tokens_map"))}  # fmt: skip
    assert str(caught.value) == message.format(folder=str(folder), **places)


def test_an_entry_can_be_passed_over_and_an_option_set(make):
    folder = make({"word_tokenizer_type": "x", "do_lower_case": True})
    tokenizer = BertTokenizer.from_pretrained(folder, ignore=["word_tokenizer_type"], do_lower_case=False)
    assert tokenizer.tokenize("hello HELLO") == ["hello", "[UNK]"]
    with pytest.raises(TypeError) as caught:
        BertTokenizer.from_pretrained(folder, ignore="word_tokenizer_type")
    assert str(caught.value) == "ignore must be a collection of names, got the bare string 'word_tokenizer_type'"


def test_tokens_that_are_never_split_come_from_the_config(make):
    tokenizer = BertTokenizer.from_pretrained(make({"never_split": ["[E1]", "b-a"]}))
    assert tokenizer.never_split == {"[E1]", "b-a"}
    assert tokenizer.tokenize("hello b-a") == ["hello", "[UNK]"]


def test_the_model_says_which_inputs_it_takes(make):
    folder = make(config={"model_type": "distilbert"})
    (folder / "tokenizer_config.json").write_text("{}")
    assert list(BertTokenizer.from_pretrained(folder)("hello")) == ["input_ids", "attention_mask"]


def test_a_tokenizer_json_may_have_added_tokens_and_sides(make, tmp_path):
    folder = make({"additional_special_tokens": ["[E1]"], "padding_side": "left"}, name="first")
    peer = transformers.BertTokenizerFast.from_pretrained(folder)
    peer.add_tokens(["graft", "grafts", AddedToken_of("<e>", rstrip=True, normalized=False)])
    peer.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "tokenizer.json"
    ours = BertTokenizer.from_tokenizer_json(path)
    texts = [*TEXTS, "grafts graft GRAFT <e>  hello"]
    assert ours(texts)["input_ids"] == peer(texts)["input_ids"]
    content = json.loads(path.read_text("utf-8"))
    content["padding"] = {"strategy": "BatchLongest", "direction": "Left", "pad_id": 5, "pad_type_id": 0,
                          "pad_to_multiple_of": None, "pad_token": "[unused0]"}  # fmt: skip
    content["truncation"] = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(content), "utf-8")
    ours = BertTokenizer.from_tokenizer_json(path)
    assert (ours.padding_side, ours.truncation_side, ours.pad_token) == ("left", "left", "[unused0]")


def AddedToken_of(content, **flags):
    return transformers.AddedToken(content, **flags)


def test_a_tokenizer_json_may_put_other_tokens_around_texts(make, tmp_path):
    folder = make({"cls_token": "[unused0]", "sep_token": "[E1]"})
    peer = transformers.BertTokenizerFast.from_pretrained(folder)
    peer.save_pretrained(tmp_path / "saved")
    ours = BertTokenizer.from_tokenizer_json(tmp_path / "saved" / "tokenizer.json")
    assert ours.encode("hello", "a") == peer.encode("hello", "a") == [5, 10, FREE, 22, FREE]


@pytest.mark.parametrize(
    "line", ["hello\u00a0", "\u3000hello", "hello\x0c", "\x0bhello", "hello\x85", " \u2003hello\t", "hello\x1f"]
)
def test_lines_of_a_vocabulary_are_stripped_as_python_strips(tmp_path, line):
    path = tmp_path / "vocab.txt"
    path.write_text(f"[UNK]\n##\u2003\n\u2028\n{line}\n", "utf-8", newline="")
    tokenizer = BertTokenizer(path)
    assert tokenizer.encode("hello", add_special_tokens=False) == [3]
    assert [tokenizer.id_to_token(number) for number in (1, 2)] == ["##\u2003", "\u2028"]


def test_a_json_file_where_a_vocabulary_is_due_names_the_way_to_read_it(make, tmp_path):
    BertTokenizer(TOKENS).save_pretrained(tmp_path / "saved")
    path = str(tmp_path / "saved" / "tokenizer.json")
    with pytest.raises(ValueError) as caught:
        BertTokenizer(path)
    assert str(caught.value) == (
        f"vocab must be the path of a vocab.txt, one token per line, and {path!r} holds JSON; "
        "BertTokenizer.from_tokenizer_json reads a tokenizer.json"
    )


def test_an_old_tokenizer_json_without_a_type_is_read_and_one_with_merges_is_not(tmp_path):
    BertTokenizer(TOKENS).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    del content["model"]["type"]
    path.write_text(json.dumps(content), "utf-8")
    assert BertTokenizer.from_tokenizer_json(path).encode("hello embeds") == [2, 10, 18, 19, 21, 3]
    content["model"]["merges"] = []
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError) as caught:
        BertTokenizer.from_tokenizer_json(path)
    assert str(caught.value) == f"model in {str(path)!r} must be of type WordPiece, as BERT's is, got None"


def test_a_real_directory_with_added_tokens_gives_the_ids_of_transformers(minilm, tmp_path, shared_data):
    folder = shutil.copytree(minilm, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "1_Pooling"))
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    assert_same(BertTokenizer.from_pretrained(folder), peer)
    peer.add_special_tokens({"additional_special_tokens": ["<e1>", "</e1>"]})
    peer.add_tokens(["Łódź", "北京"])
    peer.save_pretrained(tmp_path / "more")
    ours = BertTokenizer.from_pretrained(tmp_path / "more")
    texts = (shared_data / "multilingual_sample.txt").read_text("utf-8").split("\n")[::40]
    texts = [text.replace(" ", " <e1>", 1) for text in texts] + ["w Łodzi ŁÓDŹ łódź 北京市 </E1>"]
    assert ours(texts)["input_ids"] == peer(texts)["input_ids"]


@pytest.mark.parametrize("kind", ["chinese", "uncased", "cased", "minilm", "with added tokens"])
def test_five_real_vocabularies_give_the_ids_of_transformers(kind, minilm, tmp_path, shared_data):
    lines = (shared_data / "multilingual_sample.txt").read_text("utf-8").split("\n")[::9]
    folder = minilm if kind == "minilm" else tmp_path
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": kind != "cased"}
    if kind == "cased":
        tokens = train_wordpiece(lines[::4], vocab_size=1500, do_lower_case=False)
    else:
        name = "bert-base-chinese" if kind == "chinese" else "bert-base-uncased"
        tokens = (shared_data / "vocab" / f"{name}.txt").read_text("utf-8").removesuffix("\n").split("\n")
    if kind == "with added tokens":
        config["additional_special_tokens"] = ["<e1>", "</e1>"]
        added = {"<e1>": len(tokens), "</e1>": len(tokens) + 1, "undx": len(tokens) + 2}
        (folder / "added_tokens.json").write_text(json.dumps(added), "utf-8")
        lines = [line.replace(" ", " <e1>UNDX", 1) + "</e1>" for line in lines]
    if kind != "minilm":
        (folder / "vocab.txt").write_text("".join(token + "\n" for token in tokens), "utf-8", newline="")
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    ours, peer = BertTokenizer.from_pretrained(folder), transformers.BertTokenizerFast.from_pretrained(folder)
    found, expected = ours(lines)["input_ids"], peer(lines)["input_ids"]
    differ = [line for line, one, other in zip(lines, found, expected, strict=True) if one != other]
    backend, words = peer.backend_tokenizer, BasicTokenizer(ours.do_lower_case)
    for line in differ:  # only where the older tables of tokenizers make other words, as docs/text.md lists
        theirs = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(line))]
        assert theirs != words.tokenize(line), line
    assert len(differ) < len(lines) / 50
