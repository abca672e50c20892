"""Vectors out of models and archives: fastText with its subwords, model2vec, tensors by name, words kept elsewhere."""

import gzip
import importlib.util
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from linkboy import load_embeddings

WORDS = ["the", "cat", "naïve", "</s>", "猫", "Paris"]


# --- fastText: an independent writer and reader, after dictionary.cc and fasttext.cc ---


def fnv(piece: bytes) -> int:
    value = 2166136261
    for byte in piece:
        value = ((value ^ (byte | 0xFFFFFF00 if byte > 127 else byte)) * 16777619) & 0xFFFFFFFF
    return value


def pieces(word: str, shortest: int, longest: int) -> list[bytes]:
    whole = f"<{word}>"
    found = []
    for start in range(len(whole)):
        for length in range(shortest, longest + 1):
            piece = whole[start : start + length]
            if len(piece) == length and not (length == 1 and (start == 0 or start + 1 == len(whole))):
                found.append(piece.encode())
    return found


class Model:
    """A small model of fastText, and what its vectors are by the book."""

    def __init__(self, *, dim=5, bucket=40, shortest=2, longest=4, old=False, words=WORDS, labels=(), version=12):
        self.dim, self.bucket, self.shortest, self.longest, self.old = dim, bucket, shortest, longest, old
        self.words, self.labels, self.version = list(words), list(labels), version
        self.matrix = np.random.default_rng(dim).normal(size=(len(words) + bucket, dim)).astype("<f4")

    def content(self, *, quantised=False, pruned=-1, cut=0):
        kind = 3 if self.labels else 2
        arguments = struct.pack(
            "<12id", self.dim, 5, 5, 1, 5, 1, 2, kind, self.bucket, self.shortest, self.longest, 100, 1e-4
        )
        entries = [(word, 0) for word in self.words] + [(label, 1) for label in self.labels]
        head = b"" if self.old else struct.pack("<2i", 793712314, self.version)
        head += arguments + struct.pack("<3iq", len(entries), len(self.words), len(self.labels), 1000)
        head += b"" if self.old else struct.pack("<q", pruned)
        table = b"".join(word.encode() + b"\0" + struct.pack("<qb", 7, kind) for word, kind in entries)
        quant = b"" if self.old else bytes([quantised])
        rest = quant + struct.pack("<2q", *self.matrix.shape) + self.matrix.tobytes()
        return (head + table + rest)[: -cut or None]

    def vector(self, word):
        rows = [len(self.words) + fnv(piece) % self.bucket for piece in pieces(word, self.shortest, self.longest)]
        if word == "</s>" and not self.old:
            rows = []
        if word in self.words:
            rows = [self.words.index(word), *rows]
        total = np.zeros(self.dim, np.float32)
        for row in rows:
            total += self.matrix[row]
        return total / np.float32(len(rows)) if rows else None


UNKNOWN = ["cats", "naïveté", "猫狗", "x", "a much longer word than any other one here", "the"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "options",
    [{}, {"old": True}, {"shortest": 1, "longest": 1}, {"shortest": 3, "longest": 6, "bucket": 7}, {"dim": 300}],
    ids=["new format", "first format", "single characters", "few buckets", "many numbers"],
)
def test_a_fasttext_model_gives_the_vectors_of_its_definition_bit_for_bit(options, pack, tmp_path):
    model = Model(**options)
    path = tmp_path / "model"
    path.write_bytes(pack(model.content()))
    weight, report = load_embeddings(path)
    assert (report.words, report.row_count, report.format) == (WORDS, len(WORDS), "fasttext-bin")
    assert np.array_equal(weight.numpy(), [model.vector(word) for word in WORDS])
    weight, report = load_embeddings(path, ["the", *UNKNOWN[:-1]], unk_init="zeros")
    assert np.array_equal(weight.numpy(), [model.vector(word) for word in ["the", *UNKNOWN[:-1]]])
    assert report.by_fallback == {"exact": 1, "lower": 0, "nfkc": 0, "subword": 5}
    assert report.summary == "found 6 of 6 words (100.00%): 1 exact, 5 subword"
    assert bool(report.known.all())


