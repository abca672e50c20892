"""Figures in the documentation are those of the last run of the benchmarks."""

import re
from pathlib import Path

import pytest
from benchmarks import results

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *results.pages()]
# A decimal number, or a whole one before a unit; not part of a version, a range of sizes, a name or a power of ten.
NUMBER = re.compile(r"(?<![\w.+-])(\d+\.\d+|\d+(?=(?:x| ?(?:%|ms|us|GB/s))(?!\w)))(?![\w.]*\.\d|e-?\d)")
# A version, or a list of them.
VERSION = re.compile(r"(?:[Pp]ython3?`?|torch)(?:[ ,、，（(]|version|up to|to|and|or|到|或|和|\d+\.[\d.]*\d)+")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# Pages that are not named as their benchmark is, or have several.
ROOMS_OF = {"autograd": ("check_op",), "classify": ("main_job", "classify"), "init": ("parameters",)}
MEASURED_PARTS = re.compile(r"^## (?:Limits|Figures|局限|实测数据)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def cited(path: Path, text: str) -> list[str]:
    """Numbers in the prose of a README, and in the limits and figures of a page outside the blocks that are written."""
    text = VERSION.sub("", FENCE.sub("", results.BLOCK.sub("", text)))
    parts = [text] if path.name.startswith("README") else MEASURED_PARTS.findall(text)
    return [number for part in parts for number in NUMBER.findall(part)]


def is_measured(number: str, measured: set[float]) -> bool:
    """Say whether a measured number rounds to the cited one."""
    digits = len(number.partition(".")[2])
    return any(abs(value - float(number)) <= 0.5000001 * 10**-digits for value in measured)


def measured_numbers(page: Path) -> set[float]:
    """Return the numbers of the page's room, or of the whole table for a README."""
    table = results.RESULTS.read_text("utf-8")
    rooms = tuple(f"| {room} " for room in ROOMS_OF.get(page.stem, (page.stem,)))
    lines = [line for line in table.splitlines() if page.name.startswith("README") or line.startswith(rooms)]
    return {float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?", "\n".join(lines))}


def test_the_table_is_that_of_the_last_results():
    assert results.RESULTS.read_text("utf-8") == results.whole_table(results.load())


@pytest.mark.parametrize("path", results.pages(), ids=lambda path: str(path.relative_to(results.DOCS)))
def test_the_blocks_of_a_page_are_those_of_the_last_results(path):
    text = path.read_text("utf-8")
    assert text == results.page_with_figures(path, text, results.load())


def test_a_cell_is_chinese_where_the_phrases_cover_it():
    assert (
        results.in_chinese("focal_loss 8x3, 2 threads, forward + backward") == "focal_loss 8x3，2 个线程，前向 + 反向"
    )
    assert results.in_chinese("20 words of 300 rows, 4 MB") == "从 300 行（4 MB）里取 20 个词"
    assert results.in_chinese("a measurement that is new") == "a measurement that is new"


def test_no_phrase_in_the_figures_of_a_chinese_page_is_english():
    phrase = re.compile(r"[a-z]+[ ,]+(?:a|and|by|for|in|is|of|on|the|to|with|without)\b")
    pages = [path.read_text("utf-8") for path in results.pages() if path.parent.name == "zh"]
    lines = [line for text in pages for block in results.BLOCK.finditer(text) for line in block[0].split("\n")[1:-1]]
    assert lines
    english = [line for line in lines if phrase.search(line)]
    assert not english, f"add these phrases to benchmarks/zh.json: {english}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_figure_that_is_cited_was_measured(path):
    measured = measured_numbers(path)
    missing = [number for number in cited(path, path.read_text("utf-8")) if not is_measured(number, measured)]
    assert not missing, f"{path.name} cites what benchmarks/RESULTS.md does not have: {missing}"


def test_a_figure_that_nobody_measured_is_seen():
    page = "# Page\n\n0.1x\n\n## Figures\n\nIt is 4.1x, 12 ms and 3.14 s; torch 2.6 to 2.15; 1e-6.\n\n## End\n\n0.2x\n"
    assert cited(Path("page.md"), page) == ["4.1", "12", "3.14"]
    assert [is_measured(number, {4.149, 12.6, 3.1449}) for number in ("4.1", "12", "3.14")] == [True, False, True]
