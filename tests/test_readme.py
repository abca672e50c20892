"""Every fence of the READMEs and the documentation runs, and both languages show the same code."""

import ast
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from linkboy import cli

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENGLISH = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAIRS = [
    (page, ROOT / "README.zh-CN.md" if page.name == "README.md" else ROOT / "docs" / "zh" / page.name)
    for page in ENGLISH
]
IDS = [str(page.relative_to(ROOT)) for page in ENGLISH]


def fences(path: Path) -> list[tuple[str, str]]:
    return FENCE.findall(path.read_text("utf-8"))


def code_of(path: Path) -> list[tuple[str, str]]:
    """Fences that run, without their comments, which are in the language of the page."""
    return [(kind, re.sub(r"\s*#.*", "", body)) for kind, body in fences(path) if kind in ("python", "console")]


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=IDS)
def test_both_languages_show_the_same_code(english, chinese):
    assert chinese.exists(), f"{chinese} is missing"
    assert code_of(english) == code_of(chinese)


def reviews_csv() -> str:
    good, bad = ("干净 舒服 热情 方便 安静 clean quiet", "脏 吵 冷漠 破旧 太差 dirty noisy")
    rows = [f"{word} {other},{label}" for label, words in (("好评", good), ("差评", bad))
            for word in words.split() for other in words.split() if word != other]  # fmt: skip
    return "text,label\n" + "\n".join(rows) + "\n"


def claim(line: str) -> str:
    """What a line says that it prints: a comment that starts with a value, up to four spaces."""
    comment = line.partition("  # ")[2].partition("    ")[0]
    return comment if "print(" in line and re.match(r"True|False|tensor\(|torch\.|[-(\[]?\d", comment) else ""


# What a page shows of another library, from the version that does it.
WAITS_FOR = {"losses": ("monai", 1, 6), "surgery": ("transformers", 5, 0)}


def skip_if_too_old(page: Path) -> None:
    package, *needed = WAITS_FOR.get(page.stem, ("pytest", 0, 0))
    if [int(part) for part in version(package).split(".")[:2]] < needed:
        pytest.skip(f"waits for {package} {needed[0]}.{needed[1]}, of which the page shows what it does")


def run_code(page: Path, body: str, namespace: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    """Run the code of a fence statement by statement, and hold what each prints to the comment behind it."""
    page_text = page.read_text("utf-8")
    before = page_text[: page_text.index(f"```python\n{body}")].count("\n") + 1
    module = ast.parse("\n" * before + body, str(page))  # so that places in the code are lines of the page
    for statement in module.body:
        capsys.readouterr()
        exec(compile(ast.Module([statement], []), str(page), "exec"), namespace)
        claimed = claim(page_text.splitlines()[statement.end_lineno - 1])
        if claimed:
            printed = capsys.readouterr().out.splitlines()[-1]
            assert re.match(re.escape(printed) + r"(?![\w.])", claimed), (
                f"{claimed!r} is claimed, {printed!r} is printed"
            )


def test_a_claim_is_a_value_behind_a_print():
    assert claim("print(x)  # tensor(3.)    by C") == "tensor(3.)"
    assert claim("print(x)  # weights, buffers") == claim("x = 3  # 4") == ""


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=IDS)
def test_both_languages_claim_the_same_values(english, chinese):
    values = [
        [re.match(r"[^,;:，；：\s]*", claim(line))[0] for line in path.read_text("utf-8").splitlines() if claim(line)]
        for path in (english, chinese)
    ]
    assert values[0] == values[1]


@pytest.mark.filterwarnings("default")  # pages show what goes wrong elsewhere, warnings of others included
@pytest.mark.parametrize("page", ENGLISH, ids=IDS)  # the Chinese pages show the same code
def test_every_fence_runs(page, tmp_path, monkeypatch, capsys):
    skip_if_too_old(page)
    monkeypatch.chdir(tmp_path)
    for name in ("reviews.csv", "new_reviews.csv"):
        (tmp_path / name).write_text(reviews_csv(), "utf-8")
    namespace: dict[str, object] = {"__name__": "__page__"}
    trained = False
    for kind, body in fences(page):
        if kind == "python":
            run_code(page, body, namespace, capsys)
        elif kind == "console":
            for line in body.splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if line.startswith("$ linkboy ") and "torchrun" not in line:
                    if words[1] == "train":  # that it runs is the claim here, and three epochs are enough for it
                        words += ["--epochs", "3"] + (["--overwrite"] if trained else [])
                        trained = True
                    assert cli.run(words[1:]) == 0, capsys.readouterr().err


def test_code_comes_by_line_10_of_the_readme():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert next(number for number, line in enumerate(lines, 1) if line.startswith("```")) <= 10


@pytest.mark.slow  # trains on the whole demo
@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/index.md", "docs/zh/index.md"])
def test_what_the_first_pages_show_is_what_the_demo_prints(page, demo_lines):
    shown = [body.splitlines() for kind, body in fences(ROOT / page) if kind == "text"]
    assert shown
    assert [line for body in shown for line in body if line not in demo_lines] == []


@pytest.fixture(scope="module")
def demo_lines(tmp_path_factory) -> set[str]:
    directory = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "linkboy", "train", "--demo"]
    printed = subprocess.run(command, cwd=directory, capture_output=True, encoding="utf-8", check=True).stdout
    return {line.rstrip() for line in printed.splitlines()}


@pytest.mark.parametrize(("readme", "docs"), [("README.md", "docs"), ("README.zh-CN.md", "docs/zh")])
def test_the_start_page_has_the_table_of_the_readme(readme, docs):
    table = re.search(r"^\| \| .*?\n\n", (ROOT / readme).read_text("utf-8"), re.MULTILINE | re.DOTALL)[0]
    assert [int(number) for number in re.findall(r"^\| \[(\d+)\]", table, re.MULTILINE)] == list(range(1, 15))
    on_the_site = re.sub(r"\(examples/0?(\d+)_\w+\.py\)", r"(examples.md#tip-\1)", table).replace(f"]({docs}/", "](")
    assert on_the_site in (ROOT / docs / "index.md").read_text("utf-8")


@pytest.mark.parametrize("page", ["examples.md", "zh/examples.md"])
def test_the_page_of_examples_has_the_script_of_each_tip(page):
    text = (ROOT / "docs" / page).read_text("utf-8")
    sections = re.findall(r'^## (\d+)\. [^\n]* \{#tip-(\d+)\}$.*?^--8<-- "(.+?)"$', text, re.MULTILINE | re.DOTALL)
    scripts = sorted(path.name for path in (ROOT / "examples").glob("[0-9]*.py"))
    assert sections == [(str(n), str(n), f"examples/{name}") for n, name in enumerate(scripts, 1)]
