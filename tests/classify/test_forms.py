"""Small files as people have them, one of each form, in two languages: each is read right, or refused with what to pass."""

# ruff: noqa: E501 - a form or a sentence is read best in one line

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from xml.sax.saxutils import escape

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linkboy.classify.reading._content import opened
from linkboy.classify.reading._findings import value_key
from linkboy.classify.reading.labelled import read_labelled

ENGLISH = [
    (f"the {thing} was {word}, {number}", label)
    for number in range(10)
    for thing in ("room", "food", "staff")
    for word, label in (("great", "pos"), ("awful", "neg"))
]
CHINESE = [
    (f"{thing}{word}，第{number}次来", label)
    for number in range(10)
    for thing in ("房间", "饭菜", "服务")
    for word, label in (("很好", "好评"), ("太差", "差评"))
]
LANGUAGES = {"english": ENGLISH, "chinese": CHINESE}


def delimited(row, *, first="", separator=",", **dialect):
    """Return a function that writes the rows as delimited text: `row` gives the cells of number, text and label."""

    def write(rows):
        file = io.StringIO(newline="")
        writer = csv.writer(file, delimiter=separator, **{"lineterminator": "\n", **dialect})
        if first:
            writer.writerow(first.split(","))
        writer.writerows(row(number, text, label) for number, (text, label) in enumerate(rows))
        return file.getvalue().encode()

    return write


def raw(row, first=""):
    return lambda rows: (first + "".join(row(number, *pair) for number, pair in enumerate(rows))).encode()


def archive_of(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "text,label\n")
    return file.getvalue()


def records(**names):
    return lambda rows: [dict(zip(names["keys"], pair, strict=True)) for pair in rows]


def text_label(_, text, label):
    return text, label


def label_text(_, text, label):
    return label, text


def packed(pack, write):
    return lambda rows: pack(write(rows))


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._rows.csv", b"\0")
        archive.writestr("folder/rows.csv", content)
    return file.getvalue()


def zstd(content):
    return pytest.importorskip("backports.zstd").compress(content)


def workbook(*sheets):
    """Return an Excel workbook with the given rows in its sheets."""
    pytest.importorskip("fastexcel")
    space = "http://schemas.openxmlformats.org"
    kind, office = f"{space}/package/2006", f"{space}/officeDocument/2006/relationships"
    numbers = range(1, len(sheets) + 1)
    book = f'<workbook xmlns="{space}/spreadsheetml/2006/main" xmlns:r="{office}"><sheets>'
    book += "".join(f'<sheet name="s{n}" sheetId="{n}" r:id="r{n}"/>' for n in numbers) + "</sheets></workbook>"
    links = "".join(f'<Relationship Id="r{n}" Type="{office}/worksheet" Target="worksheets/{n}.xml"/>' for n in numbers)
    main = f'<Relationship Id="r1" Type="{office}/officeDocument" Target="xl/workbook.xml"/>'
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{kind}/content-types"><Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{kind}/relationships">{main}</Relationships>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{kind}/relationships">{links}</Relationships>',
        "xl/workbook.xml": book,
    }
    for number, rows in zip(numbers, sheets, strict=True):
        body = "".join(
            f'<row r="{line}">'
            + "".join(
                f'<c r="{"ABCDEF"[place]}{line}" t="inlineStr"><is><t>{escape(str(cell))}</t></is></c>'
                for place, cell in enumerate(cells)
            )
            + "</row>"
            for line, cells in enumerate(rows, 1)
        )
        parts[f"xl/worksheets/{number}.xml"] = (
            f'<worksheet xmlns="{space}/spreadsheetml/2006/main"><sheetData>{body}</sheetData></worksheet>'
        )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def parquet(*names):
    def write(rows):
        file = io.BytesIO()
        pl.DataFrame(rows, schema=list(names), orient="row").write_parquet(file)
        return file.getvalue()

    return write


