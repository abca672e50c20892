"""`report.html`: one page about a run, which needs no network and runs nothing but a few lines that sort its tables."""

import dataclasses
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linkboy._language import Language
from linkboy._page import environment
from linkboy._report import Printable, Table, format_count, format_percent, format_seconds, plural
from linkboy._version import __version__
from linkboy.classify.judging._reliability import Reliability
from linkboy.classify.judging._scored import Scored
from linkboy.classify.judging._several import ScoredLabels
from linkboy.classify.judging.decisions import SHOWN, DecisionCurve
from linkboy.classify.judging.metrics import MOST_IN_TABLE, ClassificationMetrics, weakest_first
from linkboy.classify.judging.multilabel import MultilabelMetrics
from linkboy.classify.linear._linear import LinearReport
from linkboy.classify.reading._parts import PARTS, Parts
from linkboy.classify.recipe import TrainingOptions
from linkboy.classify.results import _charts as charts
from linkboy.classify.results._results import Judgement
from linkboy.classify.saved.classifier import Classifier
from linkboy.classify.saved.explain import Explanation
from linkboy.parameters import summarize
from linkboy.text._scripts import font_language

MISTAKES = 20
CONFUSIONS = 10
PIECES = 6
LONGEST_TEXT = 600
SHADES = 5
_PACKAGES = ("torch", "numpy", "accelerate", "safetensors", "polars")


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A test row that the classifier got wrong; the explanation compares the prediction with the truth."""

    line: int
    explanation: Explanation


def report_page(
    classifier: Classifier,
    parts: Parts,
    judged: Judgement,
    *,
    options: TrainingOptions,
    seconds: Mapping[str, float],
    metric: str,
    lang: Language = "en",
) -> bytes:
    """Write the page about a finished run.

    Args:
        classifier: the result.
        parts: what it was trained, chosen and tested on.
        judged: its logits and metrics, and how it was trained.
        options: the options of the run.
        seconds: how long each stage took.
        metric: key of the metric that chose the epoch.
        lang: the language of the page.
    """
    metrics, scored, history = judged.metrics, judged.scored, judged.outcome.history
    calibration = scored.reliability()
    before = None if judged.before is None else judged.before.reliability()
    return (
        _template(lang)
        .render(
            source=Path(parts.texts["train"].source).name,
            kind=classifier.kind,
            classes=len(parts.class_names),
            rows={part: format_count(len(parts.texts[part])) for part in PARTS},
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            metrics=metrics["test"],
            several=parts.several,
            headline=metrics["test"].micro_f1 if parts.several else metrics["test"].accuracy,
            figures=(_label_figures if parts.several else _figures)(metrics["test"], calibration, seconds),
            confused=[] if parts.several else _confused(metrics["test"]),
            confusion=charts.confusion_chart(metrics["test"].confusion, parts.class_names, lang)
            if not parts.several and len(parts.class_names) <= charts.MOST_CLASSES_DRAWN
            else None,
            decisions=None if judged.decisions is None else _decisions_table(judged.decisions, judged.test_decisions),
            coverage_chart=None
            if judged.decisions is None or judged.test_decisions is None
            else charts.coverage_chart([judged.test_decisions, judged.decisions], lang),
            class_rows=_class_rows(parts, metrics["test"]),
            most_classes=MOST_IN_TABLE,
            mistakes=_label_mistakes(classifier, parts, scored)
            if isinstance(scored, ScoredLabels)
            else _mistakes(classifier, parts, scored),
            calibration=calibration,
            before=before,
            calibration_chart=charts.reliability_chart(calibration, before, lang),
            judged=judged,
            curves=charts.learning_curves(history.rows, metric, history.best_epoch, lang)
            if history is not None
            else [],
            colours=charts.COLOURS,
            history=history,
            reports=[
                *([("Cross-validation", judged.cross_validation)] if judged.cross_validation else []),
                *([("Corrected labels", judged.corrections)] if judged.corrections else []),
                ("Data", parts),
                ("Model" if isinstance(judged.outcome.settings, LinearReport) else "Settings", judged.outcome.settings),
                *([("Budget", judged.outcome.search)] if judged.outcome.search else []),
                ("Parameters", _parameters(classifier, in_epochs=history is not None)),
            ],
            parts_table=(_label_parts_table if parts.several else _parts_table)(metrics),
            seconds=[(what, format_seconds(time)) for what, time in seconds.items()],
            command=command_line(),
            options=_options_table(options),
            versions=_versions(),
        )
        .encode("utf-8", "replace")
    )


def command_line() -> str:
    """Return the command that this process runs, as it can be typed again."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return shlex.join(["python", "-m", program.parent.name, *sys.argv[1:]])
    start = [program.name] if os.access(program, os.X_OK) and program.suffix != ".py" else ["python", str(program)]
    return shlex.join([*start, *sys.argv[1:]])


