"""A title above the names of the columns is left out where it is plain, and a first row never is."""

import csv
import io
import sys

import pytest

from linkboy._language import translate_filled
from linkboy.classify._given import texts_of_file, texts_of_stream
from linkboy.classify.reading._columns import wanted_columns
from linkboy.classify.reading._tables import Reading
from linkboy.classify.reading.labelled import bad_row_of, labelled_of, read_labelled

TITLE = "2026年上半年客服工单汇总表"
USUAL, UNUSUAL = ("编号", "内容", "标签"), ("编号", "工单描述", "处理部门")
ROWS = [
    (str(10 * number + place), f"{thing}{word}，{number}", label)
    for number in range(6)
    for place, thing in enumerate(("房间", "饭菜"))
    for word, label in (("很好", "好评"), ("太差", "差评"))
]
TEXTS = [text for _, text, _ in ROWS]


def table(separator=",", names=USUAL, rows=ROWS):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, lineterminator="\n").writerows([names, *rows])
    return file.getvalue()


def written(tmp_path, name, content, encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def given(path, *, text_column=None, known=(), **options):
    """Return what `predict` says of a file, and the texts that it takes."""
    asked = Reading(wanted_columns(text_column, None, None, needs_label=False, known=known), **options)
    with texts_of_file(path, asked, bad_row_of(path, "raise", [])) as texts:
        return texts.note, list(texts.texts(keep=False))


# Above the table, as spreadsheets write it: each with the line of the names and what is said of the title.
ABOVE = {
    "empty cells behind": ("T,,\n", 2, "T"),
    "one cell": ("T\n", 2, "T"),
    "one cell and a blank line": ("T\n\n", 3, "T"),
    "one cell and a row without anything": ("T,,\n,,\n", 3, "T"),
    "in the middle": (",T,\n", 2, "T"),
    "in the last cell": (",,T\n", 2, "T"),
    "quoted": ('"T",,\n', 2, "T"),
    "below a blank line": ("\nT,,\n", 3, "T"),
    "two": ("T,,\n制表：客服部,,\n", 3, "T', '制表：客服部"),
    "three": ("T\n制表：客服部\n6月30日\n", 4, "T', '制表：客服部', '6月30日"),
}
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "|"}


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("above", ABOVE)
def test_a_title_is_left_out_and_said(tmp_path, above, separator):
    before, line, shown = ABOVE[above]
    content = before.replace("T", TITLE).replace(",", separator) + table(separator)
    form = f"{SEPARATORS[separator]}, with header in line {line} below '{shown.replace('T', TITLE)}', UTF-8"
    for name in ("rows.csv", "rows.tsv", "rows.txt"):
        path = written(tmp_path, name, content)
        data = read_labelled(path)
        assert data.notes[0] == f"text from column '内容', label from column '标签' (2 classes), 24 rows; {form}"
        assert list(zip(data.texts, data.labels, strict=True)) == [row[1:] for row in ROWS]
        assert list(data.lines) == list(range(line + 1, line + 25))
        assert given(path) == (f"text from column '内容'; {form}", TEXTS)


def test_a_title_may_span_lines_inside_its_quotes(tmp_path):
    data = read_labelled(written(tmp_path, "rows.csv", '"工单\n汇总",,\n' + table()))
    assert data.notes[0].endswith("comma, with header in line 3 below '工单\\n汇总', UTF-8")
    assert (data.texts, data.lines[0]) == (TEXTS, 4)


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("above", [f"{TITLE},,\r\n", f"{TITLE}\r\n\r\n"])
def test_a_title_in_another_encoding_and_with_crlf_is_left_out(tmp_path, above, encoding):
    path = written(tmp_path, "rows.csv", above + table().replace("\n", "\r\n"), encoding)
    asked = "gb18030" if encoding == "gb18030" else None
    assert read_labelled(path, encoding=asked).texts == TEXTS
    assert given(path, encoding=asked)[1] == TEXTS


def test_the_line_of_a_bad_row_is_that_of_the_file(tmp_path):
    path = written(tmp_path, "rows.csv", f"{TITLE},,\n\n{table()}25,没有标签\n")
    with pytest.raises(ValueError) as caught:
        read_labelled(path)
    assert str(caught.value) == (
        f"{path} line 28: 2 fields where the header has 3; correct the line or pass on_bad_row='skip'"
    )


@pytest.mark.parametrize("above", [f"{TITLE},,\n", f"{TITLE}\n"])
def test_columns_that_were_asked_for_or_that_a_classifier_knows_show_the_header(tmp_path, above):
    path = written(tmp_path, "rows.csv", above + table(names=UNUSUAL))
    form = f"comma, with header in line 2 below '{TITLE}', UTF-8"
    for data in (
        read_labelled(path, text_column="工单描述", label_column="处理部门"),
        read_labelled(path, text_column="编号,工单描述", label_column="处理部门"),
        read_labelled(path, label_column="处理部门", text_column=1),
        read_labelled(path, label_column="处理部门", text_column=1, header=True),
        labelled_of("data", path, known=("工单描述",), known_label=("处理部门",)),
    ):
        assert data.notes[0].endswith(f"label from column '处理部门' (2 classes), 24 rows; {form}")
        assert len(data) == 24
    assert given(path, text_column="工单描述") == (f"text from column '工单描述'; {form}", TEXTS)
    assert given(path, known=("工单描述",)) == (f"text from column '工单描述'; {form}", TEXTS)


