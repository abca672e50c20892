"""Run the benchmarks of all rooms, or of those named, and write the table."""

import argparse
import importlib
import os
import platform
from pathlib import Path

from benchmarks.harness import Row

HERE = Path(__file__).parent


def ratio(row: Row) -> str:
    return f"{row.ratio:.3g}x" if row.peer else "-"


def table(room: str, rows: list[Row]) -> str:
    lines = [
        f"## {room}",
        "",
        "| what | ours | peer | peer's | ours / peer | target | same answer |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.what} | {row.ours:.4g} {row.unit} | {row.peer_name} | {row.peer:.4g} {row.unit} | {ratio(row)} "
        f"| {row.target} | {row.equality} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    rooms = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("room", nargs="*", default=rooms, help=f"any of {', '.join(rooms)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    arguments = parser.parse_args()
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    for room in arguments.room:
        rows = importlib.import_module(f"benchmarks.bench_{room}").run(quick=arguments.quick)
        text = table(room, rows)
        print(text, end="\n\n", flush=True)
        if not arguments.quick:
            (results / f"{room}.md").write_text(text + "\n", "utf-8")
    if not arguments.quick:
        parts = [path.read_text("utf-8") for path in sorted(results.glob("*.md"))]
        heading = (
            "# Measured results\n\n"
            f"Written by `make bench` on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}. "
            "Absolute times depend on the machine and its load; trust the ratios.\n\n"
        )
        (HERE / "RESULTS.md").write_text(heading + "\n".join(parts), "utf-8")


if __name__ == "__main__":
    main()
