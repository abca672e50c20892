"""Encodings that were asked for and are nearly right, and what programs write behind the last line."""

import pytest

from linkboy.classify.reading.labelled import read_labelled

ROWS = [(f"the room was {word} {n}", label) for n in range(8) for word, label in (("fine", "pos"), ("poor", "neg"))]
TABLE = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "rows.csv"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "written", "asked", "advised"),
    [
        ("很好喆囍镕", "gbk", "gb2312", "gb18030"),
        ("とても①㈱良い", "cp932", "shift_jis", "cp932"),
        ("服務好嘅啲", "big5hkscs", "big5", "big5hkscs"),
        ("뷁 똠방 좋아요", "cp949", "euc_kr", "cp949"),
        ("café", "utf-8", "ascii", "utf-8"),
        ("标签很好啊", "utf-8", "gbk", "utf-8"),
    ],
)
def test_what_contains_the_encoding_that_was_asked_for_is_advised(file, text, written, asked, advised):
    """The advice for Shift-JIS was Shift-JIS, since what Windows writes under that name was tried."""
    with pytest.raises(ValueError, match="is not") as caught:
        read_labelled(file(f"text,label\n{text},a\n".encode(written)), encoding=asked)
    assert f", but the line reads '{text},a' with encoding={advised!r}; correct the line or" in str(caught.value)


def test_a_character_cut_off_at_the_end_is_said_to_be(file):
    content = "text,label\n" + "".join(f"很好{n},正\n" for n in range(8))
    path = file(content.encode() + "好".encode()[:2])
    with pytest.raises(ValueError, match="cut off") as caught:
        read_labelled(path)
    assert str(caught.value) == (
        f"{path} line 10: byte 1 is not UTF-8 (0xe5), as where a file was cut off inside a character; correct the line or pass "
        "on_bad_row='skip'"
    )


def test_quotes_of_windows_that_are_read_as_latin_1_are_pointed_at(file):
    rows = "".join(f"“fine” – €5 {n},{n % 2}\n" for n in range(20))
    path = file(("text,label\n" + rows).encode("cp1252"))
    note = read_labelled(path, encoding="latin-1").notes[-1]
    assert note == (
        "20 texts hold control characters, such as '\\x93fine\\x94 \\x96 \\x805 0', as where quotes and dashes of Windows are "
        "read as Latin-1: read the file with encoding='cp1252' if so"
    )
    assert read_labelled(path, encoding="cp1252").texts[0] == "“fine” – €5 0"


def test_an_encoding_with_another_line_feed_is_read(file):
    """EBCDIC; its line feed is no byte of ASCII, so that the file was one line."""
    data = read_labelled(file(TABLE.encode("cp037")), encoding="cp037")
    assert list(zip(data.texts, data.labels, strict=True)) == ROWS


def test_an_encoding_must_be_a_name(file):
    with pytest.raises(TypeError) as caught:
        read_labelled(file(TABLE.encode()), encoding=936)  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == "encoding must be the name of one, such as 'utf-8' or 'gb18030', got 936"


@pytest.mark.parametrize("end", [b"\x1a", b"\x00" * 500, b"\x1a\x00\x00", b"   \n", b"\x0c\n", b"\xe3\x80\x80\n"])
@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_what_fills_the_end_of_a_file_is_no_row(file, end, separator):
    data = read_labelled(file(TABLE.replace(",", separator).encode() + end))
    assert list(zip(data.texts, data.labels, strict=True)) == ROWS


def test_a_lone_carriage_return_in_the_header_is_a_space(file):
    data = read_labelled(file(TABLE.replace("text,", "review\rtext,").encode()))
    assert (data.text_columns, len(data)) == (("review text",), len(ROWS))


def test_a_letter_of_another_encoding_at_the_end_of_a_line_is_no_cut(tmp_path):
    path = tmp_path / "rows.csv"
    rows = "".join(f"评论 {n},正\n" for n in range(30)).encode()
    path.write_bytes(b"text,label\n" + rows + b"bon,caf\xe9\n" + rows)
    with pytest.raises(ValueError, match="the line, unlike most others, reads 'bon,café' with encoding='cp1252'"):
        read_labelled(path)


def test_where_most_lines_are_in_another_encoding_that_is_said_before_the_columns_are_asked_for(file):
    # Only the names of the columns can be read, and such names do not say which column is what.
    path = file(b"Bewertung;Sterne\r\n" + "".join(f"schön {n};{n % 3}\r\n" for n in range(9)).encode("cp1252"))
    with pytest.raises(ValueError) as caught:
        read_labelled(path)
    assert str(caught.value) == (
        f"{path} line 2: byte 4 is not UTF-8 (0xf6), but the line reads 'schön 0;0' with encoding='cp1252'; correct the line or "
        "pass on_bad_row='skip'"
    )
    data = read_labelled(path, encoding="cp1252", text_column="Bewertung", label_column="Sterne")
    assert (data.texts[0], data.labels[0], len(data)) == ("schön 0", "0", 9)
