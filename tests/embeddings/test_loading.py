"""Vocabularies, forms, unknown rows, numbers, formats and compressions."""

import bz2
import functools
import gzip
import io
import json
import lzma
import random
import struct
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.embeddings.cases import AWKWARD, vector, write_binary, write_text

from linkboy import load_embeddings
from linkboy.embeddings._numbers import is_number, parse_rows


@pytest.fixture
def path(tmp_path):
    return write_text(tmp_path / "vectors.txt", ["apple", "Apple", "paris", "Ｒome", "berlin", "new york"])


def found(path, vocab, **options):
    """The number of the row each word was given, `None` for none."""
    weight, report = load_embeddings(path, vocab, unk_init="zeros", **options)
    starts = {tuple(vector(number)): number for number in range(9)}
    return [starts.get(tuple(row)) for row in weight.tolist()], report


# --- vocabularies ---


def test_an_exact_match_beats_a_fallback_wherever_it_stands(path):
    assert found(path, ["Apple"])[0] == [1]  # `apple`, its lower-case form, comes first
    assert found(path, ["APPLE", "apple", "Apple"])[0] == [0, 0, 1]


def test_forms_are_tried_in_the_order_given(path):
    rows, report = found(path, ["PARIS", "Ｐaris", "ＰＡＲＩＳ", "Ｒome", "Rome", "rome", "NEW YORK"])
    assert rows == [2, 2, 2, 3, None, None, 5]
    assert report.by_fallback == {"exact": 1, "lower": 2, "nfkc": 2}
    assert report.missing == ("Rome", "rome")
    assert found(path, ["PARIS", "Ｐaris"], fallback=("exact",))[0] == [None, None]
    assert found(path, ["PARIS", "ｐaris"], fallback=("exact", "nfkc"))[0] == [None, 2]


def test_a_mapping_says_the_rows_and_may_leave_some_out(path):
    weight, report = load_embeddings(path, {"paris": 3, "berlin": 1}, unk_init="zeros")
    assert weight.tolist() == [[0] * 6, vector(4), [0] * 6, vector(2)]
    assert report.words == [None, "berlin", None, "paris"]
    assert (report.coverage, report.known.tolist()) == (1.0, [False, True, False, True])


def test_coverage_is_weighted_by_counts(path):
    report = load_embeddings(path, ["paris", "oslo", "bonn"], counts={"paris": 6, "oslo": 2})[1]
    assert (report.coverage, report.text_coverage) == (1 / 3, 6 / 8)
    assert report.summary == "found 1 of 3 words (33.33%): 1 exact; 75.00% of the running text"
    assert np.isnan(load_embeddings(path, ["paris"], counts={})[1].text_coverage)


def test_the_empty_string_is_a_word_like_any_other(tmp_path):
    path = write_text(tmp_path / "vectors", ["a", "", "b"])
    assert found(path, ["", "b"])[0] == [1, 2]
    assert found(write_text(tmp_path / "without", ["a", "b"]), ["", "b"])[0] == [None, 1]


def test_a_word_that_no_file_can_hold_is_missing(path):
    assert found(path, ["\ud800", "a\nb", "paris"])[0] == [None, None, 2]


# --- unknown and padding rows ---


def test_unknown_rows_have_the_mean_and_deviation_of_the_rows_found(tmp_path):
    generator = np.random.default_rng(0)
    known = generator.normal(3, (1, 2, 4), (500, 3)).astype(np.float32)
    path = tmp_path / "vectors"
    path.write_bytes(b"".join(b"w%d %r %r %r\n" % (n, *row.tolist()) for n, row in enumerate(known)))
    vocab = [f"w{n}" for n in range(500)] + [f"new{n}" for n in range(20_000)]
    weight, report = load_embeddings(path, vocab, generator=torch.Generator().manual_seed(1))
    assert report.found == 500
    torch.testing.assert_close(weight[:500], torch.from_numpy(known), rtol=0, atol=0)
    torch.testing.assert_close(weight[500:].mean(0), torch.from_numpy(known.mean(0)), rtol=0.02, atol=0.02)
    torch.testing.assert_close(weight[500:].std(0), torch.from_numpy(known.std(0)), rtol=0.03, atol=0)
    again = load_embeddings(path, vocab, generator=torch.Generator().manual_seed(1))[0]
    assert torch.equal(again, weight)
    mean = load_embeddings(path, vocab, unk_init="mean")[0][-1]
    torch.testing.assert_close(mean, torch.from_numpy(known.astype(np.float64).mean(0)).float())


def test_one_row_found_draws_copies_of_it_and_infinities_do_not_count(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"a 1 2\nb inf nan\n")
    weight, report = load_embeddings(path, ["a", "b", "c"])
    assert weight[2].tolist() == [1, 2]
    assert report.non_finite_count == 1
    assert "1 row with nan or infinity" in str(report)