def test_subwords_come_after_other_forms_and_can_be_left_out(tmp_path):
    model = Model()
    path = tmp_path / "model.bin"
    path.write_bytes(model.content())
    weight, report = load_embeddings(path, ["Cat", "cats"])
    assert np.array_equal(weight.numpy(), [model.vector("cat"), model.vector("cats")])
    assert report.by_fallback == {"exact": 0, "lower": 1, "nfkc": 0, "subword": 1}
    report = load_embeddings(path, ["Cat", "cats"], fallback=("exact", "lower"))[1]
    assert (report.missing, report.by_fallback) == (("cats",), {"exact": 0, "lower": 1})


def test_a_word_without_pieces_is_missing(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(Model(shortest=4, longest=6).content())
    assert load_embeddings(path, ["the", "a"])[1].missing == ("a",)  # `<a>` has three characters
    path.write_bytes(Model(shortest=0, longest=0, bucket=0).content())
    weight, report = load_embeddings(path, ["the", "cats"])
    assert report.missing == ("cats",)
    assert np.array_equal(weight[0].numpy(), Model(shortest=0, longest=0, bucket=0).matrix[0])


def test_a_classifier_gives_the_vectors_of_its_words(tmp_path):
    model = Model(labels=["__label__a", "__label__b"])
    path = tmp_path / "model.bin"
    path.write_bytes(model.content())
    weight, report = load_embeddings(path)
    assert report.words == WORDS
    assert np.array_equal(weight.numpy(), [model.vector(word) for word in WORDS])
    old = Model(labels=["__label__a"], version=11)
    path.write_bytes(old.content())
    assert np.array_equal(load_embeddings(path)[0].numpy(), old.matrix[: len(WORDS)])  # no pieces before version 12


@pytest.mark.slow  # the import of gensim
def test_gensim_gives_the_same_vectors_bit_for_bit():
    fasttext = pytest.importorskip("gensim.models.fasttext")
    folder = Path(fasttext.__file__).parents[1] / "test" / "test_data"
    names = ("crime-and-punishment", "lee_fasttext", "lee_fasttext_new", "toy-model", "non_ascii_fasttext")
    paths = [path for path in (folder / f"{name}.bin" for name in names) if path.is_file()]
    if not paths:
        pytest.skip("gensim came without its test data")
    unknown = ["нетакого", "unseenword", "zz", "日本語", "x" * 300]
    for path in paths:
        theirs = fasttext.load_facebook_vectors(str(path))
        weight, report = load_embeddings(path)
        assert report.words == theirs.index_to_key
        for word, row in zip(report.words, weight.numpy(), strict=True):
            if word != "</s>":  # fastText makes no pieces of it, as its own .vec file beside shows; gensim does
                assert np.array_equal(row, theirs[word]), (path.name, word)
        assert np.array_equal(load_embeddings(path, unknown)[0].numpy(), [theirs[word] for word in unknown])


def test_the_vec_file_that_fasttext_wrote_agrees_on_every_word():
    spec = importlib.util.find_spec("gensim")
    if spec is None or spec.origin is None:
        pytest.skip("gensim is not installed")
    folder = Path(spec.origin).parent / "test" / "test_data"
    for name in ("crime-and-punishment", "lee_fasttext", "toy-model"):
        if not (folder / f"{name}.vec").is_file():
            pytest.skip("gensim came without its test data")
        text, report = load_embeddings(folder / f"{name}.vec")
        model, _ = load_embeddings(folder / f"{name}.bin", report.words)
        torch.testing.assert_close(model, text, rtol=2e-4, atol=2e-5)  # five digits


def test_words_of_a_model_may_be_in_another_encoding(tmp_path):
    model = Model()
    path = tmp_path / "model.bin"
    path.write_bytes(model.content().replace("naïve".encode(), "naïve".encode("latin-1")))
    report = load_embeddings(path, encoding="latin-1")[1]
    assert report.words[:3] == ["the", "cat", "naïve"]
    assert load_embeddings(path, ["naïve", "cat"], encoding="latin-1")[1].by_fallback["exact"] == 2


BROKEN = {
    "cut short": ({"cut": 300}, "is a fastText model that is cut short; get the file again"),
    "cut in its dictionary": ({"cut": 10**3}, "is a fastText model that is cut short; get the file again"),
    "quantised": (
        {"quantised": True},
        "is a fastText model with compressed rows (.ftz), which are not read; use the .bin or .vec file",
    ),
    "pruned": (
        {"pruned": 3}, "is a fastText model with compressed rows (.ftz), which are not read; use the .bin or .vec file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_broken_fasttext_model_is_refused(name, pack, tmp_path):
    options, message = BROKEN[name]
    path = tmp_path / "model.bin"
    path.write_bytes(pack(Model().content(**options)))
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, WORDS)
    assert str(caught.value) == f"{str(path)!r} {message}"


def test_a_model_whose_sizes_do_not_fit_is_refused(tmp_path):
    path = tmp_path / "model.bin"
    content = Model().content()
    path.write_bytes(content.replace(struct.pack("<2q", 46, 5), struct.pack("<2q", 10**12, 5)))
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, WORDS)
    assert str(caught.value) == (
        f"{str(path)!r} is a fastText model whose matrix is 1,000,000,000,000 x 5, expected 46 x 5; get the file again"
    )
    path.write_bytes(content[:8] + struct.pack("<12i", 5, 5, 5, 1, 5, 1, 2, 2, 40, 2, 999, 100) + content[56:])
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, WORDS)
    assert str(caught.value) == (
        f"{str(path)!r} is a fastText model with pieces of 2 to 999 characters; at most 255 are read"
    )


