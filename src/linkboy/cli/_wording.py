"""How the messages of the rooms, which name arguments of Python, read on a command line."""

import re
import shlex
from collections.abc import Collection

_ARGUMENT = re.compile(r"(\bwith )?\b([a-z][a-z_]*)=('[^']*'|\"[^\"]*\"|\.\.\.|[\w.+-]*\w|(?=[,;]|\Z))")
_QUOTED = re.compile(r"""((?<!\w)'(?:\\.|[^'\\])*'|(?<!\w)"(?:\\.|[^"\\])*")""")
# A name of two words is an argument wherever it stands alone; a single word is one at the start of a clause that says what it
# must be, or as what to pass or leave out.
_TWO_WORDS = re.compile(r"(?<![\w./\\`-])([a-z]+(?:_[a-z]+)+)(?![\w(\[=./\\`-])")
_SUBJECT = re.compile(
    r"(\A|[;:] (?:or )?)([a-z]+)(?= (?:must|is for|are for|needs|names|chooses|has no meaning)\b| of \Z)"
)
_OBJECT = re.compile(r"\b(pass|leave) ([a-z]+)(?: (or|and) ([a-z]+))?(?= out\b|[,;]|\Z)")

_COMMANDS = {"train_classifier": "linkboy train"}


def as_options(sentence: str, options: Collection[str]) -> str:
    """Write each argument that a sentence names, with a value or without, as the option of that name, where there is one.

    Args:
        sentence: a message of a room.
        options: the options of the command line, such as `"--on-bad-row"`.

    Examples:
        >>> as_options("pass on_bad_row='skip', or go on with resume=True", ["--on-bad-row", "--resume"])
        'pass --on-bad-row skip, or go on with --resume'
        >>> as_options("it was started with epochs=None", ["--epochs"])
        'it was started without --epochs'
        >>> as_options("it was started with refit=False", ["--refit", "--no-refit"])
        'it was started with --no-refit'
        >>> as_options("say what stands between them with separator=, or write a tab", ["--separator"])
        'say what stands between them with --separator, or write a tab'
        >>> as_options("y=3 is text", ["--epochs"])
        'y=3 is text'
        >>> as_options("class_weight is for one label a text; leave class_weight out", ["--class-weight"])
        '--class-weight is for one label a text; leave --class-weight out'
        >>> as_options("budget must be a time; a budget helps", ["--budget"])
        '--budget must be a time; a budget helps'
        >>> as_options("name one that train_classifier has written", [])
        'name one that linkboy train has written'
    """

    def option(found: re.Match[str]) -> str:
        before, name, value = found[1] or "", f"--{found[2].replace('_', '-')}", found[3]
        if name not in options:
            return found[0]
        if value == "False" and f"--no-{name[2:]}" in options:
            return f"{before}--no-{name[2:]}"
        if value in ("None", "False"):
            return f"{'without' if before else 'no'} {name}"
        if value in ("True", ""):
            return f"{before}{name}"
        quoted = value[0] in ("'", '"')
        return f"{before}{name} {shlex.quote(value[1:-1]) if quoted else value}"

    for function, command in _COMMANDS.items():
        sentence = sentence.replace(function, command)
    pieces = _QUOTED.split(_ARGUMENT.sub(option, sentence))  # what is quoted is data, or what was asked for
    return "".join(piece if at % 2 else _names_as_options(piece, options) for at, piece in enumerate(pieces))


def _names_as_options(piece: str, options: Collection[str]) -> str:
    def named(name: str | None) -> str:
        option = f"--{(name or '').replace('_', '-')}"
        return option if option in options else name or ""

    piece = _TWO_WORDS.sub(lambda found: named(found[1]), piece)
    piece = _SUBJECT.sub(lambda found: found[1] + named(found[2]), piece)
    return _OBJECT.sub(
        lambda found: f"{found[1]} {named(found[2])}" + (f" {found[3]} {named(found[4])}" if found[3] else ""), piece
    )