def test_unknown_rows_may_be_filled_by_a_function(path):
    def fill(rows):
        rows.fill_(1)

    for function in (torch.nn.init.ones_, torch.ones_like, fill):
        assert load_embeddings(path, ["oslo", "paris"], unk_init=function)[0].tolist() == [[1] * 6, vector(2)]


def test_the_padding_row_is_zero_and_neither_found_nor_missing(path):
    for padding in (0, -2):
        weight, report = load_embeddings(path, ["apple", "paris"], padding_idx=padding)
        assert weight.tolist() == [[0] * 6, vector(2)]
        assert (report.found, report.missing, report.known.tolist()) == (1, (), [False, True])


def test_dtypes(path):
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        weight, _ = load_embeddings(path, ["paris"], dtype=dtype)
        assert weight.dtype == dtype
        assert weight.tolist() == torch.tensor([vector(2)]).to(dtype).tolist()


def test_numbers_beyond_half_precision_are_said(tmp_path):
    path = tmp_path / "vectors"
    path.write_text("cat 0.5 1e5\ndog 1.5 -7e4\ncow inf 1.5\n")
    _, report = load_embeddings(path, dtype=torch.float16)
    assert report.notes == (
        "2 rows hold numbers beyond 65,504, which are infinite in float16; dtype=torch.bfloat16 holds them",
    )
    weight, report = load_embeddings(path, dtype=torch.bfloat16)
    assert (weight[:2].isfinite().all(), report.notes) == (True, ())


# --- numbers ---


def tokens():
    finite = st.floats(allow_nan=False, width=64)
    return st.one_of(
        finite.map(repr),
        st.tuples(finite, st.sampled_from(["%.5g", "%.9g", "%.17g", "%e", "%.30f"])).map(lambda pair: pair[1] % pair[0]),
        st.sampled_from(["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "+1", ".5", "5.", "1e5", "1E-50", "-0", "4.9e-324",
                         "1e400", "1e-400", "3.4028235677973366e38", "1.17549429e-38"]),
    )  # fmt: skip


@given(st.lists(st.lists(tokens(), min_size=3, max_size=3), min_size=1, max_size=20))
def test_numbers_equal_float_bit_for_bit(rows):
    values, bad = parse_rows([" ".join(row).encode() for row in rows], 3)
    assert not bad
    expected = np.array([[float(token) for token in row] for row in rows])
    assert np.array_equal(values, expected, equal_nan=True)
    assert np.array_equal(np.signbit(values), np.signbit(expected) | (np.isnan(values) & np.signbit(values)))


@given(st.lists(st.binary(max_size=6).filter(lambda t: b" " not in t and b"\n" not in t), min_size=2, max_size=2))
def test_what_is_no_number_is_never_read_as_one(row):
    values, bad = parse_rows([b"1 2", b" ".join(row)], 2)
    assert values[0].tolist() == [1, 2]
    assert (1 in bad) == (not all(is_number(token) for token in row))
    if not bad:
        assert np.array_equal(values[1], [float(token) for token in row], equal_nan=True)


def test_long_decimals_are_rounded_once_to_float32(tmp_path):
    """Tokens just above the middle of two float32: a reader that goes straight to float32 rounds some of them down."""
    generator = random.Random(0)
    numbers = []
    for _ in range(2000):
        low = np.float32(generator.uniform(-2, 2))
        middle = (float(low) + float(np.nextafter(low, np.float32(9)))) / 2
        numbers.append(f"{np.nextafter(middle, 9):.30f}")
    path = tmp_path / "vectors"
    path.write_text("a " + " ".join(numbers) + "\n")
    expected = np.array([float(number) for number in numbers]).astype(np.float32)
    assert np.array_equal(load_embeddings(path)[0].numpy()[0], expected)
    path.write_text("a 1e39 3.4028235677973366e38 1e-46\n")
    assert load_embeddings(path)[0].tolist() == [[np.inf, np.inf, 0]]


def test_gensim_reads_the_same_from_clean_files(tmp_path):
    keyed_vectors = pytest.importorskip("gensim.models").KeyedVectors
    words = [f"w{number}" for number in range(100)] + ["猫", "a\u3000b"]
    for binary in (False, True):
        ours = tmp_path / "vectors"
        if binary:
            write_binary(ours, words, newline=True)
        else:
            write_text(ours, words, header=True)
        theirs = keyed_vectors.load_word2vec_format(ours, binary=binary)
        weight, report = load_embeddings(ours)
        assert report.words == theirs.index_to_key
        assert np.array_equal(weight.numpy(), theirs.vectors)


# --- formats and compressions ---

PACK = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "two gzip members": lambda content: gzip.compress(content[:50]) + gzip.compress(content[50:]),
    "two xz streams": lambda content: lzma.compress(content[:50]) + b"\0\0\0\0" + lzma.compress(content[50:]),
    "zip": lambda content: zipped({"vectors.txt": content, "__MACOSX/._vectors.txt": b"x"}),
}


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def saved(save, *arrays, **named):
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


