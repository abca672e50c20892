"""The page: what goes wrong, what was asked, and what was seen."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from linkboy._files import atomic_write
from linkboy._language import Language, chosen_language
from linkboy._report import Block, Report, plural
from linkboy._watch import TrainingFinding
from linkboy.doctor._html import page

AUTHOR_ONLY = (
    "whether the metric is the right one, and how it is averaged",
    "the weights of losses, and a sum where a mean is meant",
    "a wrong column of labels, augmentation that changes the label",
    "a split that should go by time or by person",
)
MORE = "more about a word: the explanation of its finding"


@dataclasses.dataclass(frozen=True)
class TrainingCheck(Report):
    """What was found in a training run.

    Attributes:
        ok: whether there is no finding above a note.
        findings: what was found, the gravest first.
        asked: the words whose question was asked.
        not_asked: the words whose question does not apply to what was seen.
        failed: the words whose check raised, each with its exception.
        steps: how many optimizer steps were seen.
        seen: models, optimizers, losses and loaders, one line each.
        notes: what happened to the program besides: passes that were cut, files that were not written, its own error.
        source: the program, or the call.
    """

    ok: bool
    findings: tuple[TrainingFinding, ...]
    asked: tuple[str, ...]
    not_asked: tuple[str, ...]
    failed: tuple[str, ...]
    steps: int
    seen: tuple[str, ...]
    notes: tuple[str, ...]
    source: str

    @property
    def summary(self) -> str:
        """The first line of the page."""
        found = plural(len(self.findings), "finding") if self.findings else "no finding"
        watched = f"{found} in {plural(self.steps, 'step')} of {self.source}"
        if not self.steps:
            watched = (
                f"no step of an optimizer was seen in {self.source}, so little can be said of its training: {found}"
            )
        return (
            f"{watched}; asked {len(self.asked)} of {len(self.asked) + len(self.not_asked)} questions, "
            f"{len(self.not_asked)} do not apply"
        )

    def _blocks(self) -> Iterable[Block]:
        yield self.summary
        for found in self.findings:
            yield from found._blocks()
        if self.findings:
            yield MORE
        if self.seen:
            yield "seen: " + "; ".join(self.seen)
        if self.notes:
            yield "\n".join(self.notes)
        if self.failed:
            yield "could not be asked: " + "; ".join(self.failed)
        yield "only the author can answer: " + "; ".join(AUTHOR_ONLY)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, each finding with the explanation of its word."""
        return {**super().to_dict(), "findings": [found.to_dict() for found in self.findings]}

    def to_html(self, lang: Language | None = None) -> str:
        """Return the page as one HTML file that loads nothing from the network.

        Args:
            lang: its language, `"en"` or `"zh"`; by default the environment's (`LC_ALL`, `LC_MESSAGES`, `LANG`). Each finding
                has a paragraph about its word in front.

        Returns:
            The page.
        """
        return page(self, self.findings, AUTHOR_ONLY, chosen_language(lang))

    def save(self, path: str | Path, *, lang: Language | None = None) -> None:
        """Write the page to a file: JSON if its name ends in `.json`, HTML if in `.html`, text otherwise.

        Args:
            path: the file, which is written in one piece.
            lang: the language of an HTML page; text and JSON stay English.
        """
        lang = chosen_language(lang)
        path = Path(path)
        kinds = {".json": lambda: self.to_json(indent=2), ".html": lambda: self.to_html(lang)}
        text = kinds.get(path.suffix.lower(), lambda: str(self))()
        with atomic_write(path) as file:
            file.write(text.encode("utf-8", "replace"))