@pytest.mark.parametrize("version", [0, 13, 99, -1])
def test_a_model_of_a_version_that_nobody_knows_is_refused(version, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(Model(version=version).content())
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, WORDS)
    assert str(caught.value) == f"{str(path)!r} is a fastText model of version {version}; those up to 12 are read"


# --- safetensors: a tensor by name, model2vec, folders with a tokenizer ---


def save(path, **tensors):
    from safetensors.torch import save_file

    save_file({name.replace("__", "."): tensor for name, tensor in tensors.items()}, path)
    return path


def tokenizer(path, words, kind="WordLevel"):
    vocab = [[word, -1.0] for word in words] if kind == "Unigram" else {word: i for i, word in enumerate(words)}
    path.write_text(
        json.dumps({"model": {"type": kind, "vocab": vocab}, "added_tokens": [{"id": 0, "content": words[0]}]})
    )


TABLE = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def test_a_tensor_is_read_by_its_name(tmp_path):
    path = save(
        tmp_path / "m", bert__word__weight=TABLE, bert__pos__weight=TABLE + 10, head__weight=TABLE.T.contiguous()
    )
    weight, _ = load_embeddings(path, ["a", "b", "c"], tensor="bert.pos.weight")
    assert torch.equal(weight, TABLE + 10)
    for name, message in (
        ("bert.position.weight", "; did you mean 'bert.pos.weight'?"),
        ("x", ", which has 'bert.pos.weight', 'bert.word.weight', 'head.weight'"),
    ):
        with pytest.raises(ValueError) as caught:
            load_embeddings(path, ["a", "b", "c"], tensor=name)
        assert str(caught.value) == f"tensor must name a matrix of {str(path)!r}, got {name!r}" + message
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, ["a", "b", "c"])
    assert str(caught.value) == (
        f"{str(path)!r} must hold one matrix of floating-point numbers, or one named 'weight', got 'bert.pos.weight', "
        "'bert.word.weight', 'head.weight'; pass tensor='bert.pos.weight' or another name"
    )


def test_an_array_of_an_npz_is_read_by_its_name(tmp_path):
    np.savez(tmp_path / "v.npz", first=TABLE.numpy(), second=TABLE.numpy() + 1)
    assert torch.equal(load_embeddings(tmp_path / "v.npz", ["a", "b", "c"], tensor="second")[0], TABLE + 1)


def test_words_of_an_npz_that_are_python_objects_do_no_harm_where_words_are_given(tmp_path):
    words = ["cat", "dog", "Paris"]
    np.savez(tmp_path / "v.npz", words=np.array(words, dtype=object), vectors=TABLE.numpy())
    for given in (words, dict(zip(words, range(3), strict=True))):
        assert torch.equal(load_embeddings(tmp_path / "v.npz", ["dog"], words=given)[0], TABLE[1:2])
    with pytest.raises(ValueError, match=r"save it as numbers or as strings of a fixed width, or pass words$"):
        load_embeddings(tmp_path / "v.npz", ["dog"])


