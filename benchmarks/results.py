"""What was measured last, kept as JSON by room; the one table of it; and the part of it that the documentation shows."""

import dataclasses
import json
import os
import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness import Row

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
DOCS = HERE.parent / "docs"
# A page names a room, and the words that its rows contain; without words it shows the rows for which something was wanted.
BLOCK = re.compile(
    r"(<!-- figures of (\w+)(?: with (.+?))?, written by `make bench` -->\n).*?(<!-- end of figures -->)", re.DOTALL
)
COLUMNS = {
    "docs": ("what", "linkboy", "beside it", "ratio", "wanted", "same answer"),
    "zh": ("测什么", "linkboy", "对照", "比值", "要求", "结果一致"),
}
# Peers that are not named as their distribution is.
DISTRIBUTIONS = {"F.": "torch", "torch.": "torch", "DebugMode": "torch", "flash_tokenizer": "flash-tokenizer",
                 "HF Trainer": "transformers", "TF-IDF": "scikit-learn", "fastText": "fasttext-numpy2",
                 "MONAI": "monai", "nn.": "torch"}  # fmt: skip


def peer_version(peer: str) -> str:
    """Return the version of the package a peer's name begins with, or an empty string where it is no package."""
    words = re.split(r"[ ,(]", peer.strip())
    name = next((owner for start, owner in DISTRIBUTIONS.items() if peer.startswith(start)), words[0])
    try:
        return version(name).partition("+")[0]
    except (PackageNotFoundError, ValueError):
        return ""


def save(room: str, rows: list[Row], seconds: float) -> None:
    """Keep the rows of a room, with the versions they were measured against."""
    kept = [{**dataclasses.asdict(row), "version": peer_version(row.peer_name)} for row in rows]
    content = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {peer_version('torch')}",
        "seconds": round(seconds),
        "rows": kept,
    }
    (HERE / "results").mkdir(exist_ok=True)
    path = HERE / "results" / f"{room}.json"
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")


def load() -> dict[str, dict]:
    """Return what was measured last, by room."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((HERE / "results").glob("*.json"))}


def figure(value: float, unit: str) -> str:
    """Write a value in its unit, seconds in the unit that keeps them short."""
    if unit == "s" and 0 < value < 1:
        value, unit = (value * 1e3, "ms") if value >= 1e-3 else (value * 1e6, "us")
    return f"{value:,.0f} {unit}" if value >= 1e5 else f"{value:.4g} {unit}".rstrip()


def cells(row: dict, colon: str = ": ") -> list[str]:
    """Return what, ours, the peer with its version and figure, ratio, target and equality."""
    name = row["peer_name"] if row["version"] in row["peer_name"] else f"{row['peer_name']} {row['version']}"
    return [
        row["what"],
        figure(row["ours"], row["unit"]),
        f"{name}{colon}{figure(row['peer'], row['unit'])}",
        f"{row['ours'] / row['peer']:.3g}x" if row["peer"] else "-",
        row["target"],
        row["equality"],
    ]


def line(values: list[str]) -> str:
    return "| " + " | ".join(value.replace("|", r"\|") for value in values) + " |"


@cache
def phrases() -> list[tuple[re.Pattern[str], str]]:
    """Return the phrases of tables in English, as patterns, and in Chinese, those with the most words of their own first."""
    table = json.loads((HERE / "zh.json").read_text("utf-8"))
    keys = sorted(table, key=lambda key: -len(key.replace("{}", "")))
    return [(re.compile("(.+?)".join(map(re.escape, key.split("{}")))), table[key]) for key in keys]


def in_chinese(text: str) -> str:
    """Return a text of a table in Chinese, or as it is where no phrase covers it; what a `{}` stands for is a text as well."""
    for pattern, chinese in phrases():
        if match := pattern.fullmatch(text):
            return chinese.format(*map(in_chinese, match.groups()))
    return text


def cells_in_chinese(row: dict) -> list[str]:
    texts = {key: in_chinese(row[key]) for key in ("what", "peer_name", "unit", "target", "equality")}
    return [cell.replace(" （", "（") for cell in cells(row | texts, colon="：")]


def whole_table(measured: dict[str, dict]) -> str:
    """Return the text of RESULTS.md."""
    machines = sorted({content["machine"] for content in measured.values()})
    head = (
        "# Measured results\n\n"
        f"Written by `make bench` on {'; '.join(machines)}; one room alone: `python -m benchmarks ROOM`. Ratios are ours "
        "over the peer's: below 1 is better, except where the unit is a rate or a score. Absolute times depend on the "
        "machine and its load; trust the ratios.\n\n"
        "| room | what | linkboy | beside it | ratio | wanted | same answer |\n|---|---|---|---|---|---|---|\n"
    )
    rows = [line([room, *cells(row)]) for room, content in measured.items() for row in content["rows"]]
    took = ", ".join(f"{room} {content['seconds']} s" for room, content in measured.items())
    return head + "\n".join(rows) + f"\n\nThe runs took {took}.\n"


def page_with_figures(path: Path, text: str, measured: dict[str, dict]) -> str:
    """Return a page of the documentation with its blocks of figures as they were measured last."""
    columns = COLUMNS["zh" if path.parent.name == "zh" else "docs"]

    def block(match: re.Match[str]) -> str:
        words = match[3].split(" / ") if match[3] else None
        chosen = [
            row
            for row in measured[match[2]]["rows"]
            if (row["target"] if words is None else any(word in row["what"] for word in words))
        ]
        written = cells_in_chinese if path.parent.name == "zh" else cells
        table = [line(list(columns)), "|" + "---|" * len(columns), *(line(written(row)) for row in chosen)]
        return match[1] + "\n".join(table) + "\n" + match[4]

    return BLOCK.sub(block, text)


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def write_everywhere() -> None:
    """Bring RESULTS.md and the pages in line with what was measured last."""
    measured = load()
    RESULTS.write_text(whole_table(measured), "utf-8")
    for path in pages():
        text = path.read_text("utf-8")
        new = page_with_figures(path, text, measured)
        if new != text:
            path.write_text(new, "utf-8")
