"""train_wordpiece: deterministic, of the size asked for, as good as the trainer of tokenizers; and tokenize_file."""

import collections
import io
import itertools
import random

import pytest
from tests.text.reference import basic

from linkboy import BertTokenizer, tokenize_file, train_wordpiece

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def corpus(count=120, seed=3):
    rng = random.Random(seed)
    letters = "abcdeé 中国가a b "
    return ["".join(rng.choices(letters, k=rng.randint(3, 40))) for _ in range(count)]


def naive(texts, size, min_frequency):
    """Count every pair anew for every join: slow and plain."""
    counts = collections.Counter(word for text in texts for word in basic(text))
    words = {word: [word[0], *("##" + c for c in word[1:])] for word in counts}
    vocabulary = SPECIAL + sorted({p for pieces in words.values() for p in pieces}, key=lambda p: (len(p), p))
    while len(vocabulary) < size:
        pairs = collections.Counter()
        for word, pieces in words.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += counts[word]
        if not pairs or max(pairs.values()) < min_frequency:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        token = best[0] + best[1][2:]
        for word, pieces in words.items():
            joined = []
            for piece in pieces:
                if joined and (joined[-1], piece) == best and joined[-1] is not None:
                    joined[-1] = token
                else:
                    joined.append(piece)
            words[word] = joined
        if token not in vocabulary:
            vocabulary.append(token)
    return vocabulary


@pytest.mark.parametrize("seed", range(6))
def test_joins_are_those_of_counting_anew_each_time(seed):
    texts = corpus(60, seed)
    for size in (40, 120, 300):
        trained = train_wordpiece(texts, size)
        expected = naive(texts, size, 2)
        assert [token for token in trained if not token.startswith("[unused")] == expected


def test_the_order_of_texts_does_not_matter_and_runs_agree():
    texts = corpus()
    shuffled = texts[:]
    random.Random(1).shuffle(shuffled)
    assert train_wordpiece(texts, 200) == train_wordpiece(shuffled, 200) == train_wordpiece(iter(texts), 200)


@pytest.mark.parametrize("size", [6, 7, 12, 20, 150, 5000])
def test_the_vocabulary_has_exactly_the_size_asked_for(size):
    vocabulary = train_wordpiece(corpus(), size)
    assert len(vocabulary) == len(set(vocabulary)) == size
    assert vocabulary[:5] == SPECIAL
    assert BertTokenizer(vocabulary).vocab_size == size


def test_every_training_word_can_be_spelled_when_the_alphabet_fits():
    texts = corpus()
    tokenizer = BertTokenizer(train_wordpiece(texts, 100))
    assert tokenizer.explain(texts).unknown_share == 0


def test_a_large_alphabet_is_cut_to_the_most_frequent_characters():
    texts = ["".join(chr(0x4E00 + i) * (1 + i % 5) for i in range(3000))]
    vocabulary = train_wordpiece(texts, 605)
    assert vocabulary[5:] == [chr(0x4E00 + i) for i in range(3000) if i % 5 == 4]
    assert train_wordpiece(texts, 20, limit_alphabet=3)[5:] == [
        "\u4e04",
        "\u4e09",
        "\u4e0e",
        *(f"[unused{i}]" for i in range(12)),
    ]


def test_min_frequency_and_cased_text_are_honoured():
    texts = ["Ab Ab ab", "Ab É"]
    assert train_wordpiece(texts, 11, min_frequency=3, do_lower_case=False)[5:] == [
        "A",
        "a",
        "É",
        "##b",
        "Ab",
        "[unused0]",
    ]
    assert train_wordpiece(texts, 10, min_frequency=4, do_lower_case=False)[9:] == ["[unused0]"]


def test_special_tokens_are_the_callers():
    assert train_wordpiece(["ab"], 4, special_tokens=["[UNK]", "ab"]) == ["[UNK]", "ab", "[unused0]", "[unused1]"]


def test_encoding_costs_no_more_than_with_the_trainer_of_tokenizers(shared_data):
    tokenizers = pytest.importorskip("tokenizers")
    lines = (shared_data / "banking77" / "train.txt").read_text("utf-8").split("\n")
    texts, held_out = lines[::2], lines[1::2]
    vocabulary = train_wordpiece(texts, 2000, limit_alphabet=1000)
    peer = tokenizers.BertWordPieceTokenizer(lowercase=True)
    peer.train_from_iterator(texts, vocab_size=2000, min_frequency=2, show_progress=False)
    ours = BertTokenizer(vocabulary)(held_out, add_special_tokens=False, return_tensors="flat")["input_ids"]
    theirs = sum(len(one.ids) for one in peer.encode_batch(held_out, add_special_tokens=False))
    assert abs(len(ours) / theirs - 1) < 0.01


