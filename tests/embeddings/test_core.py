"""The core's reader of vectors beside the readable path: equal bits, words, reports and refusals, whatever the file."""

import gzip
import math
import os
import random
import struct
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.embeddings.cases import AWKWARD, as_bytes

from linkboy import load_embeddings
from linkboy._compiled import SWITCH
from linkboy.embeddings import _source

pytestmark = pytest.mark.usefixtures("compiled")
OPTIONS = {"unk_init": "zeros", "on_bad_row": "skip"}
NUMBERS = [
    *(
        "0",
        "-0",
        "-0.0",
        "1",
        "-1.5",
        ".5",
        "-.5",
        "5.",
        "+1",
        "1e5",
        "1E-5",
        "-2.5e+3",
        "007",
        "0.1",
        "0.30000001192092896",
    ),
    *(
        "9007199254740992",
        "9007199254740993",
        "9007199254740993.0",
        "18446744073709551617",
        "123456789012345678901234567890",
    ),
    *("0.1234567890123456789012345", "1e22", "1e23", "1e-22", "1e-23", "4.9e-324", "2.4703282292062328e-324", "1e-400"),
    *("1.4e-45", "7.006492321624085e-46", "3.4028235e38", "3.4028235677973366e38", "1e39", "1e308", "1e309", "-1e400"),
    *(
        "0." + "0" * 30 + "1",
        "1" + "0" * 400,
        "0" * 30 + "1.5",
        "16777217",
        "0.1" + "0" * 300 + "1",
        "1.00000005960464477540",
    ),
    *("nan", "-nan", "inf", "-Infinity", "NaN"),
]
NOT_NUMBERS = [
    "x",
    "",
    "-",
    ".",
    "-.",
    "e5",
    "1e",
    "1e+",
    "1_0",
    "0x10",
    "1.2.3",
    "--1",
    "+-1",
    "1-",
    "1f",
    "٣",
    "nan(1)",
    "1\t",
    "1\0",
    ",",
]
WORDS = [
    *AWKWARD.values(),
    "a",
    "b",
    "new",
    "at",
    "",
    "1.5",
    "\t",
    "ab" * 40,
    "x" * 8,
    "x" * 7,
    "x" * 9,
    b"b\xff",
    "中文",
]


@contextmanager
def without_core():
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "0"
    try:
        yield
    finally:
        os.environ.pop(SWITCH)
        if before is not None:
            os.environ[SWITCH] = before


def outcome(path, vocab, options):
    """Return the bits of the matrix and all that the report says, or the text of the refusal."""
    try:
        weight, report = load_embeddings(path, vocab, **options)
    except (ValueError, OverflowError) as error:
        return type(error), str(error)
    said = report.to_dict()
    return weight.dtype, weight.shape, weight.numpy().tobytes(), repr(said), report.bad_rows, report.duplicates


def assert_read_alike(path, vocab, **options):
    __tracebackhide__ = True
    read = outcome(path, vocab, {**OPTIONS, **options})
    with without_core():
        assert read == outcome(path, vocab, {**OPTIONS, **options})
    return read


def numbers(*given):
    return np.array(given, np.int64).tobytes()


def write(path, rows, separator=b" ", end=b"\n"):
    path.write_bytes(b"".join(separator.join(map(as_bytes, row)) + end for row in rows))
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("number", [*NUMBERS, *NOT_NUMBERS])
def test_a_number_is_read_as_without_the_core(number, dtype, tmp_path):
    plain = ["0.25"] * 3
    path = write(
        tmp_path / "v",
        [["a", *plain], ["b", number, "1", "2"], ["c", "1", number, "-2"], ["d", "1", "2", number], ["e", *plain]],
    )
    assert_read_alike(path, None, dtype=dtype)
    assert_read_alike(path, None, dtype=dtype, on_bad_row="raise")
    if number in NUMBERS:
        weight = load_embeddings(path, ["c"], dtype=dtype)[0]
        with np.errstate(over="ignore"):
            expected = np.array([1, float(number), -2]).astype("f4" if dtype == torch.float32 else "f8")
        assert weight.numpy().tobytes() == expected[None].tobytes()


