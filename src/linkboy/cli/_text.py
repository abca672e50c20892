"""Files of text and of vectors: tokenize, vectors."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from linkboy.cli._printing import show_report


def tokenize(
    vocab: Path,
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    tokens: bool = False,
    special_tokens: bool = False,
    cased: bool = False,
) -> None:
    """Turn each line of a file into BERT's ids, separated by spaces.

    Parameters
    ----------
    vocab
        A vocab.txt, a tokenizer.json, or a directory that holds one of them.
    file
        A text file, or - for standard input.
    tokens
        Print the tokens in place of their ids.
    special_tokens
        Begin each line with [CLS] and end it with [SEP].
    cased
        Keep upper case and accents; for a vocab.txt, which does not say whether it is cased.
    """
    from linkboy import BertTokenizer, tokenize_file

    if vocab.is_dir():
        tokenizer = BertTokenizer.from_pretrained(vocab)
    elif cased and vocab.suffix == ".json":
        raise ValueError("--cased is for a vocab.txt; a tokenizer.json says whether it is cased")
    elif vocab.suffix == ".json":
        tokenizer = BertTokenizer.from_tokenizer_json(vocab)
    else:
        tokenizer = BertTokenizer(vocab, do_lower_case=not cased)
    report = tokenize_file(
        tokenizer,
        str(file),
        sys.stdout,
        output="tokens" if tokens else "ids",
        add_special_tokens=special_tokens,
        progress=not sys.stdout.isatty(),
    )
    print(report, file=sys.stderr)


def vectors(
    file: Path,
    /,
    *,
    out: Path,
    vocab: Path | None = None,
    dim: int | None = None,
    format: Literal[
        "auto", "glove", "word2vec-text", "word2vec-bin", "fasttext-vec", "fasttext-bin", "npy", "npz", "safetensors"
    ] = "auto",
    encoding: str | None = None,
    tensor: str | None = None,
    words: Path | None = None,
    on_bad_row: Literal["raise", "skip"] = "raise",
    json: bool = False,
) -> None:
    """Convert pretrained vectors to safetensors, all of them or those of a vocabulary, and say what was found.

    Parameters
    ----------
    file
        GloVe, word2vec (text or binary), fastText (.vec or .bin), .npy, .npz or safetensors, also in .gz, .bz2, .xz or .zip;
        or a folder of model2vec, sentence-transformers or transformers.
    out
        The file to write, for instance emb.safetensors.
    vocab
        A file with one word per line; row i of the result is that of word i.
    dim
        Number of values per word that the file must have.
    format
        Format of FILE, if its content does not show it.
    encoding
        Encoding of the words in FILE, if it is not UTF-8.
    tensor
        Name of the matrix, in a file that holds several.
    words
        A file with one word per line, for a matrix that comes without its words.
    on_bad_row
        Stop at a row that cannot be read, or skip and count it.
    json
        Print one JSON object.
    """
    from linkboy import convert_embeddings

    options = {"dim": dim, "format": format, "encoding": encoding, "tensor": tensor, "words": words}
    try:
        report = convert_embeddings(file, out, vocab, on_bad_row=on_bad_row, **options)
    except ValueError as error:  # rows of zeros alone are no file to write
        raise ValueError(str(error).replace(", or pass unk_init='zeros'", "")) from None
    show_report(report, json=json)
