"""How reports come to the screen."""

import os
import sys
from collections.abc import Callable

from linkboy._report import Printable, Report, visible


def is_first_process() -> bool:
    """Return whether this process prints; asked before torch is loaded, so the environment of torchrun has to answer."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def printer() -> Callable[[Printable | str], None]:
    """Return a function that prints reports, on the first of several processes only."""
    from rich.console import Console

    console = Console(highlight=False)

    def show(block: Printable | str) -> None:
        if not is_first_process():
            return
        if sys.stdout.isatty():
            console.print(visible(block) if isinstance(block, str) else block, markup=False)
        else:
            print(visible(block) if isinstance(block, str) else block)
        print(flush=True)

    return show


def show_report(report: Report, *, json: bool = False) -> None:
    """Print a report for a reader, or as one JSON object for a program."""
    if json:
        print(report.to_json())
    else:
        printer()(report)
