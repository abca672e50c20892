"""Every fence of the READMEs and the documentation runs, and both languages show the same code."""

import re
import shlex
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


@pytest.mark.filterwarnings("default")  # pages show what goes wrong elsewhere, warnings of others included
@pytest.mark.parametrize("page", ENGLISH, ids=IDS)  # the Chinese pages show the same code
def test_every_fence_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("reviews.csv", "new_reviews.csv"):
        (tmp_path / name).write_text(reviews_csv(), "utf-8")
    namespace: dict[str, object] = {"__name__": "__page__"}
    trained = False
    for kind, body in fences(page):
        if kind == "python":
            exec(compile(body, str(page), "exec"), namespace)
        elif kind == "console":
            for line in body.splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if line.startswith("$ linkboy ") and "torchrun" not in line:
                    overwrite = ["--overwrite"] if words[1] == "train" and trained else []
                    trained = trained or words[1] == "train"
                    assert cli.run(words[1:] + overwrite) == 0, capsys.readouterr().err


def test_code_comes_by_line_10_of_the_readme():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert next(number for number, line in enumerate(lines, 1) if line.startswith("```")) <= 10
