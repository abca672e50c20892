"""Vocabularies and tokenizer files: read strictly, written so that transformers and tokenizers agree."""

import json
import pickle
import resource
import signal

import pytest
from tests.text.test_call import texts
from tests.text.test_ids import VOCABULARY

from linkboy import BertTokenizer

tokenizers = pytest.importorskip("tokenizers")

SMALL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "中"]


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def ids_of(tokenizer):
    return [tokenizer.token_to_id(token) for token in ("[UNK]", "a", "##b", "中")]


@pytest.mark.parametrize(
    "data",
    [
        "[UNK]\na\n##b\n中\n",
        "[UNK]\na\n##b\n中",
        "[UNK]\r\na\r\n##b\r\n中\r\n",
        "\ufeff[UNK]\na\n##b\n中\n",
        "[UNK]\n a\n##b\t\n中\n",
    ],
    ids=["plain", "no final newline", "CRLF", "byte order mark", "outer spaces"],
)
def test_the_same_vocabulary_comes_out_of_every_file_form(tmp_path, data):
    tokenizer = BertTokenizer(write(tmp_path / "vocab.txt", data))
    assert ids_of(tokenizer) == [0, 1, 2, 3]
    assert tokenizer.encode("ab中", add_special_tokens=False) == [1, 2, 3]


def test_line_separators_inside_a_vocabulary_do_not_shift_ids(tmp_path):
    data = "[UNK]\n\u2028\n\x0b\n\x85\n##\u2028\na\n\n中\n"
    tokenizer = BertTokenizer(write(tmp_path / "vocab.txt", data))
    assert (tokenizer.token_to_id("\u2028"), tokenizer.token_to_id("a"), tokenizer.token_to_id("中")) == (1, 5, 7)
    assert tokenizer.vocab_size == len(tokenizer) == 8
    assert tokenizer.encode("a\u2028a", add_special_tokens=False) == [5, 5]


def test_the_published_chinese_vocabulary_has_its_published_ids(shared_data):
    tokenizer = BertTokenizer(shared_data / "vocab" / "bert-base-chinese.txt")
    assert tokenizer.vocab_size == 21128
    assert (tokenizer.token_to_id("\u2028"), tokenizer.token_to_id("##\u2028")) == (343, 13502)
    assert tokenizer.encode("你好") == [101, 872, 1962, 102]


def test_of_equal_tokens_the_later_id_counts_and_none_shifts():
    for vocab in (["[UNK]", "a", "b", "a", "c"], {"[UNK]": 0, "b": 2, "a": 3, "c": 4}):
        tokenizer = BertTokenizer(vocab)
        assert tokenizer.encode("a b c", add_special_tokens=False) == [3, 2, 4]
        assert tokenizer(["a b c"] * 60, add_special_tokens=False)["input_ids"] == [[3, 2, 4]] * 60
        assert tokenizer.vocab_size == 5
        assert [tokenizer.id_to_token(number) for number in (2, 3, 4)] == ["b", "a", "c"]


def test_the_earlier_of_equal_tokens_keeps_its_id_for_decoding_also_in_a_pickle(tmp_path):
    lines = ["[UNK]", "a", "b", "a", "c"]
    tokenizers_of = BertTokenizer(lines), BertTokenizer(write(tmp_path / "vocab.txt", "\n".join(lines)))
    for tokenizer in (*tokenizers_of, pickle.loads(pickle.dumps(tokenizers_of[0]))):
        assert [tokenizer.id_to_token(number) for number in range(5)] == lines
        assert tokenizer.decode([1, 2, 3]) == "a b a"
        assert tokenizer.token_to_id("a") == 3


def test_ids_of_a_mapping_may_have_gaps():
    tokenizer = BertTokenizer({"[UNK]": 100, "a": 7, "##b": 5000})
    assert tokenizer.encode("ab x", add_special_tokens=False) == [7, 5000, 100]
    assert tokenizer.token_to_id("zz") is None
    assert tokenizer.vocab["a"] == 7


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("compat", ["google", "hf"])
def test_what_is_saved_is_loaded_by_transformers_and_tokenizers_and_by_us(tmp_path, caplog, lower, compat):
    transformers = pytest.importorskip("transformers")
    ours = BertTokenizer(VOCABULARY, do_lower_case=lower, compat=compat, model_max_length=77)
    ours.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    sample = [*texts(200, 1, width=30), "a" * 100, "a" * 101, "a" * 200, "a" * 201]
    expected = ours(sample)["input_ids"]
    caplog.set_level("ERROR")  # transformers warns of rows longer than model_max_length
    fast = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert [one.ids for one in fast.encode_batch(sample)] == expected
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert auto(sample)["input_ids"] == expected
    assert (auto.model_max_length, auto.pad_token, auto.mask_token) == (77, "[PAD]", "[MASK]")
    again = BertTokenizer.from_pretrained(tmp_path / "saved")
    assert again._options() == ours._options()
    assert dict(again.vocab) == dict(ours.vocab)