def test_whole_numbers_of_an_npz_are_read_where_there_are_no_others(tmp_path):
    whole = (TABLE * 4).short().numpy()
    np.savez(tmp_path / "v.npz", words=np.array(["cat", "dog", "Paris"]), vectors=whole, counts=np.arange(3))
    assert load_embeddings(tmp_path / "v.npz", ["dog"])[0].tolist() == whole[1:2].tolist()
    np.savez(tmp_path / "v.npz", words=np.array(["cat", "dog", "Paris"]), vectors=TABLE.numpy(), other=whole)
    assert torch.equal(load_embeddings(tmp_path / "v.npz", ["dog"])[0], TABLE[1:2])


def test_words_that_stand_elsewhere_allow_any_vocabulary(tmp_path):
    np.save(tmp_path / "v.npy", TABLE.numpy())
    (tmp_path / "words.txt").write_text("cat\ndog\nParis\n")
    for words in (["cat", "dog", "Paris"], tmp_path / "words.txt", str(tmp_path / "words.txt")):
        weight, report = load_embeddings(tmp_path / "v.npy", ["Paris", "cat"], words=words)
        assert torch.equal(weight, TABLE[[2, 0]])
        weight, report = load_embeddings(tmp_path / "v.npy", words=words)
        assert (report.words, torch.equal(weight, TABLE)) == (["cat", "dog", "Paris"], True)
    advice = f"; 'words.txt' beside it has that many lines: pass words={str(tmp_path / 'words.txt')!r} if these are the words"
    with pytest.raises(ValueError) as caught:
        load_embeddings(tmp_path / "v.npy")
    assert str(caught.value) == (
        f"{str(tmp_path / 'v.npy')!r} holds no words; pass vocab, in the order of its 3 rows" + advice
    )
    with pytest.raises(ValueError) as caught:
        load_embeddings(tmp_path / "v.npy", ["cat"], words=["cat", "dog"])
    assert str(caught.value) == (
        f"{str(tmp_path / 'v.npy')!r} holds no words, so words must have one for each of its 3 rows, got 2" + advice
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ">f8"])
def test_an_array_by_columns_is_read(dtype, tmp_path, monkeypatch):
    from linkboy.embeddings import _arrays

    monkeypatch.setattr(_arrays, "_CHUNK", 16)
    matrix = np.random.default_rng(0).normal(size=(7, 50)).astype(dtype).T
    np.save(tmp_path / "v.npy", matrix)
    words = [f"w{number}" for number in range(50)]
    assert np.array_equal(load_embeddings(tmp_path / "v.npy", words, dtype=torch.float64)[0].numpy(), matrix)
    chosen = load_embeddings(tmp_path / "v.npy", ["w49", "w3"], words=words, dtype=torch.float64)[0].numpy()
    assert np.array_equal(chosen, matrix[[49, 3]])


def test_an_array_that_is_no_matrix_is_refused(tmp_path):
    np.save(tmp_path / "v.npy", np.zeros(6, np.float32))
    with pytest.raises(ValueError) as caught:
        load_embeddings(tmp_path / "v.npy", ["a"])
    assert str(caught.value) == (
        f"{str(tmp_path / 'v.npy')!r} must hold a matrix, a row for each word, got an array of the shape (6,); save it "
        "as (words, numbers)"
    )


def test_complex_numbers_are_refused(tmp_path):
    np.save(tmp_path / "v.npy", np.ones((2, 3), np.complex64))
    with pytest.raises(ValueError) as caught:
        load_embeddings(tmp_path / "v.npy", ["a", "b"])
    assert str(caught.value) == (
        f"{str(tmp_path / 'v.npy')!r} must hold real numbers, got complex64; save its real and imaginary parts side by side"
    )


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram"])
def test_a_folder_of_model2vec_is_read_with_its_weights(kind, tmp_path):
    words = ["[PAD]", "cat", "dog"]
    tokenizer(tmp_path / "tokenizer.json", words, kind)
    save(tmp_path / "model.safetensors", embeddings=TABLE, weights=torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64))
    weight, report = load_embeddings(tmp_path, ["dog", "cat", "bird"], unk_init="zeros")
    assert weight.tolist() == [[10, 12], [1.5, 2], [0, 0]]
    assert report.notes == ("its rows are multiplied by its weights, one per token, as model2vec does",)
    assert load_embeddings(tmp_path)[1].words == words


