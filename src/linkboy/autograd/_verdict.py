"""What one check says of an operator; `check_op` adds the name of the check and makes the row."""

import dataclasses

from linkboy.autograd.report import Outcome


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of a check and what was found, with the likely cause and the fix where there is one."""

    outcome: Outcome
    found: str = ""
    cause: str = ""
    fix: str = ""


def passed(found: str = "") -> Verdict:
    """Return that nothing is wrong."""
    return Verdict("passed", found)


def failed(found: str, cause: str = "", fix: str = "") -> Verdict:
    """Return that the operator is wrong."""
    return Verdict("failed", found, cause, fix)


def limited(found: str, cause: str = "", fix: str = "") -> Verdict:
    """Return what the operator does not support."""
    return Verdict("limited", found, cause, fix)


def skipped(reason: str) -> Verdict:
    """Return why the check does not apply."""
    return Verdict("skipped", reason)