def test_what_transformers_saved_is_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    write(tmp_path / "vocab.txt", "\n".join(VOCABULARY))
    peer = transformers.BertTokenizerFast.from_pretrained(tmp_path)
    peer.save_pretrained(tmp_path)
    ours = BertTokenizer.from_pretrained(tmp_path)
    assert (ours.compat, ours.max_input_chars_per_word, ours.model_max_length) == ("hf", 100, None)
    sample = [*texts(200, 2, width=30), "x[MASK] [SEP]y", "a" * 101]
    assert ours(sample)["input_ids"] == peer(sample)["input_ids"]
    assert ours(sample, padding=True, truncation=True, max_length=9, return_tensors="pt").keys() == (
        peer(sample, padding=True, truncation=True, max_length=9, return_tensors="pt").keys()
    )


def test_a_directory_with_a_vocabulary_alone_is_read_with_its_config(tmp_path):
    write(tmp_path / "vocab.txt", "\n".join(SMALL))
    assert BertTokenizer.from_pretrained(tmp_path).compat == "hf"
    write(tmp_path / "tokenizer_config.json", '{"do_lower_case": false, "model_max_length": 512}')
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.rules.lower, tokenizer.rules.strip_accents, tokenizer.model_max_length) == (False, False, 512)


def changed_json(tmp_path, change):
    BertTokenizer(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)
    return write(path, json.dumps(content))


def added(**changes):
    return lambda content: content["added_tokens"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["model"].update(type="BPE"),
            "model in {path!r} must be of type WordPiece, as BERT's is, got BPE",
        ),
        (
            lambda c: c.update(normalizer={"type": "NFC"}),
            "normalizer in {path!r} must be of type BertNormalizer, as BERT's is, got NFC",
        ),
        (
            lambda c: c.update(normalizer=None),
            "normalizer in {path!r} must be of type BertNormalizer, as BERT's is, got None",
        ),
        (
            lambda c: c.update(pre_tokenizer={"type": "Whitespace"}),
            "pre_tokenizer in {path!r} must be of type BertPreTokenizer, as BERT's is, got Whitespace",
        ),
        (
            lambda c: c["model"].update(unk_token="<unk>"),
            "vocab needs the token <unk>: words that have no pieces become it; read from {path!r}",
        ),
        (
            lambda c: c["model"].update(continuing_subword_prefix="@@"),
            "continuing_subword_prefix in {path!r} must be '##', got '@@'",
        ),
        (
            lambda c: c["normalizer"].update(clean_text=False),
            "clean_text in {path!r} must be true: BERT's tokenizer always cleans the text",
        ),
        (lambda c: c["model"].update(vocab=["a"]), "model.vocab in {path!r} must map tokens to ids, got list"),
        (
            added(content="<x>"),
            "added token '<x>' must have an id of its own, 0 is that of '[PAD]'; read from {path!r}",
        ),
        (
            added(id=3),
            "added token '[PAD]' must have the id that it has in the vocabulary, 0, got 3; read from {path!r}",
        ),
        (lambda c: c.update(added_tokens=5), "added_tokens in {path!r} must be a list of objects, got 5"),
        (lambda c: c.update(added_tokens=["x"]), "added_tokens in {path!r} must be a list of objects, got ['x']"),
        (
            lambda c: c.update(post_processor={"type": "RobertaProcessing"}),
            "post_processor in {path!r} must make [CLS] A [SEP] B [SEP], as BERT's does, got RobertaProcessing",
        ),
        (
            lambda c: c["post_processor"].update(cls=["[CLS]", 3]),
            "post_processor in {path!r} must make [CLS] A [SEP] B [SEP], as BERT's does, got BertProcessing",
        ),
        (
            lambda c: c.update(post_processor={"type": "TemplateProcessing", "single": [], "special_tokens": {}}),
            "post_processor in {path!r} must make [CLS] A [SEP] B [SEP], as BERT's does, got TemplateProcessing",
        ),
        (added(id=None), "the id of the token '[PAD]' of added_tokens in {path!r} must be a number, got None"),
        (
            added(lstrip="yes"),
            "lstrip of the token '[PAD]' of added_tokens in {path!r} must be true or false, got 'yes'",
        ),
        (
            added(content=7),
            "added_tokens in {path!r} must be a token or an object with its content, got 7",
        ),
        (
            lambda c: c.update(padding={"direction": "Up"}),
            "padding.direction in {path!r} must be 'Left' or 'Right', got 'up'",
        ),
        (
            lambda c: c.update(padding={"pad_type_id": 2}),
            "padding.pad_type_id in {path!r} must be 0, got 2",
        ),
        (
            lambda c: c.update(padding={"pad_token": "[PAD]", "pad_id": 7}),
            "padding.pad_id in {path!r} must be the id of '[PAD]', 0, got 7",
        ),
    ],
)
def test_a_tokenizer_json_of_another_kind_is_refused(tmp_path, change, message):
    path = str(changed_json(tmp_path, change))
    with pytest.raises(ValueError) as caught:
        BertTokenizer.from_tokenizer_json(path)
    assert str(caught.value) == message.format(path=path)


