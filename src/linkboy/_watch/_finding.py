"""What a check says."""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

from linkboy._language import translate
from linkboy._report import Block, Report

Severity = Literal["FAULT", "LIKELY", "NOTE"]


@dataclasses.dataclass(frozen=True)
class TrainingFinding(Report):
    """One thing that is wrong in a training run.

    Attributes:
        word: the stable name of the kind of fault, as `ignore` takes it.
        severity: `"FAULT"`; `"LIKELY"`, where a right program could look the same, and the sentence says which; or `"NOTE"`.
        sentence: what is wrong, with the numbers and the names of the tensors.
        fix: how to correct it.
        places: lines of the program, `file:line` and the source, the cause first.
        evidence: the numbers behind the sentence, by name.

    Examples:
        >>> print(TrainingFinding("lr-low", "FAULT", "each step changes the weights by 1e-7 of their size", "raise the rate"))
        FAULT   lr-low  each step changes the weights by 1e-7 of their size
                fix: raise the rate
    """

    word: str
    severity: Severity
    sentence: str
    fix: str
    places: tuple[str, ...] = ()
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def explanation(self) -> str:
        """What the documentation says about the word."""
        return translate(f"#{self.word}", "en")

    def _blocks(self) -> Iterable[Block]:
        lines = [f"{self.severity:<7} {self.word}  {self.sentence}"]
        lines += [f"        {place}" for place in self.places]
        lines += [f"        fix: {self.fix}"]
        yield "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the explanation of the word as plain values."""
        return {**super().to_dict(), "explanation": self.explanation}