def refusal(path, first, names, line=2):
    return (
        f"{path}: only one cell is filled above line {line}, {first!r}, and several in that line, "
        f"{', '.join(map(repr, names))}; if it is a title, delete the lines above the names of the columns, else pass "
        "header=True where it names a column, or header=False where it is a row"
    )


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("above", [f"{TITLE},,\n", f"{TITLE}\n", f"{TITLE}\n\n{TITLE}\n"])
def test_where_it_is_not_plain_it_is_refused_with_what_to_do(tmp_path, above, separator):
    path = written(tmp_path, "rows.csv", above.replace(",", separator) + table(separator, names=UNUSUAL))
    for read in (read_labelled, given, lambda path: read_labelled(path, text_column=1, label_column=2)):
        with pytest.raises(ValueError) as caught:
            read(path)
        assert str(caught.value) == refusal(path, TITLE, UNUSUAL, above.count("\n") + 1)


def test_a_usual_name_with_unnamed_columns_beside_it_is_no_plain_title(tmp_path):
    path = written(tmp_path, "rows.csv", "内容,,\n" + table())
    with pytest.raises(ValueError) as caught:
        read_labelled(path)
    assert str(caught.value) == refusal(path, "内容", USUAL)


def test_more_lines_than_a_title_has_are_refused(tmp_path):
    path = written(tmp_path, "rows.csv", "一,,\n二,,\n三,,\n四,,\n" + table(names=UNUSUAL))
    with pytest.raises(ValueError) as caught:
        read_labelled(path, text_column=1, label_column=2)
    assert str(caught.value) == (
        f"{path} has 2 columns without a name in its first row; write the names there, or if they are in a later line, delete "
        "the lines above it"
    )


# --- workbooks -----------------------------------------------------------------------------------------------------------


def workbook(tmp_path, rows):
    pytest.importorskip("fastexcel")
    from tests.classify.test_forms import workbook as written_workbook

    return written(tmp_path, "rows.xlsx", written_workbook(rows))


@pytest.mark.parametrize("above", [[(TITLE,)], [(TITLE, "", "")], [(TITLE, "", ""), ("", "", "")]])
def test_a_title_of_a_workbook_is_left_out_and_said(tmp_path, above):
    path = workbook(tmp_path, [*above, USUAL, *ROWS])
    form = f"Excel, with header in line {len(above) + 1} below '{TITLE}'"
    data = read_labelled(path)
    assert data.notes[0] == f"text from column '内容', label from column '标签' (2 classes), 24 rows; {form}"
    assert (data.texts, data.lines[0]) == (TEXTS, len(above) + 2)
    assert given(path) == (f"text from column '内容'; {form}", TEXTS)


def test_a_title_of_a_workbook_that_is_not_plain_is_refused(tmp_path):
    path = workbook(tmp_path, [(TITLE, "", ""), UNUSUAL, *ROWS])
    for read in (read_labelled, given):
        with pytest.raises(ValueError) as caught:
            read(path)
        assert str(caught.value) == refusal(path, TITLE, UNUSUAL)
    assert read_labelled(path, text_column="工单描述", label_column="处理部门").texts == TEXTS


def test_a_workbook_with_a_column_of_texts_alone_keeps_its_first_row(tmp_path):
    path = workbook(tmp_path, [("房间很好",), ("饭菜太差",), ("服务很好",)])
    assert given(path, header=False)[1] == ["房间很好", "饭菜太差", "服务很好"]


# --- what is no title ----------------------------------------------------------------------------------------------------

LISTS = {
    "one line": "房间很好\n",
    "no commas": "房间很好\n饭菜太差\n服务很好\n",
    "a comma in one": "你好\n我要退款, 谢谢\n好的\n",
    "a comma in all but the first": "hello\nwell, yes\nno, thanks\nplease, come\nno, thanks\n",
    "names of columns as a text": "hello\ntext,label\nfoo\nbar\n",
    "names of columns as the last text": "hello\ntext,label\n",
    "a blank line": f"{TITLE}\n\n房间很好\n饭菜太差\n",
    "two commas in two texts": "hello\na, b, c\nd, e, f\n",
    "semicolons": "a title\nyes; no\nno; yes\n",
}


@pytest.mark.parametrize("name", ["texts.txt", "texts.csv", "texts"])
@pytest.mark.parametrize("case", LISTS)
def test_a_list_of_texts_keeps_its_first_line(tmp_path, case, name):
    content = LISTS[case]
    assert given(written(tmp_path, name, content)) == ("", content[:-1].split("\n"))