WORDS = list(AWKWARD.values())
MATRIX = np.array([vector(number) for number in range(len(WORDS))], np.float32)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    from safetensors.numpy import save

    folder = tmp_path_factory.mktemp("contents")
    return {
        "glove": write_text(folder / "t", WORDS).read_bytes(),
        "word2vec-text": write_text(folder / "h", WORDS, header=True).read_bytes(),
        "word2vec-bin": write_binary(folder / "b", WORDS, newline=False).read_bytes(),
        "npz": saved(np.savez_compressed, words=np.array(WORDS), vectors=MATRIX),
        "safetensors": save({"weight": MATRIX, "other": MATRIX[0]}, {"words": json.dumps(WORDS)}),
        "npy": saved(np.save, MATRIX),
    }


@pytest.mark.parametrize("format", ["glove", "word2vec-text", "word2vec-bin", "npz", "npy", "safetensors"])
@pytest.mark.parametrize("pack", [None, *PACK])
def test_every_format_in_every_compression_is_told_by_its_content(format, pack, contents, tmp_path):
    if format == "npz" and pack is not None:
        pytest.skip("an archive in an archive is nobody's format")
    path = tmp_path / "vectors.whatever"
    path.write_bytes(PACK[pack](contents[format]) if pack else contents[format])
    for asked in ("auto", format):
        weight, report = load_embeddings(path, WORDS, format=asked, fallback=("exact",))
        assert np.array_equal(weight.numpy(), MATRIX)
        assert (report.format, report.row_count, report.dim) == (format, len(WORDS), 6)
        assert report.compression == (
            "zip" if format == "npz" else pack.split()[1] if pack and "two" in pack else pack or "none"
        )
    if format != "npy":
        chosen = ["new york", "\u3000", " "]
        assert np.array_equal(load_embeddings(path, chosen)[0].numpy(), MATRIX[[WORDS.index(word) for word in chosen]])
        assert load_embeddings(path)[1].words == WORDS


def test_arrays_of_other_precisions_and_orders(tmp_path):
    path = tmp_path / "vectors.npy"
    vocab = ["a", "b"]
    for dtype in (np.float16, np.float64, ">f4"):
        np.save(path, MATRIX[:2].astype(dtype))
        assert np.array_equal(load_embeddings(path, vocab)[0].numpy(), MATRIX[:2])
    from safetensors.torch import save_file

    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        save_file({"model.embed.weight": torch.from_numpy(MATRIX[:2]).to(dtype)}, path)
        weight, report = load_embeddings(path, vocab)
        assert torch.equal(weight, torch.from_numpy(MATRIX[:2]).to(dtype).float())
        assert report.format == "safetensors"


def test_of_a_zip_with_several_dimensions_dim_chooses(tmp_path):
    path = tmp_path / "glove.zip"
    path.write_bytes(zipped({f"glove.{dim}d.txt": b"a" + b" 1" * dim + b"\n" for dim in (2, 20, 3)}))
    for dim in (2, 3):
        assert load_embeddings(path, dim=dim)[0].shape == (1, dim)
    with pytest.raises(ValueError) as caught:
        load_embeddings(path)
    assert str(caught.value) == (
        f"{str(path)!r} must hold one file of vectors, got 3 files ('glove.2d.txt', 'glove.20d.txt', 'glove.3d.txt'); "
        "pass dim=2 or 20 or 3, or unpack it and name one"
    )


def test_real_vectors(shared_data):
    path = shared_data / "vectors" / "chars_200d.txt.gz"
    weight, report = load_embeddings(path, ["猫", "狗", "的", "不存在"], dim=200)
    assert (report.found, report.missing, report.row_count, report.header) == (3, ("不存在",), 4729, (4729, 200))
    with gzip.open(path, "rt", encoding="utf-8") as file:
        row = next(line.split(" ") for line in file if line.startswith("猫 "))
    assert weight[0].tolist() == np.array([float(number) for number in row[1:]]).astype(np.float32).tolist()


def test_a_long_file_shows_its_progress(tmp_path, monkeypatch, capsys):
    from linkboy.embeddings import _source

    path = write_text(tmp_path / "vectors", [f"w{number}" for number in range(80_000)])
    load_embeddings(path)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(_source, "LONG_FILE", 10)
    monkeypatch.setattr(_source, "Progress", functools.partial(_source.Progress, every_seconds=0))
    load_embeddings(path)
    out, err = capsys.readouterr()
    assert (out, err[:23]) == ("", "reading vectors 1/4 MiB")


def test_struct_is_little_endian(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"1 2\na " + struct.pack("<2f", 1.5, -2.0))
    assert load_embeddings(path)[0].tolist() == [[1.5, -2.0]]