def test_tokens_of_model2vec_may_share_rows(tmp_path):
    tokenizer(tmp_path / "tokenizer.json", ["a", "b", "c", "d"])
    mapping, weights = torch.tensor([2, 0, 0, 1]), torch.tensor([1.0, 1.0, 0.5, 2.0])
    save(tmp_path / "model.safetensors", embeddings=TABLE, weights=weights, mapping=mapping)
    assert torch.equal(load_embeddings(tmp_path)[0], TABLE[mapping] * weights[:, None])
    assert load_embeddings(tmp_path, ["d", "c"])[0].tolist() == [[6, 8], [0.5, 1]]
    save(tmp_path / "model.safetensors", embeddings=TABLE, mapping=mapping + 1)
    with pytest.raises(ValueError) as caught:
        load_embeddings(tmp_path)
    assert str(caught.value) == (
        f"{str(tmp_path / 'model.safetensors')!r} has a damaged mapping: it must name rows from 0 to 2"
    )
    save(tmp_path / "model.safetensors", embeddings=TABLE, weights=weights)
    with pytest.raises(ValueError) as caught:
        load_embeddings(tmp_path)
    assert str(caught.value) == (
        f"{str(tmp_path / 'model.safetensors')!r} must hold one weight for each of its 3 tokens, got 4"
    )
    packed = tmp_path / "m.gz"
    packed.write_bytes(gzip.compress((tmp_path / "model.safetensors").read_bytes()))
    with pytest.raises(ValueError) as caught:
        load_embeddings(packed, ["a", "b", "c"])
    assert str(caught.value) == (
        f"{str(packed)!r} holds tensors that belong to the rows of its matrix; unpack it, so that they can be read first"
    )


def test_numbers_in_eight_bits_are_read_as_they_are(tmp_path):
    save(tmp_path / "m", embeddings=torch.tensor([[1, -2], [127, 0]], dtype=torch.int8))
    assert load_embeddings(tmp_path / "m", ["a", "b"])[0].tolist() == [[1, -2], [127, 0]]


def test_a_folder_with_more_rows_than_tokens_is_padded(tmp_path):
    (tmp_path / "0_StaticEmbedding").mkdir()
    tokenizer(tmp_path / "0_StaticEmbedding" / "tokenizer.json", ["a", "b"])
    save(tmp_path / "0_StaticEmbedding" / "model.safetensors", embedding__weight=TABLE)
    weight, report = load_embeddings(tmp_path)
    assert (report.words, torch.equal(weight, TABLE[:2])) == (["a", "b"], True)


