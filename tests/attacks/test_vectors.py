"""Vector files that lie, explode or are something else: one sentence, little memory, and nothing is executed."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.attacks.conftest import MOST_MIB, peak_mib
from tests.embeddings.cases import write_text

from linkboy import load_embeddings

ROOT = Path(__file__).resolve().parents[2]


class Bomb:
    def __reduce__(self):
        return os.system, ("touch executed",)


def npy(shape, dtype="<f4", content=b"") -> bytes:
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def safetensors(header: object, content: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def saved(save, *arrays, **named) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


def entry(**changes: object) -> dict[str, object]:
    return {"weight": {"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 48], **changes}}


def fasttext(words: int, *, dim: int = 5, bucket: int = 40) -> bytes:
    arguments = struct.pack("<12id", dim, 5, 5, 1, 5, 1, 2, 2, bucket, 3, 6, 100, 1e-4)
    return struct.pack("<2i", 793712314, 12) + arguments + struct.pack("<3iqq", words, words, 0, 1000, -1)


HOSTILE = {
    "empty": (b"", "{path} is empty; a vectors file holds a word and its numbers in each line"),
    "a header alone": (b"400000 300\n", "{path} holds a header and no rows; get the file again"),
    "prose": (
        b"Call me Ishmael.\n",
        "{path} holds no vectors that can be read: its rows must be a word and numbers, most of its first rows are not, "
        "got 'Call me Ishmael.' in line 1; write a word and its numbers in each line",
    ),
    "a pickle": (
        pickle.dumps(Bomb()),
        "{path} is a pickle, which could run any code and is never opened; export its words and numbers as text",
    ),
    "objects in an npy": (
        saved(np.save, np.array([Bomb()], object), allow_pickle=True),
        "'the file' in {path} holds Python objects, that is a pickle, which is never opened; save it as numbers or as "
        "strings of a fixed width",
    ),
    "objects in an npz": (
        saved(np.savez, words=np.array(["a", Bomb()], object), vectors=np.zeros((2, 6))),
        "'words.npy' in {path} holds Python objects, that is a pickle, which is never opened; save it as numbers or as "
        "strings of a fixed width, or pass words",
    ),
    "a model of fastText": (
        b"\xba\x16\x4f\x2f" + bytes(100),
        "{path} is a fastText model of version 0; those up to 12 are read",
    ),
    "a model of fastText that claims all words of the world": (
        fasttext(2**31 - 1), "{path} is a fastText model that is cut short; get the file again",
    ),
    "a model of fastText whose dictionary does not end": (
        fasttext(5) + b"x" * 10_000, "{path} is a fastText model with a damaged dictionary; get the file again",
    ),
    "a model of fastText of huge rows": (
        fasttext(2, dim=2**31 - 1), "{path} is a fastText model with a damaged header; get the file again",
    ),
    "an npy that claims a trillion rows": (
        npy((10**12, 6)),
        "{path} holds no words, so vocab must have one for each of its 1,000,000,000,000 rows, got 2",
    ),
    "an npy that is cut short": (
        npy((2, 6), content=bytes(30)),
        "{path} is cut short: its header claims 2 rows, 1 are there; get the file again",
    ),
    "an npy of huge rows": (npy((2, 10**9)), "{path} must hold 1 to 1,048,576 numbers per row, got 1,000,000,000"),
    "an npy with a broken header": (
        b"\x93NUMPY\x01\x00\x04\x00{{{{",
        "'the file' in {path} is not an array of NumPy (its header is damaged)",
    ),
    "an npy of huge items": (
        npy((2,), "<U100000000"),
        "'the file' in {path} has items of 400,000,000 bytes; they cannot be numbers",
    ),
    "an npy by columns that claims a trillion rows": (
        npy((2, 10**6), content=bytes(100)).replace(b"False", b"True "),
        "{path} is cut short: its header claims 2 rows, 0 are there; get the file again",
    ),
    "an npz without a matrix": (
        saved(np.savez, a=np.zeros(3)),
        "{path} must hold one matrix of floating-point numbers, or one named 'weight', got none; get the file of vectors",
    ),
    "an npz with too few words": (
        saved(np.savez, a=np.zeros((2, 6)), words=np.array(["a"])),
        "{path} must hold one word for each of the 2 rows of its matrix, got arrays of 1 words",
    ),
    "an empty zip": (
        zipped({}),
        "{path} must hold one file of vectors, got 0 files (nothing); unpack it and name one",
    ),
    "safetensors with a huge header": (
        (2**31).to_bytes(8, "little") + b"{",
        "{path} has a damaged safetensors header; get the file again",
    ),
    "safetensors with a deep header": (
        safetensors(b'{"a":' * 50_000),
        "{path} has a damaged safetensors header; get the file again",
    ),
    "safetensors with wrong offsets": (
        safetensors(entry(data_offsets=[0, 10**15])),
        "{path} has a damaged header: the size of its matrix is not that of its data",
    ),
    "safetensors with data beyond the end": (
        safetensors(entry(data_offsets=[10**9, 10**9 + 48]), bytes(48)),
        "{path} is cut short before its matrix; get the file again",
    ),
    "safetensors with bad words": (
        safetensors({**entry(), "__metadata__": {"words": "[1, 2]"}}, bytes(48)),
        "{path} must name a word for each of its 2 rows, and its metadata does not",
    ),
    "binary that claims huge rows": (
        b"5 999999999\na " + bytes(100),
        "{path} is not a word2vec binary file: it must begin with a line of two integers, the second from 1 to 1,048,576",
    ),
    "gzip that is damaged": (
        gzip.compress(b"a 1 2\n" * 99)[:-8] + bytes(8),
        "{path} is damaged or incomplete: its gzip data cannot be unpacked (CRC check failed 0x0 != 0x1398ce4e); get the file "
        "again",
    ),
    "bz2 that is damaged": (
        b"BZh9" + b"x" * 99,
        "{path} is damaged or incomplete: its bz2 data cannot be unpacked (Invalid data stream); get the file again",
    ),
    "xz that is cut short": (
        lzma.compress(b"a 1 2\n" * 99)[:-20],
        "{path} is damaged or incomplete: its xz data cannot be unpacked (the file ends before the data does); get the file "
        "again",
    ),
    "zip that is cut short": (
        zipped({"a.txt": b"a 1 2\n"})[:-10],
        "{path} is damaged or incomplete: its zip data cannot be unpacked (File is not a zip file); get the file again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_in_one_sentence(name, tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    content, message = HOSTILE[name]
    path = tmp_path / "vectors"
    path.write_bytes(content)
    assert refusal(lambda: load_embeddings(path, ["a", "b"])) == message.replace("{path}", repr(str(path)))
    assert not (tmp_path / "executed").exists()


def test_the_pickles_of_these_attacks_are_real_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["a pickle"][0])
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["../../escaped.txt", "/escaped.txt", "..\\escaped.txt", "C:escaped.txt"])
def test_the_name_of_a_member_is_never_a_path(name, tmp_path):
    folder = tmp_path / "one" / "two"
    folder.mkdir(parents=True)
    path = folder / "vectors.zip"
    path.write_bytes(zipped({name: b"a 1 2\nb 3 4\n"}))
    assert load_embeddings(path, ["b"])[0].tolist() == [[3, 4]]
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_a_zip_that_lies_about_the_size_of_a_member_is_damaged_or_read_whole(tmp_path, refusal):
    content = b"".join(b"w%d 1 2\n" % number for number in range(1000))
    archive, size = zipped({"vectors.txt": content}), struct.pack("<I", len(content))
    assert archive.count(size) == 2
    path = tmp_path / "vectors.zip"
    path.write_bytes(archive.replace(size, struct.pack("<I", 7)))
    assert refusal(lambda: load_embeddings(path)) == (
        f"{str(path)!r} is damaged or incomplete: its zip data cannot be unpacked (Bad CRC-32 for file 'vectors.txt'); get the "
        "file again"
    )
    path.write_bytes(archive.replace(size, struct.pack("<I", 2**31)))  # the checksum is that of the content
    assert load_embeddings(path)[1].row_count == 1000


@pytest.mark.parametrize("rows", [10**12, 10**17])
@pytest.mark.parametrize("binary", [False, True])
def test_a_header_that_claims_all_rows_of_the_world_costs_nothing(rows, binary, tmp_path):
    path = tmp_path / "vectors"
    row = b" " + struct.pack("<2f", 1, 2) if binary else b" 1 2\n"
    path.write_bytes(b"%d 2\n" % rows + b"a" + row + b"b" + row)
    reports = []
    assert peak_mib(lambda: reports.append(load_embeddings(path)[1])) < MOST_MIB
    assert (reports[0].words, reports[0].header) == (["a", "b"], (rows, 2))


def test_a_cache_that_was_swapped_for_a_pickle_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, cache = write_text(tmp_path / "vectors", ["a", "b"]), tmp_path / "cache"
    expected = load_embeddings(path, ["b"], cache=cache)[0]
    (entry_path,) = cache.iterdir()
    whole = entry_path.read_bytes()
    for content in (pickle.dumps(Bomb()), struct.pack("<Q", 2**60) + b"{}", b"[" * 10**6):
        entry_path.write_bytes(content)
        weight, report = load_embeddings(path, ["b"], cache=cache)
        assert report.cache == f"written to {entry_path}"
        assert weight.tolist() == expected.tolist()
        assert entry_path.read_bytes() == whole
    assert not (tmp_path / "executed").exists()


LARGE_DICTIONARY = [
    {"id": lzma.FILTER_LZMA2, "dict_size": 1536 << 20, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3, "depth": 1}
]
BOMBS = {
    "a gigabyte without a line end": lambda: gzip.compress(bytes(1 << 30), 1),
    "a quarter of it in bz2": lambda: bz2.compress(bytes(1 << 28), 1),
    "a word without end behind a binary header": lambda: gzip.compress(b"9 100\n" + b"x" * (1 << 28), 1),
    "a zip bomb": lambda: zipped({"vectors.txt": bytes(1 << 30)}),
    "an npz bomb": lambda: zipped({"a.npy": npy((1 << 20, 256), content=bytes(1 << 30))}),
    "an xz header that asks for much memory": lambda: lzma.compress(b"a 1 2\n" * 99, filters=LARGE_DICTIONARY),
    "a model of fastText with buckets that unpack to a quarter gigabyte": lambda: gzip.compress(
        fasttext(1, dim=256, bucket=1 << 18)
        + b"a\0"
        + bytes(9)
        + b"\0"
        + struct.pack("<2q", (1 << 18) + 1, 256)
        + bytes(1 << 28),
        1,
    ),
    "a tar archive of zeros": lambda: gzip.compress(bytes(257) + b"ustar" + bytes(1 << 28), 1),
    "separators without end": lambda: b"a\t1\n" * 20 + b"\t" * (1 << 28),
    "many duplicates and bad rows": lambda: b"a 1 2\n" * 50 + b"a 1 2\na 1 x\na 1\n" * 700_000,
    "a header that claims 10**17 rows": lambda: b"99999999999999999 2\na 1 2\nb 3 4\n",
}
BOUNDED = """
import sys
from linkboy import load_embeddings
load_embeddings(sys.argv[1], ["a"])
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
try:
    print(load_embeddings(sys.argv[2], ["a"], unk_init="zeros")[1].found)