def test_random_numbers_are_those_of_float_rounded_once_more(compiled):
    rng = random.Random(0)
    tokens = [
        f"{rng.uniform(-1, 1) * 10 ** rng.randint(-9, 9):.{rng.randint(1, 25)}{rng.choice('efg')}}"
        for _ in range(30_000)
    ]
    tokens += [repr(struct.unpack("<d", rng.randbytes(8))[0]) for _ in range(20_000)]
    tokens += [f"{np.float32(value).item() + math.ulp(np.float32(1)) / 2:.20f}" for value in np.linspace(1, 2, 5000)]
    good = [token for token in tokens if abs(float(token)) < 3.4e38]
    text = ("w " + " ".join(good) + "\n").encode()
    for wide, dtype in ((False, np.float32), (True, np.float64)):
        values, *rest = compiled.Rows(None, len(good), b" ", wide, 1).text(text, len(text), True)
        assert rest == [[b"w"], numbers(1), b"", len(text), 1]
        assert np.frombuffer(values, dtype).tobytes() == np.array(list(map(float, good))).astype(dtype).tobytes()


def random_row(rng, dim, separator):
    row = [rng.choice(WORDS), *(rng.choice(NUMBERS[:4] + ["0.5"] * 9) for _ in range(dim))]
    if rng.random() < 0.2:
        row[rng.randrange(len(row))] = rng.choice(NUMBERS + NOT_NUMBERS)
    if rng.random() < 0.1:
        del row[rng.randrange(len(row))]
    if rng.random() < 0.1:
        row.insert(rng.randrange(len(row) + 1), rng.choice(["", "1", "1.5", "x"]))
    padding = rng.choice([b""] * 6 + [b" ", b"\r", b" \r", b"\t", b"  "])
    return separator.join(map(as_bytes, row)) + padding


@pytest.mark.parametrize("separator", [b" ", b"\t"])
@pytest.mark.parametrize("seed", range(7))
def test_files_of_any_rows_are_read_as_without_the_core(seed, separator, tmp_path, monkeypatch):
    monkeypatch.setattr(_source, "BUFFER", 256)
    rng = random.Random(seed)
    dim = rng.choice([1, 2, 3, 7])
    rows = [random_row(rng, dim, separator) for _ in range(60)]
    path = tmp_path / "v"
    path.write_bytes(b"\n".join(rows) + rng.choice([b"", b"\n", b"\n\n", b"\n \r", b"\n\r\n"]))
    vocab = [w if isinstance(w, str) else w.decode("latin-1") for w in dict.fromkeys(WORDS) if w]
    for duplicates in ("first", "last", "raise"):
        assert_read_alike(path, vocab, duplicates=duplicates)
        assert_read_alike(path, None, duplicates=duplicates)
    assert_read_alike(path, vocab, on_bad_row="raise")
    assert_read_alike(path, vocab, fallback=("exact", "casefold"), dim=dim)
    assert_read_alike(path, vocab, dtype=torch.float64, encoding="latin-1")


