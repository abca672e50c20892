"""Run the benchmarks of all rooms, or of those named, and write the table."""

import argparse
import importlib
import time
from pathlib import Path

from benchmarks import results

HERE = Path(__file__).parent


def main() -> None:
    rooms = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("room", nargs="*", help=f"any of {', '.join(rooms)}; all by default")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that everything runs; nothing is written"
    )
    parser.add_argument(
        "--table", action="store_true", help="write the tables again from the last results, measure nothing"
    )
    arguments = parser.parse_args()
    for room in [] if arguments.table else arguments.room or rooms:
        start = time.perf_counter()
        rows = importlib.import_module(f"benchmarks.bench_{room}").run(quick=arguments.quick)
        seconds = time.perf_counter() - start
        for row in rows:
            print(
                f"{row.what}: {row.ours:.4g} {row.unit}; {row.peer_name} {row.peer:.4g} {row.unit}; ratio {row.ratio:.3g}"
            )
        print(f"{room}: {seconds:.0f} s\n", flush=True)
        if not arguments.quick:
            results.save(room, rows, seconds)
    if not arguments.quick:
        results.write_everywhere()


if __name__ == "__main__":
    main()