except ValueError as error:
    print(error)
print((peak() - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_takes_little_memory(name, tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(BOMBS[name]())
    plain = write_text(tmp_path / "plain", ["a"])
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, plain, path], capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    said, mebibytes = done.stdout.strip().rsplit("\n", 1)
    assert len(said.splitlines()) == 1
    assert int(mebibytes) <= 48, said


@pytest.mark.parametrize("pack", [bytes, lambda rows: gzip.compress(rows, 1)], ids=["plain", "gzip"])
def test_the_memory_taken_does_not_grow_with_the_file(pack, tmp_path):
    peaks = []
    for count in (4_000, 100_000):
        path = tmp_path / f"{count} rows"
        path.write_bytes(pack(b"".join(b"w%d" % number + b" 0.123456" * 100 + b"\n" for number in range(count))))
        peaks.append(peak_mib(lambda path=path: load_embeddings(path, ["w7", "w3999"], dim=100)))
    assert peaks[1] < peaks[0] + 8
    assert peaks[1] < 32


def test_an_archive_with_a_huge_directory_is_refused_before_it_is_read(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(40_000):
            archive.writestr(f"{number:020d}.npy", b"")
    path = tmp_path / "vectors"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError) as caught:
        load_embeddings(path)
    assert str(caught.value) == (
        f"{str(path)!r} cannot be opened: its archive has a directory or entry of more than 2,097,152 bytes; "
        "unpack the one file of vectors"
    )
