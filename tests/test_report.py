"""Every result has one look: text, terminal, notebook, dict, JSON."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from linkboy._report import (
    Report,
    Table,
    display_width,
    format_bytes,
    format_percent,
    format_seconds,
    json_text,
    listed,
    plural,
    shorten,
)


@dataclasses.dataclass(frozen=True)
class Nested(Report):
    share: float


@dataclasses.dataclass(frozen=True)
class Example(Report):
    name: str
    nested: Nested
    where: Path
    tensor: torch.Tensor
    array: np.ndarray
    dtype: torch.dtype
    missing: None = None

    def _blocks(self):
        yield "a <b>paragraph</b> with [brackets]"
        yield ""
        yield Table(("class", "rows"), [("体育", 1200), ("a [b]", 7)], "Classes")


EXAMPLE = Example("x", Nested(float("nan")), Path("a/b"), torch.tensor([1, 2]), np.array([[0.5]]), torch.float16)


def test_text_lines_up_wide_characters_and_numbers():
    assert str(EXAMPLE) == "a <b>paragraph</b> with [brackets]\n\nClasses\nclass  rows\n体育   1200\na [b]     7"


def test_the_terminal_shows_the_same_cells_and_reads_no_markup():
    console = Console(width=60, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(EXAMPLE)
    console.file.close()
    shown = console.export_text()
    for piece in ("a <b>paragraph</b> with [brackets]", "Classes", "体育", "1200", "a [b]"):
        assert piece in shown


def test_notebook_html_is_escaped():
    html = EXAMPLE._repr_html_()
    assert "&lt;b&gt;paragraph" in html
    assert '<td style="text-align:right">1200</td>' in html
    assert "<b>" not in html


def test_the_dict_holds_plain_values_and_json_is_strict():
    plain = EXAMPLE.to_dict()
    assert plain["tensor"] == [1, 2]
    assert plain["array"] == [[0.5]]
    assert (plain["where"], plain["dtype"], plain["missing"]) == ("a/b", "torch.float16", None)
    assert json.loads(EXAMPLE.to_json())["nested"] == {"share": None}
    assert json.loads(json_text({"reports": [Nested(0.5)]})) == {"reports": [{"share": 0.5}]}


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (-(2**20), "-1.0 MiB"), (5 * 2**40, "5.0 TiB")],
)
def test_bytes_in_the_unit_that_keeps_them_short(nbytes, text):
    assert format_bytes(nbytes) == text


def test_durations_and_shares():
    assert [format_seconds(s) for s in (0.9999, 59.97, 3599.6)] == ["1.0 s", "1 min 0 s", "1 h 0 min"]
    assert [format_percent(p) for p in (1.0, 0.12345, float("nan"))] == ["100.00%", "12.35%", "-"]


def test_width_counts_wide_as_two_and_marks_as_none():
    assert [display_width(text) for text in ("abc", "中文", "e\u0301", "ｱ")] == [3, 4, 1, 1]


def test_names_are_joined_and_the_rest_is_counted():
    assert listed(f"layer.{i}" for i in range(1005)) == "layer.0, layer.1, layer.2, layer.3, layer.4 and 1,000 more"
    assert (listed([]), listed(["a"], 1), listed([1, 2], 1)) == ("", "a", "1 and 1 more")
    assert [plural(count, "entry", "entries") for count in (0, 1, 2000)] == ["0 entries", "1 entry", "2,000 entries"]


def test_a_long_table_ends_with_the_number_of_rows_left_out():
    table = Table(("name", "count"), [("a", 1), ("b", 2), ("c", 3)], "things")
    assert table.first(3) is table
    assert table.first(1) == Table(("name", "count"), [("a", 1), ("and 2 more", "")], "things")


def test_a_shortened_text_takes_no_more_columns_than_it_may():
    for text in ("abcdefgh", "今天天气很好", "ab今天天气", "e\u0301" * 9):
        for width in range(1, 20):
            short = shorten(text, width)
            assert display_width(short) <= width
            assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_the_summary_is_the_first_line():
    assert EXAMPLE.summary == str(EXAMPLE).splitlines()[0]


# --- a count and its noun ---

SOURCES = Path(__file__).parents[1] / "src/linkboy"
NOUN = re.compile(
    r" ([a-z-]+ )?(rows|texts|labels|classes|columns|words|tokens|numbers|values|elements|entries|fields|steps|epochs|batches"
    r"|samples|layers|modules|tensors|parameters|units|weights|files|shards|objects|calls|processes|questions|losses|others)\b"
)
# Counts that are two at least where the sentence is said, and the size of a whole of which more than one thing is told.
TWO_AT_LEAST = {
    "classify/judging/decisions.py": ["format_count(self.row_count)"],
    "classify/judging/metrics.py": ["format_count(len(per_class))"],
    "classify/learning/_finetune.py": ["format_count(sum((size for _, size in frozen)))"],
    "classify/learning/folds.py": ["format_count(self.metrics.row_count)"],
    "classify/linear/_linear.py": [f"format_count(self.{name}_count)" for name in ("row", "class", "judged")],
    "classify/reading/_columns.py": ["len(found)"],
    "classify/reading/_parts.py": ["len(counts)", "len(classes)", "len(train)", "len(class_names)"],
    "classify/saved/_thresholds.py": ["len(names)"],
    "classify/saved/classifier.py": ["len(self.class_names)"],
    "doctor/_check_data.py": ["len(facts.padding)", "len(facts.batch_hashes)", "len(looked)"],
    "doctor/_check_rates.py": ["format_count(round(0.01 / max(median(steps), 1e-12)))", "len(optimizer.lrs)"],
    "doctor/_check_steps.py": ["len(changed)"],
    "embeddings/_members.py": ["len(names)"],
    "losses/imbalance.py": ["len(amount)"],
    "training/_findings.py": ["format_count(ignored.numel())"],
    "_watch/_checks.py": ["len(root.training)"],
}


def counts_before_plurals(source):
    """The expressions of counts that an f-string writes before a noun that is always plural."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            for value, after in zip(node.values, node.values[1:], strict=False):
                if (
                    isinstance(value, ast.FormattedValue)
                    and isinstance(after, ast.Constant)
                    and NOUN.match(after.value)
                ):
                    said = ast.unparse(value.value)
                    if re.match(r"format_count\(|len\([^()]*\)$|self\.(epochs|steps)$", said):
                        yield said


def test_a_count_before_a_plural_is_seen():
    assert list(counts_before_plurals("f'{len(x)} rows', f'{plural(n, \"row\")} {n} rows', f'{self.epochs} whole epochs'")) == [
        "len(x)", "self.epochs"
    ]  # fmt: skip


def test_no_sentence_speaks_of_1_rows():
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        name = path.relative_to(SOURCES).as_posix()
        said = [
            each for each in counts_before_plurals(path.read_text("utf-8")) if each not in TWO_AT_LEAST.get(name, ())
        ]
        if said:
            found[name] = said
    assert found == {}
