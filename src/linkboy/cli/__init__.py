"""The command line: every command calls one public function and prints its report."""

from linkboy.cli.app import main as main
from linkboy.cli.app import run as run
