"""Labelled files are read as they are meant, and a bad one is named by line."""

import csv
import gzip
import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkboy.classify.reading.labelled import read_labelled

ROWS = [("房间很干净", "好评"), ("服务太差", "差评"), ("a\tb", "好评"), ("«quoted, text»", "差评")]


def written(tmp_path, name, content, *, encoding="utf-8"):
    path = tmp_path / name
    raw = content if isinstance(content, bytes) else content.encode(encoding)
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def pairs(data):
    return list(zip(data.texts, data.labels, strict=True))


FORMS = {
    "rows.tsv": "".join(f"{text}\t{label}\n" for text, label in ROWS),
    "rows.txt.gz": "".join(f"{text}\t{label}\n" for text, label in ROWS),
    "rows.csv": "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS),
    "named.tsv": "label\ttext\n" + "".join(f'{label}\t"{text}"\n' for text, label in ROWS),
    "rows.csv.gz": "标签,评论\r\n" + "".join(f'{label},"{text}"\r\n' for text, label in ROWS),
    "rows.jsonl": "".join(json.dumps({"label": label, "text": text}) + "\n" for text, label in ROWS),
    "rows.ndjson.gz": "".join(json.dumps({"review": text, "other": 1, "class": label}) + "\n" for text, label in ROWS),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows(tmp_path, name):
    assert pairs(read_labelled(written(tmp_path, name, FORMS[name]))) == ROWS


def test_parquet_gives_the_same_rows(tmp_path):
    frame = pl.DataFrame(ROWS, schema=["sentence", "target"], orient="row")
    frame.write_parquet(tmp_path / "rows.parquet")
    assert pairs(read_labelled(tmp_path / "rows.parquet")) == ROWS
    (tmp_path / "rows.parquet.gz").write_bytes(gzip.compress((tmp_path / "rows.parquet").read_bytes()))
    assert pairs(read_labelled(tmp_path / "rows.parquet.gz")) == ROWS


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1).map(str.strip),
            st.text(st.characters(codec="utf-8", exclude_characters="\n\r\t"), min_size=1).map(str.strip),
        ).filter(all),
        min_size=1,
        max_size=8,
    )
)
def test_any_text_without_a_line_feed_survives_tsv(tmp_path_factory, rows):
    # Text that begins with a byte order mark, or looks like a header, is the exception that the form allows; so are texts
    # that all have the same number of tabs, which look like columns.
    rows = [("x", "y"), *(("x " + text, label) for text, label in rows)]
    path = written(tmp_path_factory.mktemp("tsv"), "rows.tsv", "".join(f"{text}\t{label}\n" for text, label in rows))
    assert pairs(read_labelled(path)) == [(text.strip(), label) for text, label in rows]


def test_byte_order_mark_crlf_and_blank_lines_are_taken_away(tmp_path):
    path = written(tmp_path, "rows.tsv", b"\xef\xbb\xbfgood food\tyes\r\n\r\nbad food\tno\r\n  \n")
    data = read_labelled(path)
    assert pairs(data) == [("good food", "yes"), ("bad food", "no")]
    assert list(data.lines) == [1, 3]


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = written(tmp_path, "rows.tsv", "one\u2028two\x85three\tyes\nfour\tno\n")
    assert pairs(read_labelled(path)) == [("one\u2028two\x85three", "yes"), ("four", "no")]


def test_gb18030_is_read_when_asked_for(tmp_path):
    path = written(tmp_path, "rows.tsv", "很好\t好评\n很差\t差评\n", encoding="gb18030")
    assert pairs(read_labelled(path, encoding="gb18030")) == [("很好", "好评"), ("很差", "差评")]


def test_quoted_line_breaks_belong_to_the_text(tmp_path):
    path = written(tmp_path, "rows.csv", 'text,label\n"two\nlines",a\nshort,b\n')
    data = read_labelled(path)
    assert pairs(data) == [("two\nlines", "a"), ("short", "b")]
    assert list(data.lines) == [2, 4]


