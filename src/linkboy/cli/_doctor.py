"""`linkboy doctor`: run a training script, watched."""

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from linkboy.cli._printing import is_first_process

_MORE = "more about a word: linkboy doctor --explain WORD"


def doctor(
    *script: Annotated[str, Parameter(allow_leading_hyphen=True)],
    steps: int = 60,
    passes: int = 2,
    batches: int = 20,
    report: str | None = None,
    lang: Literal["en", "zh"] | None = None,
    strict: bool = False,
    ignore: str = "",
    explain: str | None = None,
    write: bool = False,
    m: Annotated[bool, Parameter(name="-m")] = False,
) -> int:
    """Run a training script unchanged for some steps, and say what silently goes wrong in it.

    linkboy doctor train.py --epochs 3

    linkboy doctor --report page.html train.py

    linkboy doctor -m package.train --config small

    The options of linkboy come before the script, and everything after it belongs to the script. What the script prints is
    printed; the page goes to the standard error. The exit status is 1 for a fault, 2 if nothing can be said,
    because no training was seen or the script ended in an error, and otherwise 0.

    Parameters
    ----------
    script
        The script, or with -m a module, and its arguments.
    steps
        Optimizer steps after which the script is ended.
    passes
        Passes over the training loader to wait for, so that what comes once per epoch is seen.
    batches
        Batches after which a pass over a DataLoader ends, so that validation and a second epoch come within seconds; 0 lets each
        pass run to its end.
    report
        A file for the page: .html, .json, or text.
    lang
        Language of the HTML page and of --explain: en or zh; by default that of the environment (LC_ALL, LC_MESSAGES, LANG).
    strict
        Let a LIKELY finding count as a fault in the exit status.
    ignore
        Words of findings to leave out, with commas between.
    explain
        Print what a word of a finding means, such as lr-low, and run nothing.
    write
        Let the script write its checkpoints; otherwise they go to a temporary folder.
    m
        Run a module, as python -m does.
    """
    from linkboy._language import chosen_language, translate
    from linkboy.doctor import ScriptCheck, check_script
    from linkboy.doctor._finish import check_words
    from linkboy.doctor.report import MORE

    if explain is not None:
        (word,) = check_words("--explain", [explain])
        print(translate(f"#{word}", chosen_language(lang)))
        return 0
    if not script:
        raise ValueError("doctor needs a script to run; write: linkboy doctor train.py")

    def show(result: ScriptCheck) -> None:
        if is_first_process():
            if report is not None:
                result.save(report, lang=lang)
            print(str(result).replace(MORE, _MORE), file=sys.stderr, flush=True)

    words = [word.strip() for word in ignore.split(",") if word.strip()]
    result = check_script(
        script[0], script[1:], module=m, steps=steps, passes=passes, batches=batches, write=write, strict=strict,
        ignore=words, done=show,
    )  # fmt: skip
    show(result)
    return result.exit_code