SIZE = "vocab_size must be an integer of at least 6 and of at most 16777215"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train_wordpiece("abc", 20), "texts must be an iterable of texts, got a single str"),
        (lambda: train_wordpiece(["a", None], 20), "texts[1] must be str or bytes, got NoneType"),
        (lambda: train_wordpiece(None, 20), "texts must be an iterable of texts, got NoneType"),
        (lambda: train_wordpiece({"a": 3}, 20), "texts must be an iterable of texts, got dict"),
        (
            lambda: train_wordpiece(["a"], 10**9),
            f"{SIZE}, got 1000000000",
        ),
        (
            lambda: train_wordpiece(["a"], 9, special_tokens="[UNK]"),
            "special_tokens must be a list of tokens, got '[UNK]'",
        ),
        (lambda: train_wordpiece(["a"], 9, special_tokens=None), "special_tokens must be a list of tokens, got None"),
        (
            lambda: train_wordpiece(["a"], 9, special_tokens=["[UNK]", 3]),
            "special_tokens[1] must be a non-empty string, got 3",
        ),
        (
            lambda: train_wordpiece(["a"], 5),
            "vocab_size must be an integer of at least 6 and of at most 16777215, got 5",
        ),
        (
            lambda: train_wordpiece(["a"], 9.5),
            "vocab_size must be an integer of at least 6 and of at most 16777215, got 9.5 of type float",
        ),
        (lambda: train_wordpiece(["a"], 9, min_frequency=0), "min_frequency must be an integer of at least 1, got 0"),
        (lambda: train_wordpiece(["a"], 9, limit_alphabet=0), "limit_alphabet must be an integer of at least 1, got 0"),
        (
            lambda: train_wordpiece(["a"], 9, special_tokens=["[PAD]"]),
            "special_tokens must be distinct and hold [UNK], got ('[PAD]',)",
        ),
        (
            lambda: train_wordpiece(["a"], 9, special_tokens=["[UNK]", "[UNK]"]),
            "special_tokens must be distinct and hold [UNK], got ('[UNK]', '[UNK]')",
        ),
    ],
)
def test_bad_training_input_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message


TOKENIZER = BertTokenizer(["[UNK]", "[CLS]", "[SEP]", "a", "##b", "中"])
DATA = "ab 中\r\n\n中\u2028a\nxé\n".encode() + b"a\xffb"


def test_a_file_becomes_one_line_of_ids_for_each_line(tmp_path, monkeypatch):
    path = tmp_path / "lines.txt"
    path.write_bytes(DATA)
    for batch in (1, 1 << 20):
        monkeypatch.setattr("linkboy.text.stream.BATCH_BYTES", batch)
        out = io.StringIO()
        report = tokenize_file(TOKENIZER, path, out)
        assert out.getvalue() == "3 4 5\n\n5 3\n0\n3 4\n"
        assert report.to_dict() == {"line_count": 5, "character_count": 11, "token_count": 8, "unknown_count": 1}
        assert report.summary == "5 lines, 11 characters: 8 tokens, of which [UNK] 1 (12.50%)"
    out = io.StringIO()
    tokenize_file(TOKENIZER, path, out, output="tokens", add_special_tokens=True)
    assert out.getvalue().splitlines()[0] == "[CLS] a ##b 中 [SEP]"


def test_standard_input_is_read_and_progress_goes_to_standard_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(DATA)))
    monkeypatch.setattr("linkboy.text.stream.BATCH_BYTES", 1)
    out = io.StringIO()
    assert tokenize_file(TOKENIZER, "-", out, progress=True).line_count == 5
    assert capsys.readouterr().out == ""


def test_an_unknown_output_or_a_missing_file_says_so(tmp_path):
    with pytest.raises(ValueError) as caught:
        tokenize_file(TOKENIZER, tmp_path / "x", io.StringIO(), output="id")
    assert str(caught.value) == "output must be one of ('ids', 'tokens'), got 'id'; did you mean 'ids'?"
    for tokenizer, destination, message in (
        (None, io.StringIO(), "tokenizer must be a BertTokenizer, got NoneType"),
        (TOKENIZER, "out.txt", "destination must be a text file open for writing, such as sys.stdout, got str"),
        (TOKENIZER, io.BytesIO(), "destination must be a text file open for writing, such as sys.stdout, got BytesIO"),
    ):
        with pytest.raises(TypeError) as caught:
            tokenize_file(tokenizer, tmp_path / "x", destination)
        assert str(caught.value) == message
    with pytest.raises(FileNotFoundError):
        tokenize_file(TOKENIZER, tmp_path / "x", io.StringIO())
