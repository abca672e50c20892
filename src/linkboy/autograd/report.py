"""What `check_op` found: one row per check, each failure with its cause and fix."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from linkboy._checks import did_you_mean
from linkboy._report import Block, Report, Table, plural

Outcome = Literal["passed", "failed", "follows", "limited", "skipped"]


@dataclasses.dataclass(frozen=True)
class OpRow:
    """One check of an operator.

    Attributes:
        check: its name.
        outcome: `"passed"`; `"failed"`: the operator is wrong; `"follows"`: failed too, from the cause of an earlier
            failure; `"limited"`: something that the operator does not support, and says so by raising; `"skipped"`: does
            not apply, for the reason in `found`.
        found: what was done and what came of it.
        cause: the likely reason.
        fix: what to change.

    Examples:
        >>> OpRow("mutation", "passed").outcome
        'passed'
    """

    check: str
    outcome: Outcome
    found: str = ""
    cause: str = ""
    fix: str = ""


@dataclasses.dataclass(frozen=True)
class OpReport(Report):
    """What `check_op` found; `ok` decides: `assert report.ok, str(report)`.

    Attributes:
        op: the name of the operator.
        ok: whether no check failed.
        rows: one `OpRow` per check, in the order in which they ran.

    Examples:
        >>> report = OpReport("my_op", True, (OpRow("mutation", "passed"),))
        >>> print(report)
        my_op is right as far as 1 check can tell: 1 passed
        <BLANKLINE>
        check     outcome  found
        mutation  passed
    """

    op: str
    ok: bool
    rows: tuple[OpRow, ...]

    @property
    def failures(self) -> tuple[OpRow, ...]:
        """The rows that make the operator wrong, one per cause."""
        return tuple(row for row in self.rows if row.outcome == "failed")

    def row(self, check: str) -> OpRow:
        """Return the row of the check of that name, or raise a `KeyError`."""
        by_name = {row.check: row for row in self.rows}
        if check not in by_name:
            raise KeyError(f"no check {check!r}{did_you_mean(check, by_name)}")
        return by_name[check]

    def __repr__(self) -> str:
        found = [f"{row.check} failed: {row.cause or row.found}" for row in self.failures]
        return f"<OpReport of {self.op}: {'; '.join(found) or 'ok'}>"

    def _blocks(self) -> Iterable[Block]:
        outcomes = [row.outcome for row in self.rows]
        counts = ", ".join(
            f"{outcomes.count(kind)} {kind}" for kind in dict.fromkeys(sorted(outcomes, key=_worst_first))
        )
        checks = plural(len(self.rows), "check")
        verdict = f"is right as far as {checks} can tell" if self.ok else "is wrong"
        yield f"{self.op} {verdict}: {counts}"
        for row in self.failures:
            advice = [f"  {label}: {text}" for label, text in (("cause", row.cause), ("fix", row.fix)) if text]
            yield "\n".join([f"{row.check} failed: {row.found}", *advice])
        yield Table(("check", "outcome", "found"), [(row.check, row.outcome, _brief(row)) for row in self.rows])
        limits: dict[str, list[str]] = {}
        for row in self.rows:
            if row.outcome == "limited" and row.fix:
                limits.setdefault(row.fix, []).append(row.check)
        yield "\n".join(f"to lift the limit of {', '.join(checks)}: {fix}" for fix, checks in limits.items())


def _brief(row: OpRow) -> str:
    return row.cause if row.outcome == "limited" and row.cause else row.found


def _worst_first(outcome: str) -> int:
    return ("failed", "follows", "passed", "limited", "skipped").index(outcome)