def test_a_folder_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError) as caught:
        load_embeddings(tmp_path)
    assert str(caught.value) == (
        f"{str(tmp_path)!r} must hold one safetensors file, got none; name the file, and pass words"
    )
    save(tmp_path / "model.safetensors", embeddings=TABLE)
    for content in ("{}", "[", '{"model": {"vocab": {"a": 5000}}}', '{"model": {"vocab": {"a": -1}}}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match=r"is not a tokenizer that can be read \(.*\); pass words"):
            load_embeddings(tmp_path)
    assert torch.equal(load_embeddings(tmp_path, words=["a", "b", "c"])[0], TABLE)


def test_the_word_table_of_a_folder_of_transformers(tmp_path):
    tokenizer(tmp_path / "tokenizer.json", ["a", "b", "c"])
    save(tmp_path / "model.safetensors", embeddings__word_embeddings__weight=TABLE, other__weight=TABLE + 1)
    assert load_embeddings(tmp_path, ["c"], tensor="embeddings.word_embeddings.weight")[0].tolist() == [[5, 6]]


# --- archives ---


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return path


TEXT = "cat 0.5 1.5\ndog 2.5 3.5\n"
ZIPS = {
    "a file of notes beside it": {
        "README": "Vectors of 2 numbers, made in 2020\n\nCite: nobody 2020\n",
        "v__txt": TEXT,
    },
    "a model beside its vectors": {"wiki__bin": Model().content(), "wiki__vec": f"2 2\n{TEXT}"},
    "a licence and a picture": {"LICENSE": "Do as you like.\n", "a__png": b"\x89PNG" + bytes(99), "v__txt": TEXT},
}


@pytest.mark.parametrize("name", ZIPS)
def test_the_one_file_of_vectors_in_an_archive_is_found_and_said(name, tmp_path):
    path = zipped(tmp_path / "v.zip", **ZIPS[name])
    weight, report = load_embeddings(path)
    assert weight.tolist() == [[0.5, 1.5], [2.5, 3.5]]
    assert report.notes[0].startswith("read from ")
    assert report.notes[0].endswith("the one file of vectors in the archive that fits")


def test_of_several_files_dim_chooses_by_content(tmp_path):
    path = zipped(tmp_path / "v.zip", small=TEXT, large="cat\t1\t2\t3\n", notes="a b\n")
    assert load_embeddings(path, dim=3)[0].tolist() == [[1, 2, 3]]
    assert load_embeddings(path, dim=2)[1].words == ["cat", "dog"]
    for dim, message in (
        (300, f"dim must be that of a file in {str(path)!r}, got 300: its files of vectors have 2 and 3 numbers per word"),
        (None, f"{str(path)!r} must hold one file of vectors, got 3 files ('small', 'large', 'notes'); pass dim=2 or 3, or "
               "unpack it and name one"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            load_embeddings(path, dim=dim)
        assert str(caught.value) == message
    path = zipped(tmp_path / "v.zip", one=TEXT, two=TEXT)
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, dim=2)
    assert str(caught.value) == (
        f"{str(path)!r} must hold one file of vectors, got 2 files ('one', 'two'); unpack it and name one"
    )


def test_what_else_people_pass_is_refused_by_name(tmp_path):
    path = tmp_path / "v"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("vectors/v.txt")
        member.size = len(TEXT)
        archive.addfile(member, io.BytesIO(TEXT.encode()))
    contents = {
        "is a tar archive whose first file is 'vectors/v.txt', which holds no vectors to read; unpack it with `tar xf` and name "
        "the file of vectors in it": path.read_bytes(),
        "is a PDF file, which holds no vectors to read; convert it first": b"%PDF-1.7\n",
        "is a Parquet file, which holds no vectors to read; save its numbers as .npy, and pass its words": b"PAR1\x15\x04",
        "is an HDF5 file, which holds no vectors to read; save its numbers as .npy, and pass its words": b"\x89HDF\r\n\x1a\n",
        "is an Arrow file, which holds no vectors to read; save its numbers as .npy, and pass its words": b"ARROW1\0\0",
        "is a Matrix Market file, which holds no vectors to read; save its numbers as .npy, and pass its words": (
            b"%%MatrixMarket matrix coordinate real general\n3 2 3\n1 1 0.5\n2 1 0.5\n3 2 1.5\n"
        ),
        "is a Feather file, which holds no vectors to read; save its numbers as .npy, and pass its words": b"FEA1"
        + bytes(9),
    }
    for message, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            load_embeddings(path, ["cat"])
        assert str(caught.value) == f"{str(path)!r} {message}"
    buffer = io.BytesIO()
    torch.save({"weight": TABLE}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, ["cat"])
    assert str(caught.value) == (
        f"{str(path)!r} is a file of torch.save, that is a pickle, which is never opened; save the matrix as safetensors or .npy "
        "and pass words"
    )


# --- paths, arguments that do not fit, forms of words ---


def test_a_tilde_is_expanded_and_an_address_is_not_downloaded(tmp_path, monkeypatch):
    (tmp_path / "v.txt").write_text(TEXT)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_embeddings("~/v.txt", ["cat"])[0].tolist() == [[0.5, 1.5]]
    with pytest.raises(ValueError) as caught:
        load_embeddings("https://example.org/glove.zip", ["a"])
    assert str(caught.value) == (
        "path must be a path on this machine, got 'https://example.org/glove.zip'; download it first, linkboy downloads nothing"
    )


def test_an_argument_that_the_file_has_no_use_for_is_refused(tmp_path):
    text, array = tmp_path / "v.txt", tmp_path / "v.npy"
    text.write_text(TEXT)
    np.save(array, TABLE.numpy())
    for path, kind, options in (
        (text, "glove", {"tensor": "weight"}),
        (text, "glove", {"words": ["cat", "dog"]}),
        (array, "npy", {"encoding": "latin-1"}),
        (array, "npy", {"tensor": "weight"}),
    ):
        (name,) = options
        with pytest.raises(ValueError) as caught:
            load_embeddings(path, ["a", "b", "c"], **({"format": kind} | options))
        assert (
            str(caught.value) == f"{name} is nothing that {str(path)!r} has, which is read as {kind}; leave {name} out"
        )


def test_case_may_be_ignored_in_the_file_too(tmp_path):
    path = tmp_path / "v"
    path.write_text("Paris 1 2\nPARIS 3 4\nNew York 5 6\nStraße 7 8\nrome 9 10\n")
    vocab = ["paris", "new york", "STRASSE", "ROME", "oslo"]
    weight, report = load_embeddings(path, vocab, fallback=("exact", "casefold"), unk_init="zeros")
    assert weight.tolist() == [[1, 2], [5, 6], [7, 8], [9, 10], [0, 0]]
    assert report.by_fallback == {"exact": 0, "casefold": 4}
    weight, report = load_embeddings(path, ["PARIS", "Paris"], fallback=("exact", "casefold"))
    assert weight.tolist() == [[3, 4], [1, 2]]  # an exact match wins wherever it is


def test_a_function_may_give_another_form(tmp_path):
    path = tmp_path / "v"
    path.write_text("cat 1 2\ndog 3 4\n")

    def singular(word):
        return word[:-1] if word.endswith("s") else None

    weight, report = load_embeddings(
        path, ["cats", "dog", "DOGS"], fallback=("exact", singular, "lower"), unk_init="zeros"
    )
    assert weight.tolist() == [[1, 2], [3, 4], [0, 0]]
    weight, report = load_embeddings(path, ["cats", "dog", "DOGS"], fallback=("exact", "lower", singular))
    assert weight.tolist() == [[1, 2], [3, 4], [3, 4]]
    assert report.by_fallback == {"exact": 1, "lower": 0, "singular": 2}
    with pytest.raises(TypeError) as caught:
        load_embeddings(path, ["cats"], fallback=("exact", len))
    assert str(caught.value) == "fallback len must return a str or None, got 4 for 'cats'"
    for fallback, message in (
        (("exact", "subword", "lower"), "fallback must have 'subword' last, got ('exact', 'subword', 'lower')"),
        (("exact", *[lambda word, i=i: f"{word}{i}" for i in range(7)]), "fallback must name at most 7 forms, got 8"),
    ):
        with pytest.raises(ValueError) as caught:
            load_embeddings(path, ["cats"], fallback=fallback)
        assert str(caught.value) == message


def test_the_cache_tells_functions_encodings_and_tensors_apart(tmp_path):
    path = tmp_path / "v"
    path.write_text("cat 1 2\ncats 3 4\n")

    def load(change):
        weight, report = load_embeddings(path, ["catsx"], fallback=("exact", change), cache=tmp_path / "cache")
        return weight.tolist(), report.cache.split()[0]

    assert load(lambda word: word[:3]) == ([[1, 2]], "written")
    assert load(lambda word: word[:4]) == ([[3, 4]], "written")
    assert load(lambda word: word[:4]) == ([[3, 4]], "read")
    path = save(tmp_path / "m", a=TABLE, b=TABLE + 1)
    for name, added in (("a", 0), ("b", 1), ("a", 0)):
        weight, report = load_embeddings(path, ["x", "y", "z"], tensor=name, cache=tmp_path / "cache")
        assert torch.equal(weight, TABLE + added)
    assert report.cache.startswith("read from")
