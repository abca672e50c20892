"""The command line as a whole: which commands there are, and how a mistake ends."""

import os
import signal
import sys

from cyclopts import App, CycloptsError, Parameter

from linkboy._compiled import describe_core
from linkboy._report import visible
from linkboy._version import __version__
from linkboy.cli._checkpoint import checkpoint
from linkboy.cli._classifier import evaluate, explain, export, predict
from linkboy.cli._doctor import doctor
from linkboy.cli._models import check_op, memory, shapes, summary
from linkboy.cli._printing import drop_output, is_first_process
from linkboy.cli._serve import serve
from linkboy.cli._text import tokenize, vectors
from linkboy.cli._train import train
from linkboy.cli._wording import as_options

app = App(
    name="linkboy",
    help="Practical PyTorch, done right: train a text classifier, predict with it, and look into models and memory.",
    version=lambda: f"{__version__} ({describe_core()})",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for command in (
    train,
    predict,
    evaluate,
    explain,
    export,
    serve,
    doctor,
    summary,
    shapes,
    check_op,
    memory,
    checkpoint,
    tokenize,
    vectors,
):
    app.command(command)


def main() -> None:
    """Run the command line; end with 0, 2 for a mistake of the caller, 128 + the signal for a run that was stopped."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return the exit status; a mistake of the caller is reported in one sentence."""
    try:
        result = app(_script_last(_dash_as_file(arguments)), exit_on_error=False, print_error=False)
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return _complain(" ".join(str(error).split()))
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):
            drop_output()  # the reader (`| head`) has had enough
            return 0
        if os.environ.get("LINKBOY_DEBUG"):
            raise
        return _complain(as_options(_sentence(error), _options(arguments[0])))
    except KeyboardInterrupt:
        print("linkboy: interrupted; no file was written", file=sys.stderr)
        return 128 + signal.SIGINT


def _options(command: str) -> set[str]:
    """Return the options of a command."""
    arguments = app[command].assemble_argument_collection(default_parameter=app.default_parameter)
    return {name for argument in arguments for name in argument.names}


def _dash_as_file(arguments: list[str]) -> list[str]:
    """Write a lone `-` for `predict`, which the parser takes for an option without a name, as `--file=-`."""
    if arguments[:1] != ["predict"]:
        return arguments
    end = arguments.index("--") if "--" in arguments else len(arguments)
    written: list[str] = []
    for argument in arguments[:end]:
        if argument == "-":
            written = written[:-1] if written[-1] == "--file" else written
        written.append("--file=-" if argument == "-" else argument)
    return written + arguments[end:]


def _script_last(arguments: list[str]) -> list[str]:
    """Write `--` before the script of `doctor`, so that what follows it is left to the script."""
    if arguments[:1] != ["doctor"]:
        return arguments
    place = 1
    while place < len(arguments) and arguments[place].startswith("-"):
        option = arguments[place]
        if option == "--":
            return arguments
        place += 1 if "=" in option or option in ("--strict", "--write", "-m", "--help", "-h", "--version") else 2
    return [*arguments[:place], "--", *arguments[place:]] if place < len(arguments) else arguments


def _complain(sentence: str) -> int:
    if is_first_process():
        print(f"linkboy: {visible(sentence)}", file=sys.stderr)
    return 2


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return (
            f"cannot use {error.filename}: {error.strerror.lower()}; check the path"
            if error.filename
            else error.strerror
        )
    return " ".join(str(error).split())