def test_commas_in_all_texts_of_a_list_make_no_table_of_it(tmp_path):
    content = "hello\na, b, c\nc, d, e\ne, f, g\ng, h, i\n"
    assert given(written(tmp_path, "texts.txt", content)) == ("", content.splitlines())
    path = written(tmp_path, "texts.csv", content)
    with pytest.raises(ValueError) as caught:
        given(path)
    assert str(caught.value) == refusal(path, "hello", ("a", "b", "c"))


def test_a_column_of_texts_with_and_without_an_index_is_read_as_before(tmp_path):
    note = "text from column '{}'; comma, with header, UTF-8"
    for content, name in (
        ("text\n房间很好\n饭菜太差\n", "text"),
        (",heading\n0,房间很好\n1,饭菜太差\n", "heading"),  # as pandas writes an index
        ("text,\n房间很好,1\n饭菜太差,2\n", "text"),
    ):
        path = written(tmp_path, "texts.csv", content)
        assert given(path) == (note.format(name), ["房间很好", "饭菜太差"])


@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_a_first_row_with_an_empty_label_is_never_left_out(tmp_path, separator):
    rows = f"今天很好{separator}\n" + "".join(f"{text}{separator}{label}\n" for _, text, label in ROWS)
    path = written(tmp_path, "rows.csv", rows)
    with pytest.raises(ValueError) as caught:
        read_labelled(path)
    assert str(caught.value) == refusal(path, "今天很好", ROWS[0][1:])
    with pytest.raises(ValueError, match="line 1: the label is empty"):
        read_labelled(path, header=False)
    data = read_labelled(path, header=False, on_bad_row="skip")
    assert ([row.line for row in data.skipped], data.texts) == ([1], TEXTS)
    assert given(path, header=False)[1] == ["今天很好", *TEXTS]


@pytest.mark.parametrize("first", ["今天很好\t\n", "今天很好\n"])
def test_a_first_line_of_text_and_tab_without_a_label_is_reported(tmp_path, first):
    rows = first + "".join(f"{text}\t{label}\n" for _, text, label in ROWS[:8])
    data = read_labelled(written(tmp_path, "rows.tsv", rows), on_bad_row="skip")
    assert ([row.line for row in data.skipped], data.texts) == ([1], TEXTS[:8])


@pytest.mark.parametrize("mark", [",", ";", "|"])
def test_a_mark_in_all_texts_but_the_first_makes_no_title_of_it(tmp_path, mark):
    rows = "今天很好\t好评\n" + "".join(f"真的{mark}{text}\t{label}\n" for _, text, label in ROWS)
    data = read_labelled(written(tmp_path, "rows.tsv", rows))
    assert data.texts == ["今天很好", *(f"真的{mark}{text}" for text in TEXTS)]


def test_labels_of_fasttext_with_commas_in_all_but_the_first_text_are_read(tmp_path):
    data = read_labelled(written(tmp_path, "rows.txt", "__label__a foo\n" + "__label__b foo, bar\n" * 5))
    assert data.texts == ["foo", *["foo, bar"] * 5]


def test_with_header_false_every_row_is_a_row(tmp_path):
    path = written(tmp_path, "rows.csv", f"{TITLE},,\n{table()}")
    data = read_labelled(path, header=False, text_column=0, label_column=2, on_bad_row="skip")
    assert ([row.line for row in data.skipped], list(data.lines[:2])) == ([1], [2, 3])
    assert given(path, header=False, text_column=0)[1][:2] == [TITLE, "编号"]


def test_a_pipe_is_left_alone():
    stream = io.BytesIO(f"{TITLE}\n{table()}".encode())
    texts = texts_of_stream(stream, Reading(wanted_columns(None, None, None, needs_label=False)), print, name="-")
    assert list(texts.texts(keep=False)) == [TITLE, *table().splitlines()]


@pytest.mark.parametrize("content", [f"{TITLE},,\n{table()}", table()])
def test_the_search_for_a_title_leaves_the_limit_of_the_csv_module(tmp_path, content):
    before = csv.field_size_limit()
    read_labelled(written(tmp_path, "rows.csv", content))
    assert csv.field_size_limit() == before < sys.maxsize


@pytest.mark.parametrize("separator", SEPARATORS)
def test_what_was_taken_is_said_in_chinese(tmp_path, separator):
    data = read_labelled(written(tmp_path, "rows.csv", f"{TITLE}{separator * 2}\n{table(separator)}"))
    words = {",": "逗号", ";": "分号", "\t": "制表符", "|": "竖线"}
    assert translate_filled(f"rows.csv: {data.notes[0]}", "zh") == (
        "rows.csv：文本取自列 '内容'，标签取自列 '标签'（2 个类别），24 行；"
        f"{words[separator]}分隔，表头在第 2 行，上面是标题 '{TITLE}'，UTF-8"
    )


def test_what_was_taken_of_a_workbook_is_said_in_chinese(tmp_path):
    form = read_labelled(workbook(tmp_path, [(TITLE, "", ""), USUAL, *ROWS])).notes[0].partition("; ")[2]
    assert translate_filled(form, "zh") == f"Excel，表头在第 2 行，上面是标题 '{TITLE}'"