def test_columns_and_weights_by_name(tmp_path):
    path = written(tmp_path, "rows.csv", "id,body,topic,w\n1,hello,a,0.5\n2,world,b,2\n")
    data = read_labelled(path, text_column="body", label_column="topic", weight_column="w")
    assert pairs(data) == [("hello", "a"), ("world", "b")]
    assert data.weights == [0.5, 2.0]


def test_numbers_as_labels_are_read_alike_from_every_form(tmp_path):
    frame = pl.DataFrame({"text": ["x", "y"], "label": [1.0, 0.0]})
    frame.write_parquet(tmp_path / "rows.parquet")
    path = written(tmp_path, "rows.jsonl", '{"text": "x", "label": 1}\n{"text": "y", "label": 0}\n')
    assert list(read_labelled(tmp_path / "rows.parquet").labels) == list(read_labelled(path).labels) == ["1", "0"]


def test_quotes_in_a_tsv_with_a_header_never_join_rows(tmp_path):
    rows = '"Good thing\tp\n"Bad thing\tn\n"Titanic" is great\tp\n"said ""hi"""\tn\n'
    path = written(tmp_path, "rows.tsv", "text\tlabel\n" + rows)
    assert pairs(read_labelled(path)) == [
        ('"Good thing', "p"), ('"Bad thing', "n"), ('"Titanic" is great', "p"), ('said "hi"', "n")
    ]  # fmt: skip


@pytest.mark.parametrize("rule", ["|------|:-----:|", "| --- | ---: |"])
def test_the_ruler_of_a_markdown_table_is_no_row(tmp_path, rule):
    rows = [(f"film number {i}", "good" if i % 2 else "bad") for i in range(30)]
    table = ["| text | label |", rule, *(f"| {text} | {label} |" for text, label in rows)]
    assert pairs(read_labelled(written(tmp_path, "rows.md", "\n".join(table).encode()))) == rows
    bare = [line.strip("| ") for line in table]
    assert pairs(read_labelled(written(tmp_path, "bare.txt", "\n".join(bare).encode()))) == rows


def test_a_text_of_dashes_is_a_row(tmp_path):
    data = read_labelled(written(tmp_path, "rows.csv", b"text,label\n---,dash\na,plain\n---,dash\nb,plain\n"))
    assert pairs(data) == [("---", "dash"), ("a", "plain"), ("---", "dash"), ("b", "plain")]
    with pytest.raises(ValueError, match="line 3: the label is empty"):
        read_labelled(written(tmp_path, "rows.csv", b"text,label\na,plain\n---,\n"))


def test_blank_lines_inside_quotes_stay_and_those_between_rows_go(tmp_path):
    path = written(tmp_path, "rows.csv", 'text,label\n\n"one\n\nthree",a\n\nb,b\n')
    assert pairs(read_labelled(path)) == [("one\n\nthree", "a"), ("b", "b")]


def test_empty_rows_of_a_spreadsheet_go_and_an_empty_text_stays_bad(tmp_path):
    path = written(tmp_path, "rows.csv", ",,\nid,text,label\n1,good,a\n,,\n2,bad,b\n, ,\u3000\n,,,,\n3,,a\n4,fine,a\n")
    data = read_labelled(path, on_bad_row="skip")
    assert pairs(data) == [("good", "a"), ("bad", "b"), ("fine", "a")]
    assert [(row.line, row.reason) for row in data.skipped] == [(8, "the text is empty")]
    one = written(tmp_path, "one.csv", 'text\nfirst\n""\nlast\n')
    from linkboy.classify.reading._columns import wanted_columns
    from linkboy.classify.reading._content import opened
    from linkboy.classify.reading._tables import Reading, table_of

    with opened(one) as content:
        table = table_of(content, Reading(wanted_columns("text", None, None, needs_label=False)), pytest.fail)
        assert [record for _, record in table.records] == [["first"], [""], ["last"]]


def test_a_row_with_a_line_that_is_not_utf8_is_skipped_whole(tmp_path):
    path = written(tmp_path, "rows.csv", b'text,label\n"one\n\xff\nthree",a\nb,b\n')
    data = read_labelled(path, on_bad_row="skip")
    assert pairs(data) == [("b", "b")]
    assert [row.line for row in data.skipped] == [3]


