"""Every awkward word comes out right, from text and from binary files, alone, among others, and in a full load."""

import bz2
import gzip
import zipfile

import numpy as np
import pytest
from tests.embeddings.cases import AWKWARD, DIM, text_row, vector, write_binary, write_text

from linkboy import load_embeddings
from linkboy._report import plural

FILES = {
    "text": lambda path, words: write_text(path, words),
    "text with header": lambda path, words: write_text(path, words, header=True),
    "text with CRLF": lambda path, words: write_text(path, words, end=b"\r\n"),
    "text with trailing spaces": lambda path, words: write_text(path, words, header=True, end=b" \n"),
    "binary": lambda path, words: write_binary(path, words, newline=False),
    "binary with newlines": lambda path, words: write_binary(path, words, newline=True),
}
ALL = list(AWKWARD.values())
files = pytest.mark.parametrize("write", FILES.values(), ids=FILES)


@files
@pytest.mark.parametrize("word", AWKWARD.values(), ids=AWKWARD)
def test_an_awkward_word_is_found_between_plain_ones(write, word, tmp_path):
    words = ["first", word, "second", "third"] if word != "plain" else ["first", word]
    path = write(tmp_path / "vectors", words)
    weight, report = load_embeddings(path, [word, "first"], fallback=("exact",))
    assert weight.tolist() == [vector(1), vector(0)]
    assert (report.found, report.row_count, report.bad_row_count) == (2, len(words), 0)


@files
def test_all_awkward_words_stand_in_one_file(write, tmp_path):
    path = write(tmp_path / "vectors", ALL)
    weight, report = load_embeddings(path, ALL[::-1], fallback=("exact",))
    assert weight.tolist() == [vector(number) for number in range(len(ALL))][::-1]
    assert (report.missing, report.bad_row_count, report.duplicate_count) == ((), 0, 0)


@files
def test_a_full_load_gives_all_awkward_words_in_order(write, tmp_path):
    path = write(tmp_path / "vectors", ALL)
    weight, report = load_embeddings(path)
    assert report.words == ALL
    assert weight.tolist() == [vector(number) for number in range(len(ALL))]


@files
def test_a_word_that_is_not_utf8_is_kept_and_reported(write, tmp_path):
    path = write(tmp_path / "vectors", ["a", b"b\xff\xfec", "d"])
    weight, report = load_embeddings(path)
    assert (report.words, report.undecodable) == (["a", "b\ufffd\ufffdc", "d"], 1)
    assert weight.tolist() == [vector(number) for number in range(3)]
    assert "1 word not in UTF-8, decoded with U+FFFD" in str(report)
    assert load_embeddings(path, ["d", "a"])[0].tolist() == [vector(2), vector(0)]


