"""The page as one HTML file."""

from collections import Counter

from linkboy._language import Language
from linkboy._page import environment
from linkboy._report import Report
from linkboy._watch import TrainingFinding


def page(check: Report, findings: tuple[TrainingFinding, ...], author_only: tuple[str, ...], lang: Language) -> str:
    """Return the page of a check.

    Args:
        check: the report.
        findings: what it found.
        author_only: what only the author of a program can answer.
        lang: the language of the page.
    """
    counts = Counter({"FAULT": 0, "LIKELY": 0, "NOTE": 0})
    counts.update(found.severity for found in findings)
    template = environment("linkboy.doctor", lang=lang).get_template("page.html")
    return template.render(check=check, counts=dict(counts), author_only=author_only)