def test_fields_of_any_length_and_carriage_returns_are_read(tmp_path):
    long = "x" * 200_000
    path = written(tmp_path, "rows.csv", f"text,label\n{long},a\none\rtwo,b\n")
    assert pairs(read_labelled(path)) == [(long, "a"), ("one two", "b")]
    path = written(tmp_path, "mac.csv", "text,label\rone,a\rtwo,b\r")
    assert pairs(read_labelled(path)) == [("one", "a"), ("two", "b")]


def test_json_values_become_text_or_are_refused(tmp_path):
    path = written(tmp_path, "rows.jsonl", '{"text": 5, "label": true}\n{"text": "b", "label": 0.5}\n')
    assert pairs(read_labelled(path)) == [("5", "true"), ("b", "0.5")]
    path = written(tmp_path, "bad.jsonl", '{"text": {"a": 1}, "label": 1}\n{"text": "b", "label": NaN}\n' + "[" * 100_000
        + '\n{"text": "\\ud800", "label": 1}\n{"text": "c", "label": 1}\n{"text": "d", "label": ["x"]}\n')  # fmt: skip
    data = read_labelled(path, on_bad_row="skip")
    assert pairs(data) == [("c", "1")]
    assert [row.reason for row in data.skipped] == [
        "the text must be text or a number, got dict",
        "the label is empty",
        "it is JSON that cannot be read (nested too deeply, or a number too long)",
        "the text holds half of a surrogate pair, which no file can store",
        "the label must be text or a number, got list",
    ]


def test_rows_made_by_hand_are_checked():
    from linkboy import LabelledTexts

    with pytest.raises(ValueError) as caught:
        LabelledTexts("x", ["a", "b"], ["p"], [1, 2])
    assert str(caught.value) == "labels must have one entry for each text, got 1 for 2 texts"
    with pytest.raises(TypeError) as wrong_type:
        LabelledTexts("x", ["a"], [1], [1])
    assert str(wrong_type.value) == "labels must be strings, got 1 of type int"


def test_skipped_rows_are_counted_and_named(tmp_path):
    path = written(tmp_path, "rows.tsv", b"good\tyes\nno tab\nbroken \xff\tyes\n\tempty\nbad\tno\n")
    data = read_labelled(path, on_bad_row="skip")
    assert pairs(data) == [("good", "yes"), ("bad", "no")]
    assert [(row.line, row.reason) for row in data.skipped] == [
        (2, "there is no tab between text and label"),
        (3, "byte 8 is not UTF-8 (0xff), but the line reads 'broken ÿ\\tyes' with encoding='cp1252'"),
        (4, "the text is empty"),
    ]
    assert str(data) == (
        f"{path}: text from column 0, label from column 1 (2 classes), 2 rows; tab, no header (columns count from 0), UTF-8\n"
        "first row as read: 'good' is 'yes'\n"
        "2 classes have fewer than 5 rows: 'no', 'yes'\n"
        "1 skipped row is not UTF-8 but probably cp1252: the file may have parts in two encodings\n"
        "\n"
        "3 rows skipped\n"
        "line  why it was skipped\n"
        "   2  there is no tab between text and label\n"
        "   3  byte 8 is not UTF-8 (0xff), but the line reads 'broken ÿ\\tyes' with encoding='cp1252'\n"
        "   4  the text is empty"
    )


