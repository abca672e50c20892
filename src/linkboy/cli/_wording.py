"""How the messages of the rooms, which name arguments of Python, read on a command line."""

import re
import shlex
from collections.abc import Collection

_ARGUMENT = re.compile(r"(\bwith )?\b([a-z][a-z_]*)=('[^']*'|\"[^\"]*\"|\.\.\.|[\w.+-]*\w)")

_COMMANDS = {"train_classifier": "linkboy train"}


def as_options(sentence: str, options: Collection[str]) -> str:
    """Write each `name=value` of a sentence as the option of that name, where there is one.

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
        >>> as_options("y=3 is text", ["--epochs"])
        'y=3 is text'
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
        if value == "True":
            return f"{before}{name}"
        quoted = value[0] in ("'", '"')
        return f"{before}{name} {shlex.quote(value[1:-1]) if quoted else value}"

    for function, command in _COMMANDS.items():
        sentence = sentence.replace(function, command)
    return _ARGUMENT.sub(option, sentence)