@settings(max_examples=40, deadline=None)
@given(
    content=st.lists(
        st.sampled_from(
            [b"a", b"b c", b" ", b"\n", b"\t", b"1", b"-0.5", b"1e3", b"x", b"\r", b"\xff", b"\0", b".", b"a 1 2\n"]
        )
    )
)
def test_any_bytes_are_read_as_without_the_core(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "v"
    path.write_bytes(b"a 1 2\nd 0.5 1\n" + b"".join(content))
    assert_read_alike(path, ["a", "b c", "b", "1", "d"])
    assert_read_alike(path, None)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_lines_over_the_borders_of_the_buffer(pack, tmp_path, monkeypatch):
    monkeypatch.setattr("linkboy.embeddings._text.BUFFER", 64)
    rows = [f"w{n} " + " ".join(str(n / 8 + i) for i in range(5)) for n in range(200)]
    rows[50] = "long" * 100 + rows[50]
    path = tmp_path / "v"
    path.write_bytes(pack("\n".join(rows).encode()))
    weight, report = load_embeddings(path)
    assert (report.row_count, len(report.words), report.words[50]) == (200, 200, "long" * 100 + "w50")
    assert weight.tolist() == [[n / 8 + i for i in range(5)] for n in range(200)]
    assert_read_alike(path, ["w3", "w199", "none"])


def test_bad_rows_and_duplicates_are_reported_in_the_order_of_the_file(tmp_path):
    rows = [["a", "1", "2"], ["b", "1", "x"], ["a", "3", "4"], ["c", "1"], ["d", "nan(1)", "2"], ["e", "5", "6"]]
    path = write(tmp_path / "v", rows)
    assert_read_alike(path, None)
    report = load_embeddings(path, on_bad_row="skip")[1]
    assert [row.line for row in report.bad_rows] == [2, 4, 5]
    for options in (
        {},
        {"on_bad_row": "raise"},
        {"duplicates": "raise"},
        {"on_bad_row": "raise", "duplicates": "raise"},
    ):
        assert_read_alike(path, None, **options)
    with pytest.raises(ValueError, match=r"line 2 \(word 'b'\): 'x' is not a number"):
        load_embeddings(path)


def binary(words, dim=3, header=None, numbers=None):
    rng = np.random.default_rng(0)
    body = b"".join(
        as_bytes(word) + b" " + (numbers or rng.normal(0, 1, dim).astype("<f4").tobytes()) for word in words
    )
    return (header or b"%d %d\n" % (len(words), dim)) + body


@pytest.mark.parametrize("cut", [0, 1, 5, 13])
@pytest.mark.parametrize("newline", ["", "\n"])
def test_binary_files_are_read_as_without_the_core(newline, cut, tmp_path, monkeypatch):
    monkeypatch.setattr("linkboy.embeddings._binary._CHUNK", 100)
    path = tmp_path / "v"
    for dim in (1, 3, 9):
        for words in (
            ["a", "b", "中文", "c", "a", "d" * 50] * 5,
            [*AWKWARD.values(), "z"],
            ["a", b"\xff", "b"],
            ["", "a", "\x01", "b"],
        ):
            content = binary([newline + word if isinstance(word, str) else word for word in words], dim)
            path.write_bytes(content[: len(content) - cut])
            for vocab in (None, ["a", "new york", "中文", "no", "z"]):
                assert_read_alike(path, vocab, format="word2vec-bin")
                assert_read_alike(path, vocab, format="word2vec-bin", dtype=torch.float64, on_bad_row="raise")


def test_a_binary_file_of_unusual_numbers_is_read_as_without_the_core(tmp_path):
    path = tmp_path / "v"
    for value in (math.nan, math.inf, 1e30, 1e-30, 0.0, -0.0, 1e-10, 1e6, -5e5):
        path.write_bytes(binary(["a", "b c", "d"], 2, numbers=struct.pack("<2f", value, 1)))
        assert_read_alike(path, None, format="word2vec-bin")


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=60))
def test_words_of_binary_files_are_text_where_python_says_so(compiled, content):
    word = content.replace(b" ", b"")
    chunk = word + b" " + struct.pack("<f", 1.5)
    controls = set(range(32)) - set(b"\t\n\r")
    try:
        word.decode()
        is_text = not controls & set(word)
    except UnicodeDecodeError:
        is_text = False
    read = compiled.Rows(None, 1, b" ", False, 0).records(chunk, True)
    assert read == ((chunk[-4:], [word.lstrip(b"\n")], numbers(0), 1, len(chunk)) if is_text else None)


def test_utf8_of_every_kind_and_its_near_misses(compiled):
    def is_text(word):
        return compiled.Rows(None, 1, b" ", False, 0).records(word + b" " + bytes(4), True) is not None

    for code in [*range(0x80, 0x3000, 7), *range(0xD7F0, 0xE010), 0xFFFF, 0x10000, 0x10FFFF]:
        surrogate = 0xD800 <= code < 0xE000
        assert is_text(chr(code).encode("utf-8", "surrogatepass")) is not surrogate
    for bad in (
        b"\x80",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xc3",
        b"\xe4\xb8",
        b"\xe4\xb8a",
        b"\xf0\x9f\x98",
    ):
        assert not is_text(bad)
        assert not is_text(b"a" + bad + b"b")


def test_rows_refuses_what_it_cannot_work_with(compiled):
    for arguments, error, text in [
        (
            (None, 0, b" ", False, 1),
            ValueError,
            "Rows needs a list of words or None, and a number of numbers from 1 on",
        ),
        ((None, 2**40, b" ", False, 1), ValueError, "Rows needs a list of words or None"),
        (((b"a",), 1, b" ", False, 1), ValueError, "Rows needs a list of words or None"),
        ((["a"], 1, b" ", False, 1), TypeError, "words must be a list of bytes"),
    ]:
        with pytest.raises(error, match=text):
            compiled.Rows(*arguments)
    with pytest.raises(ValueError, match="size must be at most that of the buffer"):
        compiled.Rows(None, 1, b" ", False, 1).text(b"a 1", 4, True)
    assert compiled.Rows([], 1, b" ", False, 1).text(b"a 1\nb 2", 7, False) == (b"", [], b"", b"", 4, 1)
    assert compiled.Rows(None, 1, b" ", False, 1).text(b"", 0, True) == (b"", [], b"", b"", 0, 0)
    assert compiled.Rows(None, 1, b" ", False, 9).text(b"a 1\n\nb 2", 8, True)[1:] == (
        [b"a", b"b"],
        numbers(9, 11),
        numbers(1, 10, 4, 5),
        8,
        3,
    )
    many = [b"%d" % n for n in range(5000)]
    assert compiled.Rows(many, 1, b" ", False, 1).text(b"77 1\n5000 1\n-1 2\n4999 3\n", 24, True)[1] == [b"77", b"4999"]