HEADED = delimited(text_label, first="text,label")
# Name of the file, how it is written, the arguments to read it with.
FORMS = {
    "csv": ("rows.csv", HEADED, {}),
    "csv, semicolons": ("rows.csv", delimited(text_label, first="text,label", separator=";"), {}),
    "csv, tabs": ("rows.csv", delimited(label_text, first="label,text", separator="\t"), {}),
    "csv, bars": ("rows.csv", delimited(text_label, first="text,label", separator="|"), {}),
    "csv, no header": ("rows.csv", delimited(text_label), {}),
    "csv, label first, no header": ("rows.csv", delimited(label_text), {}),
    "csv, semicolons, no header": ("rows.csv", delimited(lambda n, t, l: (n, t, l), separator=";"), {}),
    "csv, names of Kaggle": ("spam.csv", raw(lambda n, t, l: f'{l},"{t}",,,\n', "v1,v2,,,\n"), {}),
    "csv, unknown names": ("rows.csv", delimited(lambda n, t, l: (n, t, l), first="nr,words,kind"), {}),
    "csv, tweet": ("rows.csv", delimited(text_label, first="tweet,sentiment"), {}),
    "csv, review_text": ("rows.csv", delimited(label_text, first="stars,review_text"), {}),
    "csv, Chinese names": ("rows.csv", delimited(label_text, first="标签,评论"), {}),
    "csv, a number and a class": ("rows.csv", delimited(lambda n, t, l: (n, t, l, n % 7 / 3), first="id,text,label,share"), {}),
    "csv, all quoted": ("rows.csv", delimited(text_label, first="text,label", quoting=csv.QUOTE_ALL), {}),
    "csv, quotes escaped": ("rows.csv", raw(lambda n, t, l: f'"she said \\"{t}\\"",{l}\n', "text,label\n"), {}),
    "csv, CRLF and a mark": ("rows.csv", lambda rows: b"\xef\xbb\xbf" + delimited(text_label, first="text,label", lineterminator="\r\n")(rows), {}),
    "csv by Excel as Unicode": ("rows.txt", lambda rows: delimited(text_label, first="text,label", separator="\t")(rows).decode().encode("utf-16"), {}),
    "csv, numbers of columns": ("rows.csv", delimited(lambda n, t, l: (n, l, t, "train")), {"text_column": 2, "label_column": 1}),
    "tsv": ("rows.tsv", raw(lambda n, t, l: f"{t}\t{l}\n"), {}),
    "txt": ("rows.txt", raw(lambda n, t, l: f"{t}\t{l}\n"), {}),
    "no ending": ("SMSSpamCollection", raw(lambda n, t, l: f"{l}\t{t}\n"), {}),
    "tsv, header": ("rows.tsv", raw(lambda n, t, l: f"{n}\t{t}\t{l}\n", "id\tdocument\tlabel\n"), {}),
    "tsv, unknown header said": ("rows.tsv", raw(lambda n, t, l: f"{t}\t{l}\n", "words\tkind\n"), {"header": True}),
    "tsv, numbered": ("rows.tsv", raw(lambda n, t, l: f"{n}\t{l}\t{t}\n"), {}),
    "tsv, all quoted": ("rows.tsv", raw(lambda n, t, l: f'"{t}"\t"{l}"\n'), {}),
    "txt, bars": ("rows.txt", raw(lambda n, t, l: f"{t}|{l}\n"), {}),
    "csv, another separator": ("rows.csv", raw(lambda n, t, l: f"{t}^{l}\n", "text^label\n"), {"separator": "^"}),
    "fastText": ("train.txt", raw(lambda n, t, l: f"__label__{l} {t}\n"), {}),
    "fastText, label behind": ("train.txt", raw(lambda n, t, l: f"__label__{l}\t{t}\n"), {}),
    "json lines": ("rows.jsonl", raw(lambda n, t, l: json.dumps({"text": t, "label": l}) + "\n"), {}),
    "json lines as json": ("train.json", raw(lambda n, t, l: json.dumps({"sentence": t, "label": l}) + "\n"), {}),
    "json lines in a txt": ("train.txt", raw(lambda n, t, l: json.dumps({"review": t, "stars": l}) + "\n"), {}),
    "json array": ("rows.json", lambda rows: json.dumps([{"text": t, "label": l} for t, l in rows]).encode(), {}),
    "json array, indented": ("rows.json", lambda rows: json.dumps([{"id": 1, "text": t, "label": l} for t, l in rows], indent=2).encode(), {}),
    "json, objects in a row": ("rows.json", lambda rows: "\n".join(json.dumps({"text": t, "label": l}, indent=1) for t, l in rows).encode(), {}),
    "json, nested": (
        "rows.json",
        lambda rows: json.dumps([{"data": {"body": t}, "gold": {"kind": l}} for t, l in rows]).encode(),
        {"text_column": "data.body", "label_column": "gold.kind"},
    ),
    "parquet": ("rows.parquet", parquet("content", "category"), {}),
    "parquet under another name": ("rows.data", parquet("text", "label"), {}),
    "excel": ("rows.xlsx", lambda rows: workbook([("id", "text", "label"), *((n, *pair) for n, pair in enumerate(rows))], []), {}),
    "excel under another name": ("rows.csv", lambda rows: workbook([("text", "label"), *rows]), {}),
    "gz": ("rows.csv.gz", packed(gzip.compress, HEADED), {}),
    "gz under another name": ("rows.csv", packed(gzip.compress, HEADED), {}),
    "bz2": ("rows.csv.bz2", packed(bz2.compress, HEADED), {}),
    "xz": ("rows.csv.xz", packed(lzma.compress, HEADED), {}),
    "zst": ("rows.csv.zst", packed(zstd, HEADED), {}),
    "zip": ("rows.zip", packed(zipped, HEADED), {}),
}  # fmt: skip


def read(tmp_path, name, content, **options):
    path = tmp_path / name
    path.write_bytes(content)
    return read_labelled(path, **options)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_each_form_is_read_right(tmp_path, form, language):
    rows = LANGUAGES[language]
    name, write, options = FORMS[form]
    data = read(tmp_path, name, write(rows), **options)
    texts = [text if form != "csv, quotes escaped" else f'she said "{text}"' for text, _ in rows]
    assert list(data.texts) == texts
    assert list(data.labels) == [label for _, label in rows]
    assert len(data.notes) == 2, "nothing is odd about a right file"
    assert data.notes[0].startswith("text from column ")
    assert "(2 classes), 60 rows; " in data.notes[0]
    assert data.notes[1] == f"first row as read: {texts[0]!r} is {rows[0][1]!r}"


def test_there_are_forty_forms():
    assert len(FORMS) >= 40


def table(first, row):
    return (first + "".join(row(n, *pair) for n, pair in enumerate(ENGLISH))).encode()


