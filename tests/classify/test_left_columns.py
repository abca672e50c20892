"""A column that is left beside the text is the label only if it can be one; columns of 0 and 1 are named together."""

import pytest

from linkboy.classify.reading.labelled import read_labelled

TEXTS = [f"the {thing} was {word}, {n}" for n in range(10) for thing in ("room", "food") for word in ("great", "awful")]


def refusal(tmp_path, name, content, **options):
    path = tmp_path / name
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError) as caught:
        read_labelled(path, **options)
    return str(caught.value).replace(str(path), "FILE")


def with_cells(first, cell, separator="\t"):
    return first + "".join(f"{text}{separator}{cell(n)}\n" for n, text in enumerate(TEXTS))


@pytest.mark.parametrize(
    ("first", "cell", "said"),
    [
        ("id\n", str, "'id' has another value in each row"),
        ("key\n", "test_{}".format, "'key' has another value in each row"),
        ("url\n", "https://example.org/{}".format, "'url' has another value in each row"),
        ("title\n", "a headline of day {}".format, "'title' has another value in each row"),
        ("标题\n", "今天的新闻第{}条".format, "'标题' has another value in each row"),
        ("date\n", lambda n: f"2024-01-{n % 9 + 1:02d}", "'date' holds days"),
    ],
)
def test_what_names_rows_or_is_another_text_is_no_label(tmp_path, first, cell, said):
    named = first.strip()
    assert refusal(tmp_path, "rows.csv", with_cells(f"text\t{first}", cell)) == (
        f"FILE has no column that could be the label: {said}; name a file with labels, or if that is the label, pass "
        f"label_column={named!r}"
    )


@pytest.mark.parametrize("cell", ["row{}".format, "the answer to it is {}".format])
def test_nor_is_it_without_a_header(tmp_path, cell):
    assert refusal(tmp_path, "rows.tsv", with_cells("", cell)) == (
        "FILE has no column that could be the label: column 1 has another value in each row; name a file with labels, or if "
        "that is the label, pass label_column=1"
    )


def test_what_was_asked_for_is_read_and_names_of_many_classes_are_labels(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text(with_cells("text\tid\n", str), "utf-8")
    assert read_labelled(path, label_column="id").labels == [str(n) for n in range(len(TEXTS))]
    verbs, whom = ("book", "play", "ask", "call", "find", "buy", "set"), ("it", "her", "him", "us", "them", "you")
    words = [f"{verb}_{each}" for verb in verbs for each in whom]
    for first in ("text\tintent\n", ""):
        path.write_text(with_cells(first, words.__getitem__), "utf-8")
        assert read_labelled(path).labels == words[: len(TEXTS)]


def test_columns_of_zeros_and_ones_are_named_together(tmp_path):
    rows = "".join(f'"{text}",{n % 2},{n // 2 % 2},0\n' for n, text in enumerate(TEXTS))
    assert refusal(tmp_path, "rows.csv", "comment_text,toxic,insult,threat\n" + rows) == (
        "FILE: 2 columns could be the label: 'toxic' (2 values: '0', '1'); 'insult' (2 values: '0', '1'); choose one: "
        "label_column='toxic' or label_column='insult', or where a text may have any of these labels, all: "
        "label_column='toxic,insult,threat'"
    )
    assert read_labelled(tmp_path / "rows.csv", label_column="toxic,insult,threat").labels[3] == ("toxic", "insult")
