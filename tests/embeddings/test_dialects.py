"""Text files of vectors as people write them: separators, headers, columns and encodings are told by the content, or refused."""

import contextlib
import csv
import random

import numpy as np
import pandas as pd
import pytest
import torch

from linkboy import load_embeddings

WORDS = ["cat", "dog", "new york", "naïve", "猫"]
TEXTS = [
    line.split() for line in ("0.125 -0.5 2.0", "1.5 3.25 -7.75", "0.0625 4.5 8.5", "1e-2 2.5 -0.25", "5.5 6.5 7.5")
]
ROWS = torch.tensor([[float(text) for text in row] for row in TEXTS])


def written(between, after=None, *, words=WORDS, start="", end="\n", quote=lambda word: word, index=None, comma=False):
    after = between if after is None else after
    lines = [
        ("" if index is None else f"{number + index}{between}")
        + quote(word)
        + after
        + between.join(text.replace(".", ",") if comma else text for text in row)
        for number, (word, row) in enumerate(zip(words, TEXTS, strict=True))
    ]
    return start + end.join(lines) + end


def quoted(word):
    return '"' + word.replace('"', '""') + '"'


UNDERSCORED = [word.replace(" ", "_") for word in WORDS]
COMMAS = ["cat", "a,b", 'say "hi"', ",", "猫"]
# What a file looks like, its text, its words, and what the report says about it.
READ = {
    "tabs": (written("\t"), WORDS, "separated by tabs"),
    "tabs under a header": (written("\t", start="5 3\n"), WORDS, "separated by tabs"),
    "tabs in the header too": (written("\t", start="5\t3\n"), WORDS, "separated by tabs"),
    "a tab at the end of each row": (written("\t", end="\t\n"), WORDS, "separated by tabs"),
    "a tab after the word only": (written(" ", "\t"), WORDS, "separated by spaces and tabs"),
    "commas": (written(","), WORDS, "separated by commas"),
    "commas and spaces": (written(", "), WORDS, "separated by commas"),
    "commas under a header": (written(",", start="5 3\n"), WORDS, "separated by commas"),
    "commas, words quoted": (written(",", quote=quoted), WORDS, "its words are in quotes, which were left out"),
    "commas, some words quoted": (
        written(",", words=COMMAS, quote=lambda word: quoted(word) if set(word) & set(',"') else word), COMMAS,
        "separated by commas",
    ),
    "commas, columns numbered by pandas": (written(",", start=",0,1,2\n"), WORDS, "line 1 names the columns"),
    "commas, columns named": (written(",", start="word,x,y,z\n"), WORDS, "line 1 names the columns and was left out"),
    "commas, rows numbered": (written(",", index=0), WORDS, "its first column numbers the rows and was left out"),
    "tabs, rows numbered from 1": (written("\t", index=1), WORDS, "its first column numbers the rows and was left out"),
    "a space after the word, then commas": (
        written(",", " ", words=UNDERSCORED), UNDERSCORED, "separated by commas, with spaces and tabs after the word",
    ),
    "a tab after the word, then commas": (
        written(",", "\t"), WORDS, "separated by commas, with spaces and tabs after the word",
    ),
    "semicolons": (written(";"), WORDS, "separated by semicolons"),
    "bars": (written("|"), WORDS, "separated by bars"),
    "bars and spaces": (written(" | "), WORDS, "separated by bars"),
    "decimal commas and semicolons": (written(";", comma=True), WORDS, "semicolons, with decimal commas"),
    "decimal commas and spaces": (written(" ", comma=True), WORDS, "spaces and tabs, with decimal commas"),
    "decimal commas and tabs": (written("\t", comma=True), WORDS, "tabs, with decimal commas"),
    "double spaces": (written("  "), WORDS, "separated by spaces and tabs"),
    "double spaces under a header": (written("  ", start="5 3\n"), WORDS, "separated by spaces and tabs"),
    "two spaces after the word": (written(" ", "  "), WORDS, "separated by spaces and tabs"),
    "aligned columns": (written("   ", start=""), WORDS, "separated by spaces and tabs"),
    "a colon after the word": (written(" ", ": "), WORDS, "with a colon after the word"),
    "a colon and no space": (written(" ", ":", words=UNDERSCORED), UNDERSCORED, "with a colon after the word"),
    "an equals sign after the word": (written(" ", "=", words=UNDERSCORED), UNDERSCORED, "an equals sign after the word"),
    "Windows line ends": (written("\t", end="\r\n"), WORDS, "separated by tabs"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_dialect_is_told_by_its_rows_and_said(name, tmp_path):
    text, words, said = READ[name]
    path = tmp_path / "vectors"
    path.write_text(text, "utf-8", newline="")
    weight, report = load_embeddings(path)
    assert report.words == words
    assert torch.equal(weight, ROWS)
    assert (report.row_count, report.bad_row_count) == (5, 0)
    assert said in str(report)
    weight, report = load_embeddings(path, [words[4], words[2], "CAT"])
    assert torch.equal(weight, ROWS[[4, 2, 0]])
    assert report.by_fallback == {"exact": 2, "lower": 1, "nfkc": 0}


REFUSED = {
    "sparse vectors": (
        "2 5\ncat 1:0.1 4:0.2\ndog 2:0.4 3:0.5\n",
        "{path} holds no vectors that can be read: its rows must be a word and numbers, most of its first rows are not, got "
        "'cat 1:0.1 4:0.2' in line 2; pairs of index and value are sparse vectors: write every number of a row",
    ),
    "numbers in brackets": (
        "cat [0.1, 0.2]\ndog [0.4, 0.5]\n",
        "{path} holds no vectors that can be read: its rows must be a word and numbers, most of its first rows are not, got "
        "'cat [0.1, 0.2]' in line 1; write the numbers of a row in one line, without brackets and separated by spaces",
    ),
    "numbers without words": (
        "0.5 1.5 2.5\n3.5 4.5 5.5\n",
        "{path} must begin each row with a word, got numbers alone, '0.5 1.5 2.5'; put the words in front, or save the numbers "
        "as .npy and pass words",
    ),
    "the word behind its numbers": (
        "0.5 1.5 cat\n2.5 3.5 dog\n",
        "{path} holds no vectors that can be read: its rows must be a word and numbers, most of its first rows are not, got "
        "'0.5 1.5 cat' in line 1; put each word in front of its numbers",
    ),
    "the minus sign of typography": (
        "cat \u22120.5 \u22121.5\ndog \u22122.5 \u22123.5\n",
        "{path} holds no vectors that can be read: its rows must be a word and numbers, most of its first rows are not, got "
        "'cat \u22120.5 \u22121.5' in line 1; its minus signs are U+2212: replace them by hyphens",
    ),
    "lines that end in a carriage return": (
        "cat 0.5 1.5\rdog 2.5 3.5\r",
        "{path} ends its lines with a carriage return alone; write them with line feeds, as tr '\\r' '\\n' does",
    ),
    "a whole number behind each word": (
        "2 2\niphone 4 0.5 1.5\nboeing 747 2.5 3.5\n",
        "{path} can be read in two ways: its header claims 2 numbers per row, and each row holds one more, a whole one, "
        "behind its word, got 'iphone 4 0.5 1.5'; pass dim=2 where that is part of the word, or dim=3",
    ),
    "one decimal or two numbers": (
        "cat 1,2\ndog 3,4\n",
        "{path} can be read in two ways: rows of 1 number with decimal commas, or of 2 numbers separated by commas, got "
        "'cat 1,2'; pass dim=1 or dim=2",
    ),
    "prose with a year": (
        "Call me Ishmael.\nSome years ago\nin 1851\nnever mind\nhow long\n",
        "{path} holds no vectors that can be read: its rows must be a word and numbers, most of its first rows are not, got "
        "'Call me Ishmael.' in line 1; write a word and its numbers in each line",
    ),
    "a pointer of Git LFS": (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n",
        "{path} is a Git LFS pointer, not the file itself, which holds no vectors to read; fetch it with: git lfs pull",
    ),
    "a page of HTML": (
        "\n<!DOCTYPE html>\n<p>the year 2020 12\n",
        "{path} is an HTML page, which holds no vectors to read; download the file itself, not the page that shows it",
    ),
    "the body of a page": (
        "<!-- 404 -->\n<p>not found 404\n",
        "{path} is an HTML page, which holds no vectors to read; download the file itself, not the page that shows it",
    ),
    "JSON": (
        '{"cat": [0.1, 0.2], "dog": [0.4, 0.5]}\n',
        "{path} is JSON and not a file of vectors; write a word and its numbers in each line",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_of_vectors_is_refused_with_what_it_is(name, tmp_path):
    text, message = REFUSED[name]
    path = tmp_path / "vectors"
    path.write_text(text, "utf-8", newline="")
    for vocab in (None, ["cat", "size", "year"]):
        with pytest.raises(ValueError) as caught:
            load_embeddings(path, vocab, on_bad_row="skip")
        assert str(caught.value) == message.replace("{path}", repr(str(path)))


def test_dim_settles_whether_a_comma_is_a_decimal_one(tmp_path):
    path = tmp_path / "vectors"
    path.write_text("cat 1,2\ndog 3,4\n")
    assert torch.equal(load_embeddings(path, dim=1)[0], torch.tensor([[1.2], [3.4]]))
    assert load_embeddings(path, dim=2)[0].tolist() == [[1, 2], [3, 4]]


def test_dim_or_the_header_settles_where_words_end_that_end_in_numbers(tmp_path):
    path = tmp_path / "vectors"
    rows = "".join(f"model {n} {n}.5 {n}.25\n" for n in range(30))
    path.write_text(rows)
    weight, report = load_embeddings(path, ["model 7"], dim=2)
    assert (weight.tolist(), report.dim) == ([[7.5, 7.25]], 2)
    path.write_text("32 2\nwheel 31.5 1.5\n" + rows + "engine 1.5 2.5\n")
    weight, report = load_embeddings(path, ["model 29", "wheel", "engine"])
    assert (weight.tolist(), report.dim) == ([[29.5, 29.25], [31.5, 1.5], [1.5, 2.5]], 2)
    path.write_text("40 5\n" + "".join(f"w{n} " + " ".join([f"{n}.5"] * 6) + "\n" for n in range(40)))
    assert load_embeddings(path)[1].dim == 6  # the header lies, and no word ends in a number with a point


def test_numbers_as_names_of_columns_are_left_out_beside_numbers_of_rows(tmp_path):
    path = tmp_path / "vectors.csv"
    for head in (",word,0,1,2\n", ",word,1,2,3\n", "index,word,0,1,2\n"):
        path.write_text(head + "0,cat,0.5,1.5,2.5\n1,dog,3.5,4.5,5.5\n2,cow,6.5,7.5,8.5\n")
        weight, report = load_embeddings(path)
        assert list(report.words) == ["cat", "dog", "cow"]
        assert weight.tolist() == [[0.5, 1.5, 2.5], [3.5, 4.5, 5.5], [6.5, 7.5, 8.5]]


TABLE = pd.DataFrame([["cat", 0.5, 1.5, 2.5], ["new york", 3.5, 4.5, 5.5], ["cow", 6.5, 7.5, 8.25]])
NAMED = TABLE.rename(columns={0: "word", 1: "x", 2: "y", 3: "z"})
FRAMES = {
    "columns by number": TABLE,
    "words as the index": TABLE.set_index(0),
    "a column of words with a name": TABLE.rename(columns={0: "word"}),
    "columns by name": NAMED,
    "words as a named index": NAMED.set_index("word"),
    "a dictionary turned": pd.DataFrame({row[0]: list(row[1:]) for row in TABLE.itertuples(index=False)}).T,
}


@pytest.mark.parametrize("options", [{}, {"index": False}, {"header": False}, {"index": False, "header": False}])
@pytest.mark.parametrize("separator", [",", "\t", " ", ";"])
@pytest.mark.parametrize("name", FRAMES)
def test_what_pandas_writes_is_read_or_refused_for_its_missing_words(name, separator, options, tmp_path):
    frame = FRAMES[name]
    if separator == " ":  # names with spaces would be quoted
        frame = frame.replace("new york", "york").rename(index={"new york": "york"})
    path = tmp_path / "vectors"
    frame.to_csv(path, sep=separator, **options)
    words = ["cat", "york" if separator == " " else "new york", "cow"]
    without_words = name in ("words as the index", "words as a named index", "a dictionary turned")
    if without_words and not options.get("index", True):
        with pytest.raises(ValueError, match="must begin each row with a word, got numbers alone"):
            load_embeddings(path)
        return
    weight, report = load_embeddings(path)
    assert report.words == words
    assert weight.tolist() == TABLE[[1, 2, 3]].to_numpy().tolist()
    weight, report = load_embeddings(path, ["cow", "CAT"])
    assert weight.tolist() == [[6.5, 7.5, 8.25], [0.5, 1.5, 2.5]]


@pytest.mark.parametrize(
    "text",
    [
        TABLE.replace("new york", "york").to_string(),
        TABLE.replace("new york", "york").to_string(header=False),
        '"V1" "V2" "V3"\n"cat" 0.5 1.5 2.5\n"york" 3.5 4.5 5.5\n"cow" 6.5 7.5 8.25\n',
        "      V1  V2   V3\ncat  0.5 1.5 2.50\nyork 3.5 4.5 5.50\ncow  6.5 7.5 8.25\n",
        "# word x y z\ncat 0.5 1.5 2.5\nyork 3.5 4.5 5.5\ncow 6.5 7.5 8.25\n",
    ],
    ids=["pandas prints", "pandas prints no header", "R writes", "R prints", "NumPy comments"],
)
def test_tables_as_programs_print_them_are_read(text, tmp_path):
    path = tmp_path / "vectors"
    path.write_text(text)
    weight, report = load_embeddings(path)
    assert report.words == ["cat", "york", "cow"]
    assert weight.tolist() == TABLE[[1, 2, 3]].to_numpy().tolist()


def test_a_line_of_prose_in_front_is_no_header_of_columns(tmp_path):
    path = tmp_path / "vectors"
    path.write_text("These vectors were made by hand\ncat 0.5 1.5\nyork 3.5 4.5\ncow 6.5 7.5\n")
    with pytest.raises(ValueError, match=r"line 1 \(word 'These'\): 'by' is not a number"):
        load_embeddings(path)


def test_a_first_row_of_whole_numbers_stays_a_row_beside_others(tmp_path):
    path = tmp_path / "vectors"
    path.write_text("0 1 2 3\n1 2 3 4\n2 4 5 6\n")  # words that are numbers
    assert load_embeddings(path)[1].words == ["0", "1", "2"]
    path.write_text("7 1 2 3\ncat 0.5 1.5 2.5\ndog 1.5 2.5 3.5\n")
    assert load_embeddings(path)[1].words == ["7", "cat", "dog"]


def test_counts_behind_the_words_are_pointed_at(tmp_path):
    path = tmp_path / "vectors"
    note = (
        "the first number of each row is a whole one (100, 50, 7), and no other is: leave it out of the file if it counts the "
        "words"
    )
    path.write_text("cat 100 0.5 0.25\ndog 50 1.5 2.5\ncow 7 3.5 4.5\n")
    weight, report = load_embeddings(path)
    assert (weight[0].tolist(), report.notes) == ([100.0, 0.5, 0.25], (note,))
    path.write_text("word,freq,x\ncat,100,0.5\ndog,50,1.5\ncow,7,3.5\n")
    assert note in load_embeddings(path)[1].notes
    for text in (
        "cat 1 2 3\ndog 4 5 6\ncow 7 8 9\n",
        "cat 1.0 0.5\ndog 2.0 0.5\ncow 1.0 0.5\n",
        "cat 1 0.5\ndog 2.5 0.5\na 1 1.5\n",
    ):
        path.write_text(text)
        assert load_embeddings(path)[1].notes == ()


@pytest.mark.parametrize("on_bad_row", ["raise", "skip"])
@pytest.mark.parametrize("tab", [" ", "\t"])
def test_arrays_as_numpy_prints_them_are_refused_with_what_to_do(tab, on_bad_row, tmp_path):
    numbers = np.random.default_rng(0).normal(size=(30, 60))
    path = tmp_path / "vectors"
    path.write_text("".join(f"w{n}{tab}{row}\n" for n, row in enumerate(numbers)))
    for vocab in (None, ["w3"]):
        with pytest.raises(ValueError) as caught:
            load_embeddings(path, vocab, on_bad_row=on_bad_row)
        assert str(caught.value).endswith(
            "in line 1; write the numbers of a row in one line, without brackets and separated by spaces"
        )


def test_numbers_in_quotes_are_named(tmp_path):
    path = tmp_path / "vectors"
    TABLE.to_csv(path, quoting=csv.QUOTE_ALL)
    with pytest.raises(ValueError) as caught:
        load_embeddings(path)
    assert str(caught.value).endswith(
        """got '"","0","1","2","3"' in line 1; its numbers are in quotes: write them without"""
    )


def test_the_first_words_of_a_file_that_has_none_of_the_vocabulary_are_shown(tmp_path):
    path = tmp_path / "vectors"
    path.write_text("3 2\n/c/en/cat 0.5 1.5\n/c/en/dog 2.5 3.5\n/c/en/cow 4.5 5.5\n")
    with pytest.raises(ValueError, match="in it; its first words are '/c/en/cat', '/c/en/dog', '/c/en/cow'; check"):
        load_embeddings(path, ["cat"])
    path.write_bytes(
        b"2 2\n" + b"".join(word + np.ones(2, "<f4").tobytes() + b"\n" for word in (b"cat|NOUN ", b"dog|NOUN "))
    )
    with pytest.raises(ValueError, match=r"in it; its first words are 'cat\|NOUN', 'dog\|NOUN'; check"):
        load_embeddings(path, ["cat"])
    np.save(tmp_path / "v.npy", np.ones((2, 3)))
    with pytest.raises(ValueError, match="in it; its first words are 'cat 17', 'dog 4'; check"):
        load_embeddings(tmp_path / "v.npy", ["cat"], words=["cat 17", "dog 4"])


def test_words_in_quotes_lose_them_between_spaces_too(tmp_path):
    path = tmp_path / "vectors"
    path.write_text('"cat" 0.5 1.5\n"new york" 2.5 3.5\n')
    assert list(load_embeddings(path)[1].words) == ["cat", "new york"]
    path.write_text('" 0.5 1.5\n"" 2.5 3.5\nthe 4.5 5.5\n')
    assert list(load_embeddings(path)[1].words) == ['"', '""', "the"]


def test_a_file_most_of_whose_rows_are_bad_is_refused(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(b"a 1 2\n" * 30 + b"b 1 x\n" * 40)
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, on_bad_row="skip")
    assert str(caught.value) == (
        f"{str(path)!r} holds no vectors that can be read: 40 of its 70 rows are bad, the first in line 31 (word 'b': 'x' is "
        "not a number)"
    )
    path.write_bytes(b"a 1 2\n" * 40 + b"b 1 x\n" * 30)
    assert load_embeddings(path, on_bad_row="skip")[1].bad_row_count == 30


def test_bad_rows_of_other_dialects_are_named(tmp_path):
    path = tmp_path / "vectors"
    path.write_text("a;0,5;1,5\nb;0,5\nc;0,5;x\nd;2,5;3,5\ne;1,5;1,5\nf;4,5;5,5\ng,h;4,5;5,5\ni;1,5;2,5;3,5\n")
    weight, report = load_embeddings(path, on_bad_row="skip")
    assert report.words == ["a", "d", "e", "f", "g,h"]
    assert weight[1].tolist() == [2.5, 3.5]
    assert sorted((row.line, row.word, row.reason) for row in report.bad_rows) == [
        (2, "b", "expected 2 numbers, got 1"),
        (3, "c", "'x' is not a number"),
        (8, "i", "expected 2 numbers, got 3"),
    ]
    with pytest.raises(ValueError, match=r"line 2 \(word 'b'\): expected 2 numbers, got 1"):
        load_embeddings(path)


@pytest.mark.parametrize("word", [":", ";", "=", ",", "|", "a:b", "http://x", "1:2", "10,000"])
def test_words_with_separators_in_a_plain_file_are_words(word, tmp_path):
    path = tmp_path / "vectors"
    path.write_text(f"{word} 0.5 1.5\nplain 2.5 3.5\nother 4.5 5.5\n")
    weight, report = load_embeddings(path)
    assert report.words == [word, "plain", "other"]
    assert weight[0].tolist() == [0.5, 1.5]
    assert report.notes == ()


# --- encodings ---


ENCODED = {
    "latin-1": ["héllo", "wörld", "Ærø"],
    "cp1252": ["naïve", "œuvre", "€"],
    "gb18030": ["的", "中国", "我们"],
    "gbk": ["的", "中国", "我们"],
    "big5": ["的", "中國", "我們"],
    "shift_jis": ["これ", "日本", "ください"],
    "euc_kr": ["이것", "한국", "그리고"],
    "koi8_r": ["это", "привет", "мир"],
    "utf-8-sig": ["héllo", "中国", "мир"],
    "utf-16": ["héllo", "中国", "мир"],
    "utf-16-le": ["héllo", "中国", "мир"],
    "utf-32": ["héllo", "中国", "мир"],
    "cp037": ["héllo", "wörld", "plain"],
}  # fmt: skip


@pytest.mark.parametrize("separator", [" ", "\t", ","])
@pytest.mark.parametrize("encoding", ENCODED)
def test_an_encoding_that_is_named_is_read(encoding, separator, tmp_path):
    words = ENCODED[encoding]
    lines = [separator.join([word, str(number + 0.5), str(number + 1.25)]) for number, word in enumerate(words)]
    path = tmp_path / "vectors"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    weight, report = load_embeddings(path, encoding=encoding)
    assert (report.words, report.undecodable) == (words, 0)
    assert weight[:, 0].tolist() == [0.5, 1.5, 2.5]
    weight, report = load_embeddings(path, [words[2], words[0]], encoding=encoding)
    assert weight[:, 1].tolist() == [3.25, 1.25]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-8-sig"])
def test_a_byte_order_mark_or_zero_bytes_decide(encoding, tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes("3 2\nhéllo 0.5 1.5\n中国 2.5 3.5\nplain 4.5 5.5\n".encode(encoding))
    weight, report = load_embeddings(path)
    assert (report.words, report.header) == (["héllo", "中国", "plain"], (3, 2))
    assert weight[1].tolist() == [2.5, 3.5]


@pytest.mark.parametrize(("encoding", "likely"), [("latin-1", "cp1252"), ("gbk", "gb18030")])
def test_words_in_another_encoding_are_said_with_the_option(encoding, likely, tmp_path):
    words = ENCODED[encoding]
    path = tmp_path / "vectors"
    path.write_bytes("".join(f"{word} 0.5 1.5\n" for word in [*words, "plain"]).encode(encoding))
    _, report = load_embeddings(path, [*words, "plain"])
    note = f"words such as {words[0].encode(encoding)!r} are not in UTF-8; pass encoding={likely!r} if {words[0]!r} is right"
    assert report.notes == (note,)
    assert (report.found, note in str(report)) == (1, True)
    with pytest.raises(ValueError) as caught:
        load_embeddings(path, words)
    assert str(caught.value) == (
        f"vocab must share a word with {str(path)!r}, got 3 words ({', '.join(map(repr, words))}), "
        f"none of which is in it; {note}; check the language and the "
        "tokens, or pass unk_init='zeros'"
    )
    assert load_embeddings(path, words, encoding=likely)[1].missing == ()


def test_a_few_damaged_words_are_no_other_encoding(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes("".join(f"{word} 0.5 1.5\n" for word in ENCODED["utf-16"] * 3).encode() + b"caf\xe9 1.5 2.5\n")
    _, report = load_embeddings(path)
    assert (report.undecodable, report.notes) == (1, ())


def test_what_is_not_in_the_encoding_named_is_refused_or_counted(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes("héllo 0.5 1.5\nx 1 2\n".encode("latin-1"))
    assert load_embeddings(path, encoding="ascii")[1].undecodable == 1
    path.write_bytes(b"\xff\xfe" + "a 1 2\nb 3 4\n".encode("utf-16-le") + b"x")
    with pytest.raises(ValueError) as caught:
        load_embeddings(path)
    assert str(caught.value) == (
        f"{str(path)!r} is not utf-16 ('utf-16-le' codec can't decode byte 0x78 in position 0: truncated data); pass the "
        "encoding it was written in"
    )
    with pytest.raises(ValueError, match="encoding must be one that Python knows"):
        load_embeddings(path, encoding="utf-9")


def test_text_is_never_read_as_binary_numbers(tmp_path):
    """Latin-1 words under a header, in dialects that are read and ones that are not."""
    path = tmp_path / "vectors"
    for row in ("héllo wörld\t0.5\t1.5", "é~0.5~1.5", "façade/0.5/1.5", "élève 0,5 1,5"):
        path.write_bytes(f"3 2\n{row}\n{row}\n{row}\n".encode("latin-1"))
        with contextlib.suppress(ValueError):
            weight, report = load_embeddings(path, encoding="latin-1")
            assert (report.format, weight.tolist()) == ("word2vec-text", [[0.5, 1.5]])


# --- any dialect, drawn at random ---


def _drawn(generator):
    """Draw a table, how it is written, and its text."""
    dim, count = generator.choice([1, 2, 3, 7, 20]), generator.randint(2, 25)
    letters = generator.choice(["abcdefgh", "abc déf", "我你他猫狗", "ab-'.", "aB1"])
    words = []
    while len(words) < count:
        word = "".join(generator.choice(letters) for _ in range(generator.randint(1, 8))).strip()
        if word and word not in words and "  " not in word:
            words.append(word)
    between = generator.choice([" ", "\t", ",", ", ", ";", "|", "  ", " \t"])
    after = generator.choice([None, "\t", " ", ": "]) if between.strip(" \t") in ("", ",") else None
    comma = between.strip() == ";" and generator.random() < 0.5
    pattern = generator.choice(["%.5f", "%.3g", "%r", "%.2e"])
    numbers = [[pattern % generator.gauss(0, 1) for _ in range(dim)] for _ in words]
    rows = [
        word + (between if after is None else after)
        + between.join(text.replace(".", ",") if comma else text for text in row)
        for word, row in zip(words, numbers, strict=True)
    ]  # fmt: skip
    header = [f"{count} {dim}"] if generator.random() < 0.4 else []
    end = generator.choice(["\n", "\r\n"])
    return words, np.array(numbers, dtype=object).astype(float), end.join([*header, *rows]) + end


def _holds(draws, seed, path):
    generator = random.Random(seed)
    read = 0
    for _ in range(draws):
        words, numbers, text = _drawn(generator)
        path.write_text(text, "utf-8", newline="")
        try:
            weight, report = load_embeddings(path, dtype=torch.float64)
        except ValueError:
            continue
        assert report.words == words, text
        assert np.array_equal(weight.numpy(), numbers), text
        read += 1
    return read


def test_a_random_table_in_a_random_dialect_is_read_equal_or_refused(tmp_path):
    assert _holds(200, 0, tmp_path / "vectors") > 150


@pytest.mark.slow
def test_two_thousand_random_tables_are_read_equal_or_refused(tmp_path):
    assert _holds(2000, 1, tmp_path / "vectors") > 1500
