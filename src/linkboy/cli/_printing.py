"""How reports come to the screen."""

import os
import sys
from collections.abc import Callable, Iterable

from linkboy._report import Block, Printable, Report, visible
from linkboy.cli._reading import READING_OPTIONS
from linkboy.cli._wording import as_options


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
        shown = visible(block) if isinstance(block, str) else _Worded(block)
        try:
            if sys.stdout.isatty():
                console.print(shown, markup=False)
            else:
                print(shown)
            print(flush=True)
        except BrokenPipeError:  # the reader (`| head`) has had enough, and what is reported on goes on
            drop_output()

    return show


def drop_output() -> None:
    """Let what is printed from here on go nowhere, also at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Worded(Printable):
    """A report whose sentences name the options by which files are read, where the room names arguments of Python."""

    def __init__(self, report: Printable) -> None:
        self._report = report

    def _blocks(self) -> Iterable[Block]:
        for block in self._report._blocks():
            yield as_options(block, READING_OPTIONS) if isinstance(block, str) else block


def show_report(report: Report, *, json: bool = False) -> None:
    """Print a report for a reader, or as one JSON object for a program."""
    if json:
        print(report.to_json())
    else:
        printer()(report)
