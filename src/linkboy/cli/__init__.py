"""The command line: every command calls one public function and prints its report."""

from linkboy.cli.app import main, run

__all__ = ["main", "run"]