@files
def test_of_equal_words_the_first_counts(write, tmp_path):
    path = write(tmp_path / "vectors", ["a", "b", "a", "c"])
    for vocab in (None, ["a", "b", "c"]):
        weight, report = load_embeddings(path, vocab)
        assert weight.tolist() == [vector(0), vector(1), vector(3)]
        assert (report.duplicate_count, report.duplicates) == (1, ("a",))
        weight, _ = load_embeddings(path, vocab, duplicates="last")
        assert weight.tolist() == [vector(2), vector(1), vector(3)]
        with pytest.raises(ValueError) as caught:
            load_embeddings(path, vocab, duplicates="raise")
        assert str(caught.value).endswith(
            ": the word 'a' is in an earlier line too; pass duplicates='first' or 'last' to choose one"
        )


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    path = write_text(tmp_path / "vectors", ["a", "b"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_embeddings(path)[1].words == ["a", "b"]
    path.write_bytes(b"\xef\xbb\xbf2 6\n" + path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    assert load_embeddings(path)[1].header == (2, 6)


@pytest.mark.parametrize("count", [0, 1, 99, 10**15])
def test_the_count_of_a_header_is_reported_and_never_trusted(count, tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"%d 6\n" % count + b"".join(text_row(b"w%d" % n, vector(n)) for n in range(3)))
    weight, report = load_embeddings(path)
    assert (weight.shape, report.header) == ((3, 6), (count, 6))
    assert f"the header claims {plural(count, 'row')} of 6 numbers, which is not so" in str(report)


def test_a_header_with_another_dimension_than_the_rows_is_reported(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"3 300\n" + b"".join(text_row(b"w%d" % n, vector(n)) for n in range(3)))
    weight, report = load_embeddings(path)
    assert (weight.tolist(), report.header) == ([vector(n) for n in range(3)], (3, 300))


def test_a_number_as_first_word_is_no_header(tmp_path):
    path = write_text(tmp_path / "vectors", ["2019", "a"])
    assert load_embeddings(path)[1].words == ["2019", "a"]
    path.write_bytes(b"2019 5\na 2\nb 3\n")
    weight, report = load_embeddings(path)
    assert (report.words, report.header, weight.flatten().tolist()) == (["2019", "a", "b"], None, [5, 2, 3])


def test_with_one_number_per_row_the_format_decides_what_the_first_line_is(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"2 1\na 2\nb 3\n")
    assert load_embeddings(path)[1].words == ["a", "b"]
    assert load_embeddings(path, format="glove")[1].words == ["2", "a", "b"]


@pytest.mark.parametrize("dim", [1, 2, 3, 300])
def test_any_dimension(dim, tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"".join(text_row(b"w%d" % n, vector(n, dim)) for n in range(3)))
    assert load_embeddings(path)[0].tolist() == [vector(n, dim) for n in range(3)]
    assert load_embeddings(path, ["w2"], dim=dim)[0].tolist() == [vector(2, dim)]


def test_bad_rows_are_listed_with_line_and_reason(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(
        b"first 0.5\n"  # the first row does not decide what a row is
        b"a 1 2\n"
        b"b 1 x\n"
        b"c 1.5 2.5 3.5\n"
        b"d 1  2\n"
        b"e\t1\t2\n"
        b"f 1 0x10\n"
        b"g 1_0 2\n"
        b"h 3 4\n"
        b"\n" + b"".join(b"more%d 0 0\n" % number for number in range(9)) + b"i 5"
    )
    weight, report = load_embeddings(path, on_bad_row="skip")
    assert (report.words[:2], weight[:2].tolist(), len(weight)) == (["a", "h"], [[1, 2], [3, 4]], 11)
    expected = [
        (1, "first", "expected 2 numbers, got 1"),
        (3, "b", "'x' is not a number"),
        (4, "c", "expected 2 numbers, got 3"),
        (5, "d", "'' is not a number"),
        (6, "e\t1\t2", "expected 2 numbers, got 0"),
        (7, "f", "'0x10' is not a number"),
        (8, "g", "'1_0' is not a number"),
        (20, "i", "expected 2 numbers, got 1"),
    ]
    assert sorted((row.line, row.word, row.reason) for row in report.bad_rows) == expected
    assert "skipped 8 bad rows: line 1 ('first': expected 2 numbers, got 1)" in str(report)
    wanted = load_embeddings(path, ["a", "b", "c", "d", "e", "g", "i"], unk_init="zeros", on_bad_row="skip")[1]
    assert sorted(row.line for row in wanted.bad_rows) == [3, 4, 5, 8, 20]
    assert wanted.found == 1


def test_a_bad_row_stops_the_loading_unless_it_may_be_skipped(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"a 1 2\nb 1 x\nc 3 4\nd 5\n")
    for vocab, line, word, reason in (
        (["b"], 2, "b", "'x' is not a number"),
        (["d"], 4, "d", "expected 2 numbers, got 1"),
    ):
        with pytest.raises(ValueError) as caught:
            load_embeddings(path, vocab)
        assert str(caught.value) == (
            f"{str(path)!r} line {line} (word {word!r}): {reason}; fix the line or pass on_bad_row='skip'"
        )
    assert load_embeddings(path, ["a"])[1].found == 1  # other rows are not looked at
    assert load_embeddings(path, ["a", "b"], on_bad_row="skip")[1].bad_row_count == 1


def test_a_good_row_counts_where_an_earlier_one_of_the_word_is_bad(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"a 1 2\nb 1 x\nb 3 4\n")
    for vocab in (None, ["a", "b"]):
        weight, report = load_embeddings(path, vocab, on_bad_row="skip")
        assert (weight.tolist(), report.bad_row_count) == ([[1, 2], [3, 4]], 1)


def test_a_shorter_wanted_word_is_not_taken_for_a_longer_one(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"at name@domain.com 9 9\nat 1 2\nat one 3 4\n")
    weight, report = load_embeddings(path, ["at", "at one"])
    assert (weight.tolist(), report.bad_row_count) == ([[1, 2], [3, 4]], 0)


def test_the_list_of_bad_rows_is_bounded(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"a 1 2\n" * 6000 + b"b 1 x\n" * 5000)
    report = load_embeddings(path, on_bad_row="skip")[1]
    assert (report.bad_row_count, len(report.bad_rows), report.duplicate_count) == (5000, 1000, 5999)


def test_a_truncated_binary_file_keeps_what_is_whole(tmp_path):
    path = write_binary(tmp_path / "vectors", ["a", "b", "c"], newline=False)
    path.write_bytes(path.read_bytes()[:-5])
    weight, report = load_embeddings(path, on_bad_row="skip")
    assert (report.words, weight.tolist()) == (["a", "b"], [vector(0), vector(1)])
    assert [(row.line, row.word, row.reason) for row in report.bad_rows] == [
        (3, "c", "the file ends within its numbers")
    ]


def test_a_truncated_gzip_file_is_told(tmp_path):
    path = tmp_path / "vectors.gz"
    content = b"".join(text_row(b"w%d" % n, vector(n)) for n in range(1000))
    path.write_bytes(gzip.compress(content)[:-100])
    with pytest.raises(ValueError) as caught:
        load_embeddings(path)
    assert str(caught.value) == (
        f"{str(path)!r} is damaged or incomplete: its gzip data cannot be unpacked (Compressed file ended before the "
        "end-of-stream marker was reached); get the file again"
    )


def test_binary_records_that_cross_chunks(tmp_path, monkeypatch):
    from linkboy.embeddings import _binary

    monkeypatch.setattr(_binary, "_CHUNK", 100)
    words = [f"word{number}" for number in range(200)] + ["new york", "a b c d e f g h", "last"]
    for newline in (False, True):
        path = write_binary(tmp_path / "vectors", words, newline=newline)
        weight, report = load_embeddings(path)
        assert report.words == words
        assert weight.tolist() == [vector(number, DIM) for number in range(len(words))]


def records(dtype: str, words: list[bytes], dim: int = 8) -> bytes:
    rows = np.random.default_rng(0).normal(size=(len(words), dim)).astype(dtype)
    return b"".join(word + b" " + row.tobytes() + b"\n" for word, row in zip(words, rows, strict=True))


@pytest.mark.parametrize(
    ("dtype", "claimed"), [("<f2", 8), ("<f8", 8), ("<f4", 7), ("<f4", 16)], ids=["half", "double", "fewer", "more"]
)
@pytest.mark.parametrize("on_bad_row", ["raise", "skip"])
def test_binary_records_of_another_size_than_the_header_says_are_refused(dtype, claimed, on_bad_row, tmp_path):
    path = tmp_path / "v.bin"
    path.write_bytes(b"200 %d\n" % claimed + records(dtype, [b"w%d" % n for n in range(200)]))
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, ["w0"], on_bad_row=on_bad_row)
    start = f"{str(path)!r} does not hold {plural(claimed, 'float32 number')} per word as its header claims: behind the first "
    assert str(caught.value).startswith(start + "there are words such as b")
    assert str(caught.value).endswith(
        "; its numbers may be of another size or another count, so write it again as text"
    )


@pytest.mark.parametrize("dim", [50, 300])
@pytest.mark.parametrize(
    ("dtype", "more", "newline"),
    [(*kind, end) for kind in [("<f2", 0), ("<f4", -1), ("<f4", -25), ("<f8", 0)] for end in (b"", b"\n")]
    + [("<f4", 1, b"\n")],
)
@pytest.mark.parametrize("words", ["words", "\u7532\u4e59\u4e19\u4e01"])
def test_binary_rows_that_are_out_of_step_are_refused_with_and_without_newlines(
    words, newline, dtype, more, dim, tmp_path
):
    numbers = np.random.default_rng(0).normal(size=(400, dim)) * 0.3
    path = tmp_path / "v"
    rows = [
        f"{words[n % 4 :]}{n}".encode() + b" " + row.astype(dtype).tobytes() + newline for n, row in enumerate(numbers)
    ]
    path.write_bytes(f"400 {dim + more}\n".encode() + b"".join(rows))
    for vocab in (None, [f"{words}0", f"{words[1:]}1"]):
        with pytest.raises(ValueError, match="per word as its header claims"):
            load_embeddings(path, vocab, on_bad_row="skip")


def test_binary_numbers_of_the_other_byte_order_are_refused(tmp_path):
    path = tmp_path / "v.bin"
    path.write_bytes(b"50 8\n" + records(">f4", [b"w%d" % n for n in range(50)]))
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, ["w0"])
    assert str(caught.value) == (
        f"{str(path)!r} holds its numbers with the highest byte first; write it again as text or with the lowest byte first"
    )


def test_binary_words_in_another_encoding_are_said(tmp_path):
    path = tmp_path / "v.bin"
    words = ["\u4e2d\u6587", "\u5317\u4eac", "\u4e0a\u6d77", "\u5929\u6c14"]
    path.write_bytes(b"5 8\n" + records("<f4", [b"plain", *(word.encode("gb18030") for word in words)]))
    _, report = load_embeddings(path, ["plain", *words])
    assert report.found == 1
    assert report.notes == (
        "words such as b'\\xd6\\xd0\\xce\\xc4' are not in UTF-8; pass encoding='gb18030' if '\u4e2d\u6587' is right",
    )
    _, report = load_embeddings(path, words, encoding="gb18030")
    assert (report.found, report.notes) == (4, ())


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_binary_numbers_of_any_size_are_read(scale, tmp_path):
    path = tmp_path / "v.bin"
    rows = (np.random.default_rng(0).normal(size=(9, 8)) * scale).astype("<f4")
    content = b"".join(b"w%d " % n + row.tobytes() + b"\n" for n, row in enumerate(rows))
    path.write_bytes(b"9 8\n" + content)
    assert np.array_equal(load_embeddings(path)[0].numpy(), rows)


@pytest.mark.parametrize("outer", ["gzip", "bz2", "zip"])
def test_a_file_that_is_packed_twice_is_told(outer, tmp_path):
    path, inner = tmp_path / "v", gzip.compress(b"a 1 2\nb 3 4\n")
    if outer == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("v.txt.gz", inner)
    else:
        path.write_bytes({"gzip": gzip, "bz2": bz2}[outer].compress(inner))
    with pytest.raises(ValueError) as caught:
        load_embeddings(path)
    assert str(caught.value) == (
        f"{str(path)!r} is packed twice, inside by gzip; unpack it once and name what comes out"
    )