def test_a_file_that_is_no_tokenizer_json_is_refused(tmp_path):
    path = write(tmp_path / "tokenizer.json", "[1")
    with pytest.raises(ValueError, match="is not JSON: Expecting"):
        BertTokenizer.from_tokenizer_json(path)
    write(path, "[" * 200_000)
    with pytest.raises(ValueError) as caught:
        BertTokenizer.from_tokenizer_json(path)
    assert str(caught.value) == f"{str(path)!r} must hold a tokenizer, got JSON nested too deeply to be read"
    write(path, "[1]")
    with pytest.raises(ValueError) as caught:
        BertTokenizer.from_tokenizer_json(path)
    assert str(caught.value) == f"{str(path)!r} must hold a JSON object, got list"


def bad_vocabularies():
    limit = (1 << 24) - 1
    return [
        (["a", "[unk]"], "vocab needs the token [UNK]: words that have no pieces become it"),
        ([], "vocab needs the token [UNK]: words that have no pieces become it"),
        (["[UNK]", 3], "vocab[1] must be a string, got int"),
        (b"[UNK]", "vocab must be a path, a list of tokens or a dict from token to id, got bytes"),
        (7, "vocab must be a path, a list of tokens or a dict from token to id, got int"),
        ({"[UNK]": 0, 5: 1}, "vocab must map strings to ids, got the key 5"),
        ({"[UNK]": -1}, f"vocab must map every token to an id from 0 to {limit - 1}, got '[UNK]': -1"),
        ({"[UNK]": True}, f"vocab must map every token to an id from 0 to {limit - 1}, got '[UNK]': True"),
        ({"[UNK]": limit}, f"vocab must map every token to an id from 0 to {limit - 1}, got '[UNK]': {limit}"),
        ({"[UNK]": 0, "a": 0}, "vocab must give every token its own id, got 0 for '[UNK]' and 'a'"),
    ]


@pytest.mark.parametrize(("vocab", "message"), bad_vocabularies())
def test_a_bad_vocabulary_says_what_is_wrong(vocab, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        BertTokenizer(vocab)
    assert str(caught.value) == message


def test_a_vocabulary_file_that_is_not_utf8_names_the_line(tmp_path):
    path = write(tmp_path / "vocab.txt", b"[UNK]\na\n\xff\n")
    with pytest.raises(ValueError) as caught:
        BertTokenizer(path)
    assert str(caught.value) == f"{str(path)!r} line 3 is not UTF-8; save the file as UTF-8"


def test_a_path_that_is_no_vocabulary_file_says_what_to_pass(tmp_path):
    missing = str(tmp_path / "none.txt")
    with pytest.raises(FileNotFoundError) as caught:
        BertTokenizer(missing)
    assert str(caught.value) == (
        f"vocab must be the path of a vocab.txt, and there is no file {missing!r}; nothing is downloaded"
    )
    with pytest.raises(IsADirectoryError) as caught:
        BertTokenizer(tmp_path)
    assert str(caught.value) == (
        f"vocab must be the path of a vocab.txt, got the directory {str(tmp_path)!r}; "
        "BertTokenizer.from_pretrained reads a model directory"
    )


def test_a_disk_that_fills_up_leaves_the_saved_tokenizer_as_it_was(tmp_path):
    BertTokenizer(SMALL).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))  # room for vocab.txt, none for tokenizer.json
    try:
        with pytest.raises(OSError, match="File too large"):
            BertTokenizer([*SMALL, *(f"[unused{number}]" for number in range(50))]).save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compat": "hugging"}, "compat must be one of ('google', 'hf'), got 'hugging'"),
        (
            {"max_input_chars_per_word": 0},
            "max_input_chars_per_word must be an integer of at least 1, got 0",
        ),
        ({"model_max_length": 2.5}, "model_max_length must be an integer of at least 1, got 2.5 of type float"),
        ({"do_lower_case": "yes"}, "do_lower_case must be True or False, got 'yes'"),
    ],
)
def test_bad_options_say_what_is_wrong(options, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        BertTokenizer(SMALL, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: BertTokenizer({"[UNK]": 0, "a": 5}),
            "save_pretrained needs a token for every id, but 4 have none, the first is 1",
        ),
        (
            lambda: BertTokenizer(["[UNK]", "a\n"]),
            "save_pretrained cannot write the token 'a\\n' on a line of vocab.txt",
        ),
        (
            lambda: BertTokenizer(["\ufeffa", "[UNK]"]),
            "save_pretrained cannot write the token '\\ufeffa' on a line of vocab.txt",
        ),
        (
            lambda: BertTokenizer(["[UNK]", "\ud800"]),
            "save_pretrained cannot write the token '\\ud800' on a line of vocab.txt",
        ),
        (
            lambda: BertTokenizer(SMALL, never_split=["x"]),
            "save_pretrained cannot express never_split in tokenizer.json: other readers would disagree",
        ),
        (
            lambda: BertTokenizer(SMALL, han="all"),
            "save_pretrained cannot express han in tokenizer.json: other readers would disagree",
        ),
    ],
)
def test_what_the_files_cannot_express_is_not_written(tmp_path, make, message):
    with pytest.raises(ValueError) as caught:
        make().save_pretrained(tmp_path / "saved")
    assert str(caught.value) == message
    assert not (tmp_path / "saved").exists()