REFUSED = {
    "two labels": ("rows.tsv", table("", lambda n, t, l: f"{t}\t{l.upper()}\t{l}\n"),
        "FILE: 2 columns could be the label: '1' (2 values: 'POS', 'NEG'); '2' (2 values: 'pos', 'neg'); choose one: "
        "label_column=1 or label_column=2"),
    "five columns": ("rows.tsv", table("", lambda n, t, l: f"{n}\t{l}\t{t}\t{{}}\t{('train', 'dev')[n % 3 == 0]}\n"),
        "FILE: 2 columns could be the label: '1' (2 values: 'pos', 'neg'); '4' (2 values: 'dev', 'train'); choose one: "
        "label_column=1 or label_column=4"),
    "two texts": ("rows.csv", table("a,b,label\n", lambda n, t, l: f'"{t}","also {t}",{l}\n'),
        "FILE: 2 columns could be the text: 'a' (60 values: 'the room was great, ', 'the room was awful, ', "
        "'the food was great, '); 'b' (60 values: 'also the room was gr', 'also the room was aw', 'also the food was gr'); "
        "choose one: text_column='a' or text_column='b', or read both: text_column='a,b'"),
    "header or row": ("rows.tsv", table("words\tkind\n", lambda n, t, l: f"{t}\t{l}\n"),
        "FILE: the first line, 'words', 'kind', could name the columns or be a row; choose one: header=True or header=False"),
    "two separators": ("rows.csv", table("", lambda n, t, l: f"{l};text {n},{l}\n"),
        "FILE could be separated by comma or by semicolon: each gives all its first rows as many fields, for instance "
        "'pos;text 0,pos'; choose one: separator=',' or separator=';'"),
    "label or text first": ("rows.tsv", "".join(f"a{n % 8}\tb{n % 12}\n" for n in range(24)).encode(),
        "FILE could hold text and label or label and text: its first line is 'a0' and 'b0'; choose one: label_column=1 or "
        "label_column=0"),
    "lines or quotes": ("rows.tsv", b'"a\tpos\nb"\tneg\n"c\td\ne"\tneg\n',
        "FILE could be read by lines, or with quoted fields that span lines: a quote is opened in one line and closed in "
        "another; write each text on one line, or write the file as CSV, where quotes count"),
    "tabs in texts": ("rows.tsv", b"a\tb\tpos\n" * 8 + b"c\tneg\n" * 5,
        "FILE has 3 fields in most of its first lines, but not in all: these are columns, or there are tabs in the texts; if "
        "its first line names the columns pass header=True, else write a header above it; and quote texts with tabs"),
    "weights": ("rows.csv", b"\x40\0\0\0\0\0\0\0" + bytes(range(256)) * 4,
        "FILE is not text (it begins with b'@\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x02\\x03\\x04\\x05\\x06\\x07'), and nothing "
        "else that holds labelled text; name another file, or pass its encoding if it is text"),
    "docx": ("rows.docx", archive_of("[Content_Types].xml", "word/document.xml"),
        "FILE is a Word document, which is not read as labelled text; save its table as .xlsx or .csv"),
    "ods": ("rows.ods", archive_of("mimetype", "content.xml"),
        "FILE is an OpenDocument file (.ods, .odt), which is not read as labelled text; save it as .xlsx or .csv"),
    "two zipped": ("rows.zip", archive_of("a.csv", "b.csv"), "FILE must hold one file, got 2: 'a.csv', 'b.csv'; unpack it and name the one to read"),
    "packed twice": ("rows.csv.gz", gzip.compress(bz2.compress(b"text,label\na,b\n")),
        "FILE is packed twice, inside by bz2; unpack it once"),
    "PDF": ("rows.csv", b"%PDF-1.7\n%", "FILE is a PDF file (it begins with b'%PDF-1.7\\n%'), which holds no labelled text; convert it first"),
    "no tab at all": ("rows.txt", b"DESC:manner How did it go ?\nLOC:city Where is it ?\n",
        "FILE: none of its first lines has a tab between text and label, such as 'DESC:manner How did it go ?'; say what stands "
        "between them with separator=, or write a tab there"),
    "SQL": ("rows.sql", b"-- a dump\n\nINSERT INTO `reviews` VALUES ('fine','good'),\n('bad','poor');\n",
        "FILE is a dump of a database in SQL (it begins with b'-- a dump\\n\\nINSER'), which holds no labelled text; load it there, and "
        "export the table as CSV"),
    "LFS": ("rows.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "FILE is a Git LFS pointer, not the file itself (it begins with b'version https://'), which holds no labelled text; fetch "
        "it with: git lfs pull"),
    "JSON cut off": ("rows.json", b'[{"text": "a", "label": 1},\n {"text": "b"', "FILE line 2: it is not JSON (Expecting ',' delimiter "
        "at column 14); correct it"),
    "JSON array not closed": ("rows.json", b'[{"text": "a", "label": 1}\n', "FILE line 2: the array is not closed; the file may be cut "
        "off; correct it"),
    "JSON object of rows": ("rows.json", b'{"version": 1,\n"data": [{"text": "a"}, {"text": "b"}]}',
        "FILE holds one object with rows under 'data', got no array of rows at its top; write that array, or one object per "
        "line, into a file of its own"),
    "JSON of columns": ("rows.json", b'{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}',
        "FILE holds one object with a column under each of 'text', 'label', got no rows; write an object for each row, as "
        "to_json(orient='records') of pandas does"),
    "JSON of lists": ("rows.json", b'{"text": ["a", "b"],\n"label": [1, 0]}',
        "FILE holds one object with a column under each of 'text', 'label', got no rows; write an object for each row, as "
        "to_json(orient='records') of pandas does"),
    "JSON of rows by number": ("rows.json", json.dumps({str(n): {"text": "a", "label": 1} for n in range(900)}).encode(),
        "FILE holds one object with rows under '0', '1', '2', '3', '4' and 895 more, got no array of rows at its top; write that "
        "array, or one object per line, into a file of its own"),
    "not JSON": ("rows.json", b"text,label\na,b\n",
        "FILE is not JSON: it begins with 'text,label\\na,b\\n'; rename it to what it is, such as .csv or .tsv"),
    "no label of fastText": ("rows.txt", b"__label__a text\n" * 5 + b"text\n",
        "FILE line 6: expected one __label__ in a line, got 0; correct the line or pass on_bad_row='skip'"),
    "another encoding than its mark": ("rows.csv", b"\xef\xbb\xbftext,label\na,b\n",
        "FILE begins with the byte order mark of UTF-8, got encoding='gb18030'; leave encoding out"),
    "Big5": ("rows.csv", "評論,標籤\n服務太差,負面\n".encode("big5"),
        "FILE line 1: byte 1 is not UTF-8 (0xb5), but the line reads '評論,標籤' with encoding='big5'; correct the line or pass "
        "on_bad_row='skip'"),
    "Shift-JIS": ("rows.csv", "text,label\nとても良い,正\n".encode("cp932"),
        "FILE line 2: byte 1 is not UTF-8 (0x82), but the line reads 'とても良い,正' with encoding='shift_jis'; correct the line or "
        "pass on_bad_row='skip'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_read_in_two_ways_or_not_at_all_is_refused(tmp_path, case):
    name, content, sentence = REFUSED[case]
    options = {"encoding": "gb18030"} if case.startswith("another encoding") else {}
    with pytest.raises(ValueError) as caught:
        read(tmp_path, name, content, **options)
    assert str(caught.value).replace(str(tmp_path / name), "FILE") == sentence


def test_a_workbook_of_two_sheets_names_both_and_one_without_the_package_names_it(tmp_path, monkeypatch):
    content = workbook([("text", "label"), ("a", "b")], [("text", "label"), ("c", "d")])
    with pytest.raises(ValueError) as caught:
        read(tmp_path, "rows.xlsx", content)
    assert str(caught.value) == (
        f"{tmp_path / 'rows.xlsx'} must have one sheet with rows, got 2: 's1', 's2'; save the one to read as a file of its own"
    )
    monkeypatch.setitem(__import__("sys").modules, "fastexcel", None)
    with pytest.raises(ModuleNotFoundError) as missing:
        read(tmp_path, "rows.xlsx", content)
    assert str(missing.value) == (
        "an Excel workbook needs the package fastexcel, which is not installed; run: pip install 'linkboy[files]'"
    )


ARGUMENTS = {
    "unknown separator": ({"separator": "tabs"}, ValueError,
        "separator must be one character, or one of ('comma', 'tab', '\\\\t', 'semicolon', 'pipe', 'space'), got 'tabs'; put "
        "one character in its place in the file, such as a tab"),
    "negative": ({"text_column": -1}, ValueError, "text_column must be the name of a column or its number from 0, got -1"),
    "no such number": ({"label_column": 5}, ValueError, "FILE has no column 5; it has 2 columns, counted from 0"),
    "the same twice": ({"text_column": "text", "label_column": "text"}, ValueError,
        "FILE: text_column, label_column and weight_column must be different columns, got 'text' twice"),
    "no column": ({"text_column": []}, ValueError, "text_column must name at least one column, got none"),
    "a float": ({"label_column": 1.0}, TypeError, "label_column must be the name of a column or its number from 0, got 1.0"),
    "header": ({"header": "no"}, TypeError, "header must be True or False, got 'no'"),
    "map": ({"label_map": "a=b"}, TypeError, "label_map must be a mapping of labels to names, got str"),
    "empty name": ({"label_map": {"pos": " "}}, ValueError, "label_map must give names that are not empty, got ' '"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments_are_one_sentence(tmp_path, case):
    options, kind, sentence = ARGUMENTS[case]
    with pytest.raises(kind) as caught:
        read(tmp_path, "rows.csv", HEADED(ENGLISH), **options)
    assert str(caught.value).replace(str(tmp_path / "rows.csv"), "FILE") == sentence


@pytest.mark.parametrize("first", ["text,label", "review,stars"])
def test_a_header_in_the_middle_is_left_out_and_said(tmp_path, first):
    once = delimited(lambda n, t, l: (t, l), first=first)(ENGLISH)
    data = read(tmp_path, "rows.csv", once * 3)
    assert len(data) == 3 * len(ENGLISH)
    size = len(ENGLISH) + 1
    assert (
        f"2 rows repeat the header, as where files were put together, and are left out (lines {size + 1}, {2 * size + 1})"
        in data.notes
    )
    assert not any("header" in note for note in read(tmp_path, "one.csv", once).notes[2:])
    bare = read(tmp_path, "bare.csv", once, header=False, text_column=0, label_column=1)
    assert len(bare) == size  # where it was said that there is no header, the first row is a row


def test_texts_and_labels_have_no_header_to_leave_out():
    data = read_labelled((["text", "good", "bad"], ["label", "p", "q"]))
    assert list(data.texts) == ["text", "good", "bad"]
    assert not any("header" in note for note in data.notes)


def test_a_text_that_is_the_name_of_its_column_stays(tmp_path):
    rows = delimited(lambda n, t, l: ("text", l) if n == 3 else (t, l), first="text,label")(ENGLISH)
    assert len(read(tmp_path, "rows.csv", rows)) == len(ENGLISH)


def test_a_second_label_column_is_said(tmp_path):
    rows = delimited(lambda n, t, l: (t, l, ("high", "low")[n % 2], n), first="review,sentiment,rating,score")(ENGLISH)
    data = read(tmp_path, "rows.csv", rows)
    assert "label from column 'sentiment'" in data.notes[0]
    assert data.notes[-1] == (
        "could be the label as well: 'rating' (2 values: 'high', 'low'); to learn that one pass label_column='rating'"
    )
    asked = read(tmp_path, "rows.csv", rows, label_column="rating")
    assert not any(
        "as well" in note for note in (*asked.notes, *read(tmp_path, "rows.csv", rows, label_column="sentiment").notes)
    )


def test_options_of_text_are_refused_for_other_forms(tmp_path):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, "rows.jsonl", b'{"text": "a", "label": 1}\n', separator=",")
    assert str(caught.value).endswith("is JSON, for which separator has no meaning; leave separator out")
    with pytest.raises(ValueError) as caught:
        read(tmp_path, "rows.parquet", parquet("text", "label")(ENGLISH), encoding="gb18030")
    assert str(caught.value).endswith("is a Parquet file, for which encoding has no meaning; leave encoding out")


# --- several columns, labels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head", ["Title,Review Text,Rating", "标题,正文,类别", "Title,Body,label", "headline,comment_text,class"]
)
def test_a_title_does_not_go_before_the_text_it_stands_beside(tmp_path, head):
    content = delimited(lambda n, t, l: (t[:9], t, l), first=head)(ENGLISH)
    data = read(tmp_path, "rows.csv", content)
    assert (data.text_columns, data.label_columns) == ((head.split(",")[1],), (head.split(",")[2],))


WRITTEN = ["Mon Apr 0{} 22:19:45 PDT 2009", "June {}, 2016", "{} Jan 2019 12:30", "Dec {}, 2020, 10:03 PM"]


@pytest.mark.parametrize("day", WRITTEN)
def test_dates_in_words_are_no_text(tmp_path, day):
    rows = [(*pair, day.format(1 + n % 9)) for n, pair in enumerate(ENGLISH)]
    content = "".join(f'"{label}","{when}","{text}"\n' for text, label, when in rows).encode()
    data = read(tmp_path, "rows.csv", content)
    assert (data.texts, data.labels) == ([text for text, _ in ENGLISH], [label for _, label in ENGLISH])


@pytest.mark.parametrize("day", ["2026年{}月3日", "2026-{:02}-03T08:15Z", "2026/{}/3 9:05", "3.{}.2026", "{} Jan 2019"])
def test_days_that_rows_share_are_no_label(tmp_path, day):
    content = delimited(lambda n, t, l: (day.format(n % 6 + 1), t, l), first="opened,words,kind")(ENGLISH)
    assert read(tmp_path, "rows.csv", content).label_columns == ("kind",)


def test_several_columns_are_joined_and_told_apart(tmp_path):
    content = delimited(lambda n, t, l: (l, f"headline {n}", t), first="Class Index,Title,Description")(ENGLISH)
    alone = read(tmp_path, "rows.csv", content)
    assert alone.text_columns == ("Title",)
    assert alone.notes[-1] == "'Description' holds texts too; to read both pass text_column='Title,Description'"
    for asked in ("Title,Description", ["Title", "Description"], [1, 2]):
        data = read(tmp_path, "rows.csv", content, text_column=asked)
        assert data.text_columns == ("Title", "Description")
        assert data.texts[0] == "headline 0 \x01 the room was great, 0"
        assert (
            data.notes[-1]
            == "the columns of the text are joined, with ␁ between them; the n-grams of each are told apart"
        )


def test_the_same_word_in_another_column_is_another_ngram():
    from linkboy.classify.encoding._features import NgramEncoder

    texts = ["good food \x01 bad news", "good food \x01 bad news", "bad news \x01 good food", "bad news \x01 good food"]
    encoder = NgramEncoder.fit(texts)
    first, second = (set(encoder.encode([text]).ids.tolist()) for text in ("good food", "bad news"))
    both = set(encoder.encode(["good food \x01 bad news"]).ids.tolist())
    assert len(first & both) > 0.8 * len(first)
    assert len(second & both) <= 1 + sum(character in "good food" for character in set("bad news"))
    assert encoder.ngrams_of(texts[0])


def test_a_label_map_renames(tmp_path):
    data = read(tmp_path, "rows.csv", HEADED(ENGLISH), label_map={"pos": "good", "x": "y"})
    assert set(data.labels) == {"good", "neg"}
    assert data.notes[2:] == ("label_map renamed 'pos' -> 'good'", "label_map names 'x', which no row has as its label")


def test_one_and_one_point_zero_are_one_class_and_it_is_said(tmp_path):
    for name, content in {
        "rows.csv": "text,label\n" + "a text,1\nb text,1.0\nc text,0\nd text,0\n" * 5,
        "rows.jsonl": '{"text": "a", "label": 1}\n{"text": "b", "label": 1.0}\n{"text": "c", "label": 0}\n{"text": "c", "label": 0}\n'
        * 5,
    }.items():
        data = read(tmp_path, name, content.encode())
        assert list(data.labels[:4]) == ["1", "1", "0", "0"]
        assert "'1' and '1.0' are the same value and are one class, '1'" in data.notes
    assert value_key("-2.00") == "-2"
    assert value_key("01") == "01"


def test_truth_values_are_the_same_classes_whatever_wrote_them(tmp_path):
    """A spreadsheet writes TRUE, pandas True and JSON true: a classifier of one file can be evaluated on another."""
    rows = [(f"text {n}", n % 2 == 0) for n in range(20)]
    table = lambda spelled: "text,label\n" + "".join(f"{text},{spelled(label)}\n" for text, label in rows)  # noqa: E731
    files = {
        "json.jsonl": "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows),
        "pandas.csv": table(str),
        "sheet.csv": table(lambda label: str(label).upper()),
        "mixed.csv": table(lambda label: str(label).upper() if label else "false"),
    }
    read_ones = {name: read(tmp_path, name, content.encode()) for name, content in files.items()}
    assert {tuple(data.labels) for data in read_ones.values()} == {("true", "false") * 10}
    assert "the label 'True' is a truth value, and is read as 'true'" in read_ones["pandas.csv"].notes
    words = read(tmp_path, "words.csv", b"text,label\n" + b"a,True\nb,False\nc,unknown\n" * 5)
    assert set(words.labels) == {"True", "False", "unknown"}


FINDINGS = {
    "case": (lambda n, t, l: (t, (l, l.title(), l.upper())[n // 2 % 3]),
        "the labels 'POS', 'Pos', 'pos' differ only in case, spaces, width, quotes or signs that look alike, and are 3 classes; join them with label_map if that "
        "is not meant"),
    "width": (lambda n, t, l: (t, ("A", "Ａ")[n % 4 == 0] if l == "pos" else "B"),
        "the labels 'A', 'Ａ' differ only in case, spaces, width, quotes or signs that look alike, and are 2 classes; join them with label_map if that is not "
        "meant"),
    "space": (lambda n, t, l: (t, ("no go", "nogo")[n % 4 == 0] if l == "pos" else "go"),
        "the labels 'no go', 'nogo' differ only in case, spaces, width, quotes or signs that look alike, and are 2 classes; join them with label_map if that is "
        "not meant"),
    "unseen": (lambda n, t, l: (t, ("go", "go\u200b")[n % 4 == 0] if l == "pos" else "no"),
        "the labels 'go', 'go\\u200b' differ only in case, spaces, width, quotes or signs that look alike, and are 2 classes; join them with label_map if that "
        "is not meant"),
    "a sign that looks alike": (lambda n, t, l: (t, ("-1", "\u22121")[n % 4 == 0] if l == "pos" else "0"),
        "the labels '-1', '\u22121' differ only in case, spaces, width, quotes or signs that look alike, and are 2 classes; join them with "
        "label_map if that is not meant"),
    "a letter of another alphabet": (lambda n, t, l: (t, ("ocean", "\u043ecean")[n % 4 == 0] if l == "pos" else "land"),
        "the labels 'ocean', '\u043ecean' differ only in case, spaces, width, quotes or signs that look alike, and are 2 classes; join them "
        "with label_map if that is not meant"),
    "quotes around some": (lambda n, t, l: (t, ("sea", "'sea'")[n % 4 == 0] if l == "pos" else "land"),
        "the labels \"'sea'\", 'sea' differ only in case, spaces, width, quotes or signs that look alike, and are 2 classes; join them with "
        "label_map if that is not meant"),
    "text forced by Excel": (lambda n, t, l: (t, f'="{l}"'),
        "the labels, such as '=\"pos\"', are read with the quotes or brackets that stand around them in the file: check how it was "
        "written"),
    "quotes around all": (lambda n, t, l: (t, f"`{l}`"),
        "the labels, such as '`pos`', are read with the quotes or brackets that stand around them in the file: check how it was "
        "written"),
    "brackets around rows": (lambda n, t, l: (t, f"{l})"),
        "the labels, such as 'pos)', are read with the quotes or brackets that stand around them in the file: check how it was "
        "written"),
    "plus": (lambda n, t, l: (t, ("1", "+1")[n % 4 == 0] if l == "pos" else "-1"), "'+1' and '1' are the same value and are one class, '1'"),
    "exponent": (lambda n, t, l: (t, ("1", "1.000e+00")[n % 4 == 0] if l == "pos" else "0"),
        "'1' and '1.000e+00' are the same value and are one class, '1'"),
    "missing in R": (lambda n, t, l: (t, ("pos", "NA")[n % 4 == 0] if l == "pos" else "no"),
        "labels such as 'NA' may stand for a missing value, and count as a class; leave their rows out if so"),
    "missing in MySQL": (lambda n, t, l: (t, ("pos", r"\N")[n % 4 == 0] if l == "pos" else "no"),
        "labels such as '\\\\N' may stand for a missing value, and count as a class; leave their rows out if so"),
    "an error of Excel": (lambda n, t, l: (t, ("pos", "#REF!")[n % 4 == 0] if l == "pos" else "no"),
        "labels such as '#REF!' may stand for a missing value, and count as a class; leave their rows out if so"),
    "missing": (lambda n, t, l: (t, ("pos", "nan")[n % 4 == 0] if l == "pos" else "no"),
        "labels such as 'nan' may stand for a missing value, and count as a class; leave their rows out if so"),
    "fractions": (lambda n, t, l: (t, {"pos": "4.5", "neg": "1"}[l]),
        "labels are numbers with fractions, such as '4.5': each different number is a class of its own, and their order is not "
        "used"),
    "small": (lambda n, t, l: (t, "rare" if n < 3 else l), "1 class has fewer than 5 rows: 'rare'"),
    "own label": (lambda n, t, l: (f"{t} {l}", l), "100.00% of the texts contain their own label, far more than those of other "
        "classes: check that it is not copied into the text"),
    "placeholder": (lambda n, t, l: ("nan" if n == 7 else t, l), "1 text holds no words, only a placeholder such as 'nan'"),
    "lost": (lambda n, t, l: (f"{t} caf\ufffd" if n == 7 else t, l), "1 text holds U+FFFD, which stands for characters that an "
        "earlier conversion lost"),
    "mojibake": (lambda n, t, l: ("très bon".encode().decode("cp1252") if n in (7, 8) else t, l),
        "2 texts hold what looks like UTF-8 read as another encoding, such as 'trÃ¨s bon': a part of the file is UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("finding", FINDINGS)
def test_each_finding_is_printed(tmp_path, finding):
    row, sentence = FINDINGS[finding]
    data = read(tmp_path, "rows.csv", delimited(row, first="text,label")(ENGLISH))
    assert sentence in data.notes
    assert sentence in str(data)


def test_tags_of_words_are_printed(tmp_path):
    words = [("EU", "B-ORG"), ("rejects", "O"), ("German", "B-MISC"), ("call", "O"), ("York", "I-LOC")]
    tagged = "".join(f"{word}\t{tag}\n" for word, tag in words * 8).encode()
    sentence = (
        "the labels, such as 'B-ORG', are tags of the words of a sentence: each line is learned as a text of its own"
    )
    assert sentence in read(tmp_path, "words.tsv", tagged).notes
    plain = tagged.replace(b"\tO\n", b"\tother\n")
    assert not any("tags of the words" in note for note in read(tmp_path, "words.tsv", plain).notes)


def test_repeated_texts_are_printed(tmp_path):
    rows = [*ENGLISH, (ENGLISH[0][0], "neg"), ENGLISH[1]]
    told = str(read(tmp_path, "rows.csv", HEADED(rows)))
    assert "2 rows repeat the text of another row\n1 text occurs with more than one label" in told
    assert "another row" not in str(read(tmp_path, "rows.csv", HEADED(ENGLISH)))


def test_skipped_rows_of_another_encoding_are_printed(tmp_path):
    content = HEADED(ENGLISH) + "très bon,pos\nmauvais goût,neg\n".encode("cp1252")
    data = read(tmp_path, "rows.csv", content, on_bad_row="skip")
    assert len(data) == 60
    assert (
        data.notes[-1] == "2 skipped rows are not UTF-8 but probably cp1252: the file may have parts in two encodings"
    )


# --- any table -----------------------------------------------------------------------------------------------------------

CELLS = st.lists(
    st.sampled_from(["good", "bad news", "很好", "太差了", "a, b", "x; y", "say \"so\"", "it's", "a|b", "two\nlines", "#1", "é", "3.5", "N/A"]),
    min_size=1,
    max_size=4,
).map(" ".join)  # fmt: skip
LABELS = st.sampled_from([("pos", "neg"), ("0", "1"), ("好评", "差评"), ("a b", "c"), ("1", "2", "3"), ("x", "y", "z")])
HEADERS = st.sampled_from(
    [None, ("text", "label"), ("review", "stars"), ("评论", "标签"), ("words", "kind"), ("v2", "v1")]
)


@st.composite
def tables(draw):
    """Return rows, what to write them as, and the arguments of the csv module."""
    labels = draw(LABELS)
    texts = draw(st.lists(CELLS, min_size=1, max_size=30))
    rows = [(text, draw(st.sampled_from(labels))) for text in texts]
    dialect = {
        "delimiter": draw(st.sampled_from(",;\t|")),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n"])),
    }
    return rows, draw(HEADERS), draw(st.booleans()), draw(st.booleans()), dialect


def check_a_table(path, drawn, ending, encoding):
    rows, header, label_first, numbered, dialect = drawn
    if dialect["delimiter"] == "\t" and ending != ".csv":
        # Two columns without a header are text and label unless many rows show the contrary, so a few rows cannot.
        unusual = header in (("words", "kind"), ("v2", "v1"))
        if (unusual or (label_first and header is None)) and not numbered and len(rows) < 21:
            return False

    def ordered(number, text, label):
        cells = [label, text] if label_first else [text, label]
        return [number, *cells] if numbered else cells

    file = io.StringIO(newline="")
    writer = csv.writer(file, **dialect)
    if header:
        writer.writerow(ordered("id", *header))
    writer.writerows(ordered(number, *row) for number, row in enumerate(rows))
    path = path.with_suffix(ending)
    path.write_bytes(file.getvalue().encode(encoding))
    try:
        data = read_labelled(path)
    except ValueError:
        return False
    assert list(zip(data.texts, data.labels, strict=True)) == rows, (path.read_text(encoding), data.notes)
    return True


ENDINGS = st.sampled_from([".csv", ".tsv", ".txt", ""])
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])


@settings(max_examples=200, deadline=None)
@given(tables(), ENDINGS, ENCODINGS)
def test_a_table_in_any_dialect_is_read_right_or_refused(tmp_path_factory, drawn, ending, encoding):
    check_a_table(tmp_path_factory.getbasetemp() / "any", drawn, ending, encoding)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(tables(), ENDINGS, ENCODINGS)
def test_two_thousand_tables_are_read_right_or_refused(tmp_path_factory, drawn, ending, encoding):
    check_a_table(tmp_path_factory.getbasetemp() / "any", drawn, ending, encoding)


def test_a_pipe_is_read_like_a_file(tmp_path):
    import os
    import threading

    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(HEADED(ENGLISH)))
    writer.start()
    with opened(path) as content:
        assert content.head == HEADED(ENGLISH)
    writer.join()


@pytest.mark.parametrize("separator", [";", ",", "|", "\t"])
def test_the_line_that_tells_excel_the_separator_is_no_header(tmp_path, separator):
    """Read as the header, the column `sep=` was the text, and `label` a class."""
    rows = [("a good room, really", "pos"), ("a bad room, really", "neg")] * 5
    table = "".join(f'"{text}"{separator}{label}\n' for text, label in [("text", "label"), *rows])
    data = read(tmp_path, "rows.csv", f"sep={separator}\n{table}".encode())
    assert list(zip(data.texts, data.labels, strict=True)) == rows
    assert data.lines[0] == 3


@pytest.mark.parametrize("separator", ["^", "~", "\x01"])
def test_a_separator_that_is_not_usual_is_named(tmp_path, separator):
    """Hive writes \\x01; the message said that the column `text\\x01label` could be a row."""
    content = f"text{separator}label\n" + f"a good room{separator}pos\na bad room{separator}neg\n" * 10
    with pytest.raises(ValueError, match="seems to stand between columns") as caught:
        read(tmp_path, "rows.csv", content.encode())
    assert str(caught.value).endswith(f"pass separator={separator!r}")
    assert set(read(tmp_path, "rows.csv", content.encode(), separator=separator).labels) == {"pos", "neg"}


@pytest.mark.parametrize(
    "document",
    [
        {"version": "1", "data": [{"text": "good", "label": "p"}, {"text": "bad", "label": "q"}]},
        {"pos": ["good", "fine"], "neg": ["bad", "poor"]},
    ],
)
def test_rows_inside_one_object_on_one_line_are_said(tmp_path, document):
    """Each row was taken for a column of its own."""
    with pytest.raises(ValueError, match="holds one object with rows under"):
        read(tmp_path, "rows.json", json.dumps(document).encode())


def test_columns_of_json_are_not_told_of_a_header(tmp_path):
    rows = "".join(json.dumps({"a": n, "b": n % 2}) + "\n" for n in range(20))
    with pytest.raises(ValueError, match="cannot tell which column is the text") as caught:
        read(tmp_path, "rows.jsonl", rows.encode())
    assert "header" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.json"])
def test_a_byte_order_mark_inside_is_that_of_a_file_put_behind_another(tmp_path, name, encoding):
    """`cat a.csv b.csv` of files that a spreadsheet wrote: the second header was a row of a class of its own."""
    if name == "rows.csv":
        parts = [
            "文本,标签\n" + "".join(f"{text},{label}\n" for text, label in half)
            for half in (CHINESE[:30], CHINESE[30:])
        ]
    elif name == "rows.tsv":
        parts = ["".join(f"{text}\t{label}\n" for text, label in half) for half in (CHINESE[:30], CHINESE[30:])]
    else:
        indent = 1 if name == "rows.json" else None
        parts = [
            "".join(json.dumps({"text": text, "label": label}, indent=indent) + "\n" for text, label in half)
            for half in (CHINESE[:30], CHINESE[30:])
        ]
    data = read(tmp_path, name, "".join("\ufeff" + part for part in parts).encode(encoding))
    assert list(zip(data.texts, data.labels, strict=True)) == CHINESE


QUOTED = {
    "a space before the quotes": (("text, label\n", '"{}", "{}"\n'), "comma, with header, spaces before quotes"),
    "a space, no header": (("", '"{}", "{}"\n'), "comma, no header (columns count from 0), spaces before quotes"),
    "a space and semicolons": (("text; label\n", '"{}"; "{}"\n'), "semicolon, with header, spaces before quotes"),
    "single quotes": (("text,label\n", "'{}','{}'\n"), "comma, with header, single quotes"),
    "single quotes and a space": (("'text', 'label'\n", "'{}', '{}'\n"), "comma, with header, single quotes"),
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", QUOTED)
def test_quotes_behind_a_space_and_single_ones_are_no_part_of_a_field(tmp_path, case, language):
    rows = [(f"{text}, indeed", label) for text, label in LANGUAGES[language]]
    (first, line), shown = QUOTED[case]
    data = read(tmp_path, "rows.csv", (first + "".join(line.format(*row) for row in rows)).encode())
    assert list(zip(data.texts, data.labels, strict=True)) == rows
    assert data.notes[0].endswith(f"; {shown}, UTF-8")


@pytest.mark.parametrize("text", ["'tis {}", ' "well" said {}', "{} 'and so on'"])
def test_quotes_that_belong_to_a_text_stay_there(tmp_path, text):
    rows = [(text.format(one.replace(",", "")), label) for one, label in ENGLISH]
    data = read(tmp_path, "rows.csv", ("label,text\n" + "".join(f"{label},{one}\n" for one, label in rows)).encode())
    assert list(zip(data.texts, data.labels, strict=True)) == [(one.strip(), label) for one, label in rows]


@pytest.mark.parametrize(
    ("first", "line", "last"),
    [
        (
            "+----+------+-------+\n| id | text | label |\n+----+------+-------+\n",
            "| {} | {} | {} |\n",
            "+----+------+-------+\n",
        ),
        (" id | text | label \n----+------+-------\n", " {} | {} | {}\n", ""),
    ],
)
def test_lines_that_a_database_draws_between_rows_are_left_out(tmp_path, first, line, last):
    rows = "".join(line.format(n, *row) for n, row in enumerate(ENGLISH))
    data = read(tmp_path, "rows.txt", (first + rows + last).encode())
    assert list(zip(data.texts, data.labels, strict=True)) == ENGLISH