@cache  # to compile it takes longer than to fill it in
def _template(lang: Language) -> Any:
    made = environment(
        "linkboy.classify",
        {
            "script": font_language,
            "shades": shades,
            "pieces": lambda explanation: explanation.pieces[:PIECES],
        },
        script="sort.js",
        lang=lang,
    )
    made.globals |= {"is_table": lambda block: isinstance(block, Table), "blocks": _blocks}
    return made.get_template("report.html")


def _blocks(report: Printable) -> list[Any]:
    return [block for block in report._blocks() if block]


def _parameters(classifier: Classifier, *, in_epochs: bool) -> Printable:
    """Return what the model holds; one that was solved needed neither gradients nor states of an optimizer."""
    summary = summarize(classifier.model)
    return summary if in_epochs else dataclasses.replace(summary, training_memory={})


def _figures(
    test: ClassificationMetrics, calibration: Reliability, seconds: Mapping[str, float]
) -> list[tuple[str, str, str]]:
    """Return the headline numbers: name, value, remark."""
    low, high = test.interval
    gained = 100 * (test.accuracy - test.largest_share)
    beside = (
        f"{gained:+.1f} points on always answering the largest class"
        if test.is_better_than_guessing
        else "not better than guessing"
    )
    manner = "underconfident" if calibration.confidence < calibration.accuracy else "overconfident"
    return [
        ("Accuracy", format_percent(test.accuracy), f"95% interval {100 * low:.1f} to {100 * high:.1f}; {beside}"),
        ("Macro-F1", format_percent(test.macro_f1), f"mean over {plural(len(test.per_class), 'class', 'classes')}"),
        ("Calibration error", format_percent(calibration.calibration_error), f"{manner} on average"),
        (
            "Training",
            format_seconds(seconds["training"]),
            f"and {format_seconds(seconds['encoding'])} for the features",
        ),
    ]


def _confused(test: ClassificationMetrics) -> list[tuple[str, str, int, float, float]]:
    """Return the most confused pairs: true class, predicted class, rows, share of the true class, length of the bar."""
    pairs = test.most_confused(CONFUSIONS)
    support = {c.label: c.support for c in test.per_class}
    return [(true, predicted, rows, rows / support[true], rows / pairs[0][2]) for true, predicted, rows in pairs]


def _class_rows(parts: Parts, test: ClassificationMetrics | MultilabelMetrics) -> list[tuple[Any, int]]:
    """Return the figures of each class and its training rows; of more classes than a page can hold the weakest."""
    per_class: Sequence[Any] = test.per_class
    counts = dict(zip((c.label for c in per_class), parts.class_counts.tolist(), strict=True))
    shown = per_class if len(per_class) <= MOST_IN_TABLE else weakest_first(per_class)[:MOST_IN_TABLE]
    return [(figures, counts[figures.label]) for figures in shown]


def _mistakes(classifier: Classifier, parts: Parts, scored: Scored) -> list[Mistake]:
    """Return the mistakes that the classifier was most confident of."""
    target, texts, names = parts.targets["test"], parts.texts["test"], parts.class_names
    wrong = np.flatnonzero(~scored.right)
    confident: list[int] = wrong[np.argsort(-scored.confidence[wrong], kind="stable")][:MISTAKES].tolist()
    return [
        Mistake(
            texts.lines[row],
            classifier.explain(
                [texts.texts[row]], label=names[int(scored.predicted[row])], against=names[int(target[row])]
            ).explanations[0],
        )
        for row in confident
    ]


