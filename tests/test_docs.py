"""The documentation names every public name, and every page can be reached."""

import ast
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import linkboy

DOCS = Path(__file__).resolve().parents[1] / "docs"
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
ROOMS = sorted(linkboy._NAMES)


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_of_a_room_has_each_of_its_public_names(room):
    lines = (DOCS / "api" / f"{room}.md").read_text("utf-8").splitlines()
    named = [line.removeprefix("::: linkboy.") for line in lines if line.startswith(":::")]
    assert {name for name in named if "." not in name} == set(linkboy._NAMES[room])
    assert all(name.startswith(f"{room}.") for name in named if "." in name)


def uses():
    """The lines of code on the page of all names."""
    return re.findall(r"^\| `(.+?)` \| .+ \|$", (DOCS / "api/names.md").read_text("utf-8"), re.MULTILINE)


def test_the_page_of_all_names_has_each_name_once():
    names = [re.match(r"lb\.(\w+)", use)[1] for use in uses()]
    assert sorted(names) == sorted(linkboy.__all__)
    assert len(names) <= 110


@pytest.mark.parametrize("use", uses())
def test_a_line_of_use_fits_the_signature(use):
    call = ast.parse(use, mode="eval").body
    if isinstance(call, ast.Attribute):
        return
    function = getattr(linkboy, call.func.attr)
    inspect.signature(function).bind(*call.args, **{word.arg: word.value for word in call.keywords})


def paths_of(nav):
    for entry in nav:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else paths_of(target)


def test_the_navigation_has_every_page_and_no_other():
    nav = tomllib.loads((DOCS.parent / "zensical.toml").read_text("utf-8"))["project"]["nav"]
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert sorted(paths_of(nav)) == sorted(pages)


# Pages of the tips: what people copy, what to call, why, where it ends, how well it does; in this order, with more between.
PARTS = {
    "docs": (".* and what is wrong with it", "The call.*", "How it works", "Limits", "Figures"),
    "zh": (".*错在哪里|.*它的问题", "怎么调用.*", "原理", "局限", "实测数据"),
}
TIPS = [
    "autograd",
    "capsules",
    "classify",
    "embeddings",
    "init",
    "losses",
    "memory",
    "parameters",
    "shapes",
    "surgery",
    "text",
    "training",
    "weighted-losses",
]


@pytest.mark.parametrize("folder", [DOCS, DOCS / "zh"], ids=["english", "chinese"])
@pytest.mark.parametrize("tip", TIPS)
def test_a_page_shows_the_snippet_the_call_how_it_works_limits_and_figures(folder, tip):
    text = FENCE.sub("", (folder / f"{tip}.md").read_text("utf-8"))
    headings = iter(re.findall(r"^## (.+)$", text, re.MULTILINE))
    for part in PARTS[folder.name]:
        assert any(re.fullmatch(part, heading) for heading in headings), part


@pytest.mark.parametrize("folder", [DOCS, DOCS / "zh"], ids=["english", "chinese"])
def test_the_page_of_three_calls_shows_them_each_in_the_same_parts(folder):
    whole = FENCE.sub("", (folder / "view-squeeze.md").read_text("utf-8"))
    for call in ("view", "unsqueeze", "squeeze"):
        text = re.search(rf"^## {call}\b.*?(?=^## )", whole, re.MULTILINE | re.DOTALL)[0]
        headings = re.findall(r"^### (.+)$", text, re.MULTILINE)
        for heading, part in zip(headings, PARTS[folder.name], strict=False):
            assert re.fullmatch(part, heading)
        assert len(headings) == 4
    assert re.search(rf"^## {PARTS[folder.name][-1]}$", whole, re.MULTILINE)


@pytest.mark.parametrize("page", ["reliability.md", "zh/reliability.md"])
def test_the_commands_of_the_page_on_reliability_name_tests_that_exist(page):
    commands = re.findall(r"`python -m pytest (\S+)(.*?)`", (DOCS / page).read_text("utf-8"))
    assert len(commands) == 11
    for path, options in commands:
        assert (DOCS.parent / path).exists(), path
        chosen = re.search(r"-k (\w+)", options)
        assert chosen is None or re.search(rf"def test_\w*{chosen[1]}", (DOCS.parent / path).read_text("utf-8")), (
            options
        )


ROOT = DOCS.parent
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(((?!https?:)[^)#\s]*)#([^)\s]+)\)")
HAN = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as the site and GitHub make them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE):
        named = re.search(r"\{#([\w-]+)\}$", heading)
        found.add(named[1] if named else re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_into_a_page_names_one_of_its_headings(page):
    links = LINK.findall(FENCE.sub("", page.read_text("utf-8")))
    assert [f"{file}#{at}" for file, at in links if at not in anchors(page.parent / file if file else page)] == []


def test_an_anchor_is_the_heading_in_small_letters_or_the_name_it_gives_itself():
    assert {"换成-hf-trainer-和-lightning"} <= anchors(DOCS / "zh/training.md")
    assert {"tip-1"} <= anchors(DOCS / "examples.md")


def broken_words(text: str) -> list[str]:
    """Return the ends of lines where a browser would show a space between two Chinese characters."""
    prose = re.sub(r"^(?:\||#|!\[).*$", "", FENCE.sub("", text), flags=re.MULTILINE)
    return re.findall(rf".{{0,9}}{HAN}\n *{HAN}", prose)


@pytest.mark.parametrize("page", [path for path in PAGES if "zh" in str(path.relative_to(ROOT))], ids=lambda p: p.name)
def test_no_line_of_a_chinese_page_ends_between_two_chinese_characters(page):
    assert broken_words(page.read_text("utf-8")) == []


def test_a_line_that_ends_within_a_word_is_seen():
    assert broken_words("把模型的\n大小打印出来，用\n`print` 即可。\n\n另一段。\n") == ["把模型的\n大"]