def test_a_missing_or_foreign_directory_says_so(tmp_path):
    for path, message in (
        (
            tmp_path / "none",
            f"no directory {str(tmp_path / 'none')!r}; from_pretrained reads local files and never downloads",
        ),
        (tmp_path, f"neither tokenizer.json nor vocab.txt in {str(tmp_path)!r}"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            BertTokenizer.from_pretrained(path)
        assert str(caught.value) == message
    write(tmp_path / "vocab.txt", "[UNK]\n")
    config = write(tmp_path / "tokenizer_config.json", '{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(ValueError) as caught:
        BertTokenizer.from_pretrained(tmp_path)
    assert str(caught.value) == (
        f"tokenizer_class in {str(config)!r} must be one whose tokenizer is BERT's, BertTokenizer, DistilBertTokenizer, "
        "ElectraTokenizer, MobileBertTokenizer, LayoutLMTokenizer, SqueezeBertTokenizer, ConvBertTokenizer, LxmertTokenizer, "
        "RetriBertTokenizer, RealmTokenizer, DPRQuestionEncoderTokenizer, DPRContextEncoderTokenizer, got 'GPT2Tokenizer'"
    )


@pytest.mark.parametrize("between", [" ", "\t"])
def test_a_list_of_tokens_with_counts_is_refused_as_that(tmp_path, between):
    """SentencePiece and scripts that count words write a number behind each token; `needs the token [UNK]` says nothing of it."""
    path = write(
        tmp_path / "counts.txt", "".join(f"{token}{between}{n}\n" for n, token in enumerate(["[UNK]", "a", "b"]))
    )
    with pytest.raises(
        ValueError, match=r"one token per line, and in .* a number follows each token, such as '\[UNK\]"
    ):
        BertTokenizer(path)


def test_a_file_where_a_directory_is_due_names_what_reads_it(tmp_path):
    for name, reader in {"vocab.txt": "BertTokenizer", "tokenizer.json": "BertTokenizer.from_tokenizer_json"}.items():
        with pytest.raises(NotADirectoryError) as caught:
            BertTokenizer.from_pretrained(write(tmp_path / name, "[UNK]\n"))
        assert str(caught.value).endswith(f"{name}'; {reader} reads a file")


@pytest.mark.parametrize("name", ["encode_plus", "batch_encode_plus", "prepare_for_model"])
def test_methods_of_other_tokenizers_are_told_the_call(name):
    """`did you mean 'batch_decode'` is no answer to `batch_encode_plus`."""
    with pytest.raises(
        AttributeError, match=rf"has no attribute '{name}': (call the tokenizer itself, )?tokenizer\(text"
    ):
        getattr(BertTokenizer(["[UNK]", "[CLS]", "[SEP]"]), name)


def test_an_address_of_the_web_is_no_path(tmp_path, monkeypatch):
    """`save_pretrained` made directories named `https:`."""
    monkeypatch.chdir(tmp_path)
    address = "https://huggingface.co/bert-base-chinese"
    calls = {
        "vocab": BertTokenizer,
        "path": BertTokenizer.from_tokenizer_json,
        "directory": BertTokenizer.from_pretrained,
    }
    for argument, call in calls.items():
        with pytest.raises(ValueError) as caught:
            call(address)
        told = (
            f"{argument} must be a path on this machine, got {address!r}; download it first, linkboy downloads nothing"
        )
        assert str(caught.value) == told
    with pytest.raises(ValueError, match="directory must be a path on this machine"):
        BertTokenizer(SMALL).save_pretrained(address)
    assert not list(tmp_path.iterdir())