def _label_figures(
    test: MultilabelMetrics, calibration: Reliability, seconds: Mapping[str, float]
) -> list[tuple[str, str, str]]:
    """Return the headline numbers where a text may have several labels."""
    beside = f"the same labels for all: {format_percent(test.constant_f1)}"
    return [
        ("Micro-F1", format_percent(test.micro_f1), beside),
        ("Macro-F1", format_percent(test.macro_f1), f"mean over {plural(len(test.per_class), 'class', 'classes')}"),
        ("Mean average precision", format_percent(test.mean_average_precision), "whatever the thresholds"),
        (
            "All labels right",
            format_percent(test.subset_accuracy),
            f"sample-F1 {format_percent(test.sample_f1)}",
        ),
    ]


def _label_mistakes(classifier: Classifier, parts: Parts, scored: ScoredLabels) -> list[Mistake]:
    """Return the labels that were wrongly given or not given, the most confident first."""
    texts, found = parts.texts["test"], []
    for row, label in scored.wrong_pairs()[:MISTAKES]:
        made = classifier.explain([texts.texts[row]], label=parts.class_names[label]).explanations[0]
        found.append(Mistake(texts.lines[row], made if scored.given[row, label] else _turned(made)))
    return found


def _turned(explanation: Explanation) -> Explanation:
    """Return why a label was not given, from why it might have been."""
    return dataclasses.replace(
        explanation,
        label=explanation.against,
        probability=explanation.against_probability,
        against=explanation.label,
        against_probability=explanation.probability,
        log_odds=-explanation.log_odds,
        base=None if explanation.base is None else -explanation.base,
        pieces=[dataclasses.replace(piece, log_odds=-piece.log_odds) for piece in explanation.pieces],
    )


def _decisions_table(valid: DecisionCurve, test: DecisionCurve | None) -> Table:
    """Return coverage and precision of both held-out parts for some thresholds."""
    test = test or valid
    points = [(threshold, valid.at(threshold), test.at(threshold)) for threshold in SHOWN]
    rows = [
        (f"{threshold:g}", *(format_percent(share) for p in pair for share in (p.coverage, p.precision)))
        for threshold, *pair in points
    ]
    return Table(
        ("threshold", "coverage, validation", "precision, validation", "coverage, test", "precision, test"), rows
    )


def _label_parts_table(metrics: Mapping[str, MultilabelMetrics]) -> Table:
    return Table(
        ("part", "micro-F1", "macro-F1", "all labels right", "rows"),
        [
            (
                part,
                format_percent(m.micro_f1),
                format_percent(m.macro_f1),
                format_percent(m.subset_accuracy),
                format_count(m.row_count),
            )
            for part, m in metrics.items()
        ],
    )


def _parts_table(metrics: Mapping[str, ClassificationMetrics]) -> Table:
    return Table(
        ("part", "accuracy", "macro-F1", "rows"),
        [
            (part, format_percent(m.accuracy), format_percent(m.macro_f1), format_count(m.row_count))
            for part, m in metrics.items()
        ],
    )


def _options_table(options: TrainingOptions) -> Table:
    chosen = {
        field.name.replace("_", "-"): getattr(options, field.name)
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default or field.name == "seed"
    }
    return Table(("option", "value"), [(name, str(value)) for name, value in chosen.items()])


def _versions() -> Table:
    rows = [("linkboy", __version__), ("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:  # a wheel that was unpacked by hand has no metadata
            continue
    rows.append(("machine", f"{platform.system()} {platform.machine()}, threads: {torch.get_num_threads()}"))
    return Table(("", ""), rows)


def shades(explanation: Explanation) -> list[tuple[str, str]]:
    """Cut a text into runs of one shade, `p1` to `p5` for the predicted class, `n1` to `n5` for the true one, or none."""
    text, shares = explanation.text[:LONGEST_TEXT], explanation.by_character()[:LONGEST_TEXT]
    most = max(map(abs, shares), default=0.0) or 1.0
    levels = [round(SHADES * share / most) for share in shares]
    runs = groupby(zip(levels, text, strict=True), key=lambda pair: pair[0])
    return [
        (f"{'p' if level > 0 else 'n'}{abs(level)}" if level else "", "".join(character for _, character in run))
        for level, run in runs
    ]
