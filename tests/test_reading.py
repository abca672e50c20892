"""Lines and archives of foreign files: any encoding, bounded memory, messages that name the place."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import sys
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linkboy._reading import (
    UNPACKING_ERRORS,
    BoundedText,
    SmallReads,
    codec_of,
    compression_of,
    damaged,
    decoded_lines,
    foreign_kind,
    read_lines,
    unpacked,
    unpacking_errors,
)

TEXT = "体育\t0\nwords and words\n\nlast".encode()
PACK = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def message_of(error, call, *arguments, **keywords):
    with pytest.raises(error) as caught:
        call(*arguments, **keywords)
    return str(caught.value)


def lines_of(content, encoding="utf-8", **options):
    bad = []
    found = list(
        decoded_lines(
            "file", io.BytesIO(content), encoding, lambda n, error, raw: bad.append((n, error.start, raw)), **options
        )
    )
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    return [line for _, line in found], bad


@pytest.mark.parametrize("kind", PACK)
def test_packed_files_are_told_by_their_content_and_read(kind):
    packed = PACK[kind](TEXT)
    assert compression_of(packed[:8]) == kind
    assert io.BufferedReader(unpacked(io.BytesIO(packed), kind)).read() == TEXT
    twice = packed + packed
    assert io.BufferedReader(unpacked(io.BytesIO(twice), kind)).read() == TEXT + TEXT


@pytest.mark.parametrize("kind", PACK)
def test_a_packed_file_cut_off_raises_one_of_the_known_errors(kind):
    packed = PACK[kind](os.urandom(4096))
    with pytest.raises(UNPACKING_ERRORS) as caught:
        io.BufferedReader(unpacked(io.BytesIO(packed[: len(packed) // 2]), kind)).read()
    assert str(damaged("a.txt", kind, caught.value)).startswith(
        f"'a.txt' is damaged or incomplete: its {kind} data cannot be unpacked ("
    )


def test_a_zstd_file_is_read_within_bounds_or_needs_a_package(monkeypatch):
    zstd = pytest.importorskip("backports.zstd")
    packed = zstd.compress(TEXT)
    assert compression_of(packed) == "zstd"
    assert unpacked(io.BytesIO(packed), "zstd").read() == TEXT
    maker = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 29})
    with pytest.raises(unpacking_errors()):
        unpacked(io.BytesIO(maker.compress(b"abc" * 100_000) + maker.flush()), "zstd").read()
    with pytest.raises(unpacking_errors()):
        unpacked(io.BytesIO(packed[:20]), "zstd").read()
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    assert message_of(ModuleNotFoundError, unpacked, io.BytesIO(packed), "zstd") == (
        "a file packed by zstd needs the package backports.zstd, which is not installed; run: pip install 'linkboy[files]'"
    )


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself"),
        (b"\xef\xbb\xbf\n<!DOCTYPE HTML><html>", "an HTML page"),
        (b"%PDF-1.7", "a PDF file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "a file of an old Office program (.xls, .doc)"),
        (b"name".ljust(257, b"\0") + b"ustar\0", "a tar archive"),
        (b"\x93NUMPY\x01\x00v\x00", "a NumPy array"),
        (b"@relation reviews\n@attribute text string\n", "an ARFF file of Weka"),
        (b"CREATE TABLE IF NOT EXISTS r (t text, l text);\n", "a dump of a database in SQL"),
        (b"-- MySQL dump\n--\n-- Host: x\n\nDROP TABLE IF EXISTS `r`;\n", "a dump of a database in SQL"),
        (b"PRAGMA foreign_keys=OFF;\n", "a dump of a database in SQL"),
        (pickle.dumps({"text": ["good"]}), "a pickle, which could run any code"),
        (b"<stata_dta><header><release>118</release>", "a Stata file"),
        (b"\x72\x02\x01\x00\x02\x00", "a Stata file"),
        (b"$FL2@(#) SPSS DATA FILE", "an SPSS file"),
        (bytes(12) + b"\xc2\xea\x81\x60\xb3\x14\x11\xcf", "a SAS file"),
        (b"RDX3\nX\n\x00\x00\x00\x03", "a file of R (.rds, .RData)"),
        (b"X\n\x00\x00\x00\x03", "a file of R (.rds, .RData)"),
        (b"\xff\xff\xff\xff\xa0\x00\x00\x00\x10\x00", "an Arrow stream, as datasets saves it"),
        (b'<table border="1" class="dataframe">', "an HTML page"),
        (b"x\n0\n", None),
        (b"-- " * 600 + b"\n", None),
        (b"create table reservations for two\tbook\n", None),
        (b"insert into the slot\tdevice\n", None),
        (b"text,label\n", None),
    ],
)
def test_what_people_pass_by_mistake_is_named(head, what):
    assert (foreign_kind(head) or (None,))[0] == what


def test_an_xz_file_that_asks_for_much_memory_is_refused():
    packed = lzma.compress(TEXT, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}])
    with pytest.raises(lzma.LZMAError):
        io.BufferedReader(unpacked(io.BytesIO(packed), "xz")).read()


def test_a_bomb_is_stopped_and_dense_text_is_not():
    packed = io.BytesIO(gzip.compress(b"a" * (1 << 27)))
    bomb = BoundedText("bomb.gz", packed, unpacked(packed, "gzip"))

    def drain():
        while bomb.read(1 << 20):
            pass

    assert message_of(ValueError, drain) == (
        "'bomb.gz' unpacks to more than 200 times its size, which no text does; unpack it by hand if you trust it"
    )
    text = os.urandom(1 << 16).hex().encode() * 16  # packs to a sixteenth of a half
    packed = io.BytesIO(gzip.compress(text))
    assert BoundedText("a.gz", packed, unpacked(packed, "gzip")).read(1 << 30) == text


def test_a_zip_with_a_large_directory_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(300):
            archive.writestr(str(number), b"")
    with SmallReads(path, 1000) as file:
        assert message_of(ValueError, zipfile.ZipFile, file) == (
            "its archive has a directory or entry of more than 1,000 bytes"
        )
    with SmallReads(path, 1 << 20, 299) as file:
        assert message_of(ValueError, zipfile.ZipFile, file) == "its archive has more than 299 entries"
    with SmallReads(path, 1 << 20, 300) as file, zipfile.ZipFile(file) as archive:
        assert len(archive.namelist()) == 300


def test_one_word_per_line_keeps_what_only_looks_like_an_end(tmp_path):
    path = tmp_path / "words"
    path.write_bytes("\ufeffa\r\n\u2028\n\x0b\n b \n\n".encode())
    assert read_lines(path, 100) == ["a", "\u2028", "\x0b", " b ", ""]
    path.write_bytes(b"")
    assert read_lines(path, 100) == []
    path.write_bytes(b"\n")
    assert read_lines(path, 100) == [""]
    path.write_bytes("一\n二\n".encode() + b"\xff\n")
    assert message_of(ValueError, read_lines, path, 100) == f"{str(path)!r} line 3 is not UTF-8; save the file as UTF-8"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), max_size=8),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_lines_come_back_in_every_encoding(lines, encoding, end):
    if lines and lines[0].startswith("\ufeff"):
        return  # it cannot be told from a byte order mark
    content = "".join(line + end for line in lines).encode(encoding)
    found, bad = lines_of(content, encoding)
    assert (found, bad) == (lines, [])


def test_a_line_that_cannot_be_decoded_is_reported_and_the_rest_is_read():
    assert lines_of(b"a\nb\xff\nc") == (["a", None, "c"], [(2, 1, b"b\xff")])


def test_plainly_other_encodings_are_named():
    assert message_of(ValueError, lines_of, "一\n二".encode("utf-16")) == (
        "file is UTF-16, not UTF-8; read it with encoding='utf-16', or save it as UTF-8"
    )
    assert message_of(ValueError, lines_of, b"odd", "utf-16-le") == (
        "file is not utf-16-le; name the encoding it was saved in"
    )
    for name in ("utf-9", "hex"):
        assert message_of(ValueError, codec_of, name) == (
            f"encoding must be one that Python knows, such as 'utf-8' or 'gb18030', got {name!r}"
        )


def test_a_line_without_end_is_refused_before_it_fills_the_memory():
    assert message_of(ValueError, lines_of, b"a" * (3 << 20), longest=2 << 20) == (
        "file has a line of more than 2 MiB, so it is not a file of lines; check it"
    )


def test_carriage_returns_end_lines_only_where_asked_for_and_alone():
    assert lines_of(b"a\rb\r")[0] == ["a\rb"]
    assert lines_of(b"a\rb\r", carriage_returns=True)[0] == ["a", "b"]
    assert lines_of(b"a\rb\nc", carriage_returns=True)[0] == ["a\rb", "c"]


def test_lines_of_a_pipe_come_one_by_one():
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123
        lines = decoded_lines("pipe", file, "utf-8", print)
        pipe.write(b"first\n")
        assert next(lines) == (1, "first")
        pipe.write(b"second")
        pipe.write(b" half\n")
        assert next(lines) == (2, "second half")
