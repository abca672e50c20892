"""Labelled files that are made to fill the memory, or to be read as something else."""

import bz2
import contextlib
import gzip
import os
import pickle
import zipfile

import numpy as np
import polars as pl
import pytest
from tests.attacks.conftest import MOST_MIB, peak_mib

from linkboy import read_labelled

TIMES = "unpacks to more than 200 times its size, which no text does; unpack it by hand if you trust it"
LONG = "has a line of more than 16 MiB, so it is not a file of lines; check it"


def sparse(path, size):
    """A file that claims `size` bytes and takes none on the disk."""
    path.touch()
    os.truncate(path, size)
    return path


def bomb(path, line):
    """A gzip file that repeats a line for a gigabyte; its members are all the same, so it is quickly written."""
    path.write_bytes(gzip.compress(line * (2**20 // len(line))) * 1024)
    return path


@pytest.mark.parametrize("name", ["rows.tsv.gz", "rows.csv.gz", "rows.jsonl.gz"])
def test_a_gzip_bomb_of_one_endless_line_is_refused(tmp_path, refusal, name):
    path = bomb(tmp_path / name, b"a")
    assert refusal(lambda: read_labelled(path)) == f"{path} {LONG}"


def test_a_gzip_bomb_of_rows_is_refused(tmp_path, refusal):
    path = bomb(tmp_path / "rows.tsv.gz", b"a" * 1000 + b"\tb\n")
    assert refusal(lambda: read_labelled(path)) == f"{str(path)!r} {TIMES}"


def test_a_parquet_file_in_a_gzip_bomb_is_refused(tmp_path, refusal):
    path = bomb(tmp_path / "rows.parquet.gz", b"PAR1")
    assert refusal(lambda: read_labelled(path)) == f"{str(path)!r} {TIMES}"


def test_a_bomb_is_refused_where_bad_rows_are_skipped_too(tmp_path, refusal):
    path = bomb(tmp_path / "rows.tsv.gz", b"\0" * 1000 + b"\t\n")
    assert refusal(lambda: read_labelled(path, on_bad_row="skip")) == f"{str(path)!r} {TIMES}"


@pytest.mark.parametrize("name", ["rows.tsv", "rows.csv", "rows.jsonl"])
def test_a_file_of_a_terabyte_without_a_line_is_not_read(tmp_path, refusal, name):
    path = sparse(tmp_path / name, 2**40)
    assert refusal(lambda: read_labelled(path)) == f"{path} {LONG}"
    assert refusal(lambda: read_labelled(path, encoding="utf-16-le")) == f"{path} {LONG}"


def test_a_device_without_an_end_is_not_read_to_it(tmp_path, refusal):
    path = tmp_path / "rows.tsv"
    path.symlink_to("/dev/zero")
    assert refusal(lambda: read_labelled(path)) == f"{path} {LONG}"


def test_a_quote_that_is_never_closed_takes_no_more_than_the_file(tmp_path, refusal):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'text,label\n"' + b"a\n" * 2**20)
    assert refusal(lambda: read_labelled(path)) == f"{path} line 2: a quote is opened and never closed; close it"


def test_long_texts_and_zero_bytes_are_read_as_they_are(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\n" + b"a" * 10_000_000 + b",x\n\0\0 b,y\n")
    found = []
    assert peak_mib(lambda: found.append(read_labelled(path))) < 13 * 10
    assert [len(text) for text in found[0].texts] == [10_000_000, 4]


def test_a_pickle_and_an_archive_in_a_false_name_are_refused(tmp_path, refusal):
    path = tmp_path / "rows.tsv"
    path.write_bytes(pickle.dumps({"text": "a"}))
    assert refusal(lambda: read_labelled(path)).startswith(
        f"{path} is a pickle, which could run any code (it begins with b'\\x80\\x04"
    )
    for content in (pickle.dumps({"text": "a"}), gzip.compress(b"a\tb\n")):
        parquet = tmp_path / "rows.parquet"
        parquet.write_bytes(content)
        assert (
            refusal(lambda path=parquet: read_labelled(path))
            == f"{parquet} is not a complete Parquet file; write it again"
        )


def test_a_parquet_file_of_few_bytes_and_many_rows_is_refused(tmp_path, refusal):
    path = tmp_path / "rows.parquet"
    rows = pl.select(pl.repeat("a", 2_000_000).alias("text"), pl.repeat("b", 2_000_000).alias("label"))
    rows.write_parquet(path, row_group_size=2_000_000)
    assert path.stat().st_size < 2**16
    assert refusal(lambda: read_labelled(path)) == f"{str(path)!r} {TIMES}"


def test_a_parquet_file_that_repeats_one_long_text_is_refused(tmp_path, refusal):
    path = tmp_path / "rows.parquet"
    text = "a" * 1_000_000
    pl.DataFrame({"text": [text] * 100, "label": ["b"] * 100}).write_parquet(path)
    if path.stat().st_size > 2**20:
        pytest.skip("waits for polars 2: a writer that stores a repeated text once")
    assert refusal(lambda: read_labelled(path)) == f"{str(path)!r} {TIMES}"


def test_a_parquet_file_with_any_byte_changed_is_read_or_refused(tmp_path):
    whole = tmp_path / "whole.parquet"
    pl.DataFrame({"text": ["a", "bc"] * 20, "label": ["x", "y"] * 20}).write_parquet(whole)
    content, generator = whole.read_bytes(), np.random.default_rng(0)
    read = 0
    for number in range(300):
        damaged = bytearray(content)
        for place in generator.integers(len(content), size=2):
            damaged[place] = generator.integers(256)
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            read_labelled(path, on_bad_row="skip")
            read += 1
    assert 0 < read < 250


def test_bombs_of_every_kind_are_refused(tmp_path, refusal):
    line = b"a" * 1000 + b"\tb\n"
    content = line * (2**26 // len(line))
    path = tmp_path / "rows.tsv.bz2"
    path.write_bytes(bz2.compress(content))
    assert refusal(lambda: read_labelled(path)) == f"{str(path)!r} {TIMES}"
    path = tmp_path / "rows.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.tsv", content)
    assert refusal(lambda: read_labelled(path)) == f"{str(path)!r} {TIMES}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
        archive.writestr("xl/sharedStrings.xml", content)
    assert refusal(lambda: read_labelled(path)) == f"{str(path)!r} {TIMES}"


def test_a_zip_of_very_many_files_is_refused(tmp_path, refusal):
    path = tmp_path / "rows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(10_001):
            archive.writestr(str(number), b"")
    assert refusal(lambda: read_labelled(path)) == (
        f"{path} cannot be read: its archive has more than 10,000 entries; unpack it by hand if you trust it"
    )


def test_an_endless_value_of_json_and_a_deep_one_are_refused(tmp_path, refusal):
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"text": "' + b"a" * (40 << 20))
    assert refusal(lambda: read_labelled(path)) == f"{path} line 1: a value has more than 16 MiB; correct it"
    path.write_bytes(b"[" * 1_000_000)
    assert "JSON that cannot be read" in refusal(lambda: read_labelled(path))


def test_an_array_of_a_million_objects_takes_the_memory_of_its_texts(tmp_path):
    path = tmp_path / "rows.json"
    row = b'{"text": "a b", "label": "x", "more": "' + b"c" * 400 + b'"},'
    path.write_bytes(b"[" + row * 100_000 + row[:-1] + b"]")
    found = []
    assert peak_mib(lambda: found.append(len(read_labelled(path)))) < MOST_MIB
    assert found == [100_001]


def test_a_workbook_that_is_damaged_is_refused(tmp_path, refusal):
    pytest.importorskip("fastexcel")
    path = tmp_path / "rows.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook>&a;&a;")
    assert refusal(lambda: read_labelled(path)).startswith(f"{path} cannot be read as an Excel workbook (")