BAD = {
    "no tab": ("rows.tsv", b"good\tyes\nno tab\n", "{path} line 2: there is no tab between text and label; {mend}"),
    "utf-8": ("rows.tsv", b"good\tyes\nb\xe4d\tno\n",
        "{path} line 2: byte 2 is not UTF-8 (0xe4), but the line reads 'bäd\\tno' with encoding='cp1252'; {mend}"),
    "chinese": ("rows.csv", "评论,标签\n很好,正\n".encode("gb18030"),
        "{path} line 1: byte 1 is not UTF-8 (0xc6), but the line reads '评论,标签' with encoding='gb18030'; {mend}"),
    "no header": ("rows.csv", "很好,正\n不好,负\n".encode(),
        "{path}: cannot tell which column is the text; it has the columns '很好', '正': "
        "name one, such as text_column='很好', or if that is a row, pass header=False"),
    "empty label": ("rows.tsv", b"good\tyes\nbad\t \n", "{path} line 2: the label is empty; {mend}"),
    "fields": ("rows.csv", b"text,label\na,b\na,b,c\n", "{path} line 3: 3 fields where the header has 2; {mend}"),
    "row names": ("rows.tsv", b'"text"\t"label"\n"1"\t"a"\t"b"\n"2"\t"c"\t"d"\n',
        "{path} line 2: 3 fields where the header has 2, as where R writes the names of rows without a heading "
        "(row.names = FALSE leaves them out); {mend}"),
    "json": ("rows.jsonl", b'{"text": "a", "label": 1}\n{"text": \n',
        "{path} line 2: it is not JSON (Expecting value at column 10); {mend}"),
    "open quote": ("rows.csv", b'text,label\n"an open quote,p\nfine,p\n',
        "{path} line 2: a quote is opened and never closed; close it"),
    "loose quote": ("rows.csv", b'text,label\n"Titanic" is great,p\n',
        "{path} line 2: a quote inside a field must be doubled and the field quoted (',' expected after '\"'); {mend}"),
    "two columns": ("rows.csv", b"text,text,label\na,b,c\n", "{path} has 2 columns named 'text'; rename all but one"),
    "json list": ("rows.jsonl", b"[1]\n", "{path} line 1: expected a JSON object, got list; {mend}"),
    "json key": ("rows.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}\n', "{path} line 2: there is no key 'label'; {mend}"),
    "empty file": ("rows.tsv", b"", "{path} holds no labelled text; it is empty"),
    "blank file": ("rows.csv", b"\n \n", "{path} holds no labelled text; it is empty"),
    "header only": ("rows.csv", b"text,label\n", "{path} holds no labelled text; it has a header and no rows"),
    "utf-16": ("rows.tsv", "good\tyes\n".encode("utf-16-le"),
        "{path} is UTF-16 without a byte order mark; read it with encoding='utf-16-le'"),
    "iso-2022": ("rows.tsv", "良い\tyes\n".encode("iso2022_jp"),
        "{path} is ASCII that stands for other characters; read it with encoding='iso2022_jp'"),
    "not parquet": ("rows.parquet", b"PAR0 nothing", "{path} is not a complete Parquet file; write it again"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_content_is_one_sentence(tmp_path, case):
    name, content, message = BAD[case]
    path = written(tmp_path, name, content)
    with pytest.raises(ValueError) as caught:
        read_labelled(path)
    mend = "correct the line or pass on_bad_row='skip'"
    assert str(caught.value) == message.format(path=path, mend=mend)


def test_a_damaged_gzip_file_is_one_sentence(tmp_path):
    path = tmp_path / "rows.tsv.gz"
    path.write_bytes(gzip.compress(b"good\tyes\n" * 100)[:20])
    with pytest.raises(ValueError) as caught:
        read_labelled(path)
    assert str(caught.value) == (
        f"{str(path)!r} is damaged or incomplete: its gzip data cannot be unpacked (Compressed file ended before the "
        "end-of-stream marker was reached); get the file again"
    )
    path.write_bytes(b"good\tyes\n")  # packed or not is seen from the content
    assert pairs(read_labelled(path)) == [("good", "yes")]


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    written(tmp_path, "train.tsv", "a\tb\n")
    with pytest.raises(FileNotFoundError) as missing:
        read_labelled(tmp_path / "trian.tsv")
    assert str(missing.value) == f"there is no file {tmp_path / 'trian.tsv'}; did you mean 'train.tsv'?"
    with pytest.raises(FileNotFoundError) as missing:
        read_labelled(tmp_path / "else" / "xyz.tsv")
    assert str(missing.value) == f"there is no file {tmp_path / 'else' / 'xyz.tsv'}; check the path"
    with pytest.raises(IsADirectoryError) as directory:
        read_labelled(tmp_path)
    assert str(directory.value) == (
        f"{tmp_path} is a directory; name the file with the labelled texts in it, or a directory that has a folder for each "
        "class, with a text in each file"
    )


def test_a_missing_column_names_those_that_exist_and_the_nearest(tmp_path):
    path = written(tmp_path, "rows.csv", "id,heading,label\n1,hello,a\n")
    with pytest.raises(ValueError) as caught:
        read_labelled(path, text_column="headin")
    assert str(caught.value) == (
        f"{path} has no column 'headin'; did you mean 'heading'?; it has the columns 'id', 'heading', 'label'"
    )
    with pytest.raises(ValueError) as caught:
        read_labelled(path)
    assert str(caught.value) == (
        f"{path}: cannot tell which column is the text; it has the columns 'id', 'heading', 'label': "
        "name one, such as text_column='id', or if that is a row, pass header=False"
    )


@pytest.mark.parametrize("weight", ["-1", "nan", "inf", "heavy", ""])
def test_a_weight_is_a_number_of_at_least_zero(tmp_path, weight):
    path = written(tmp_path, "rows.csv", f"text,label,w\na,b,1\nc,d,{weight}\n")
    with pytest.raises(ValueError) as caught:
        read_labelled(path, weight_column="w")
    assert str(caught.value) == (
        f"{path} line 3: the weight must be a number of at least 0, got {weight!r}; "
        "correct the line or pass on_bad_row='skip'"
    )


def test_all_rows_bad_is_an_error_even_when_skipping(tmp_path):
    path = written(tmp_path, "rows.csv", "text,label\ngood,\n,bad\n")
    with pytest.raises(ValueError) as caught:
        read_labelled(path, on_bad_row="skip")
    assert str(caught.value) == (
        f"{path} holds no labelled text: 2 rows were skipped, the first (line 2) since the label is empty"
    )


def test_an_unknown_encoding_is_one_sentence(tmp_path):
    path = written(tmp_path, "rows.tsv", "a\tb\n")
    with pytest.raises(ValueError) as caught:
        read_labelled(path, encoding="utf8x")
    assert str(caught.value) == "encoding must be one that Python knows, such as 'utf-8' or 'gb18030', got 'utf8x'"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [("text", "label"), ("label", "text"), ("tweet", "sentiment"), ("标签", "评论")])
def test_the_separator_of_a_csv_file_is_seen_from_its_header(tmp_path, separator, header):
    rows = [("很好, 真的", "p"), ('a "quoted"; text', "n"), ("a | b", "p")]
    flipped = header[0] in ("label", "标签")
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([header, *(row[::-1] if flipped else row for row in rows)])
    assert pairs(read_labelled(tmp_path / "rows.csv")) == rows


def test_a_named_column_decides_the_separator_too(tmp_path):
    path = written(tmp_path, "rows.csv", "what;which\na, b;p\nc;q\n")
    assert pairs(read_labelled(path, text_column="what")) == [("a, b", "p"), ("c", "q")]


@pytest.mark.parametrize("row", ["text\tCOARSE\tfine", "1\tgood\ttext\t{}\ttrain"])
def test_three_columns_without_a_header_are_refused(tmp_path, row):
    path = written(tmp_path, "rows.tsv", f"{row}\n" * 20)
    with pytest.raises(ValueError) as caught:
        read_labelled(path)
    cells = ", ".join(f"{place} {cell!r}" for place, cell in enumerate(row.split("\t")))
    assert str(caught.value) == (
        f"{path}: cannot tell which column is the text; it has no header, and its columns begin with {cells}: name one, such as "
        "text_column=0, or write a header above it"
    )


def test_numbers_are_labels_as_they_are_written(tmp_path):
    lines = written(tmp_path, "rows.jsonl", '{"text": "a", "label": 1.0}\n{"text": "b", "label": 0}\n')
    table = written(tmp_path, "rows.csv", "text,label\na,1.0\nb,0\n")
    assert read_labelled(lines).labels == read_labelled(table).labels == ["1.0", "0"]
