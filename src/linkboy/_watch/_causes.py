"""One finding a cause: what explains another finding swallows it."""

from collections.abc import Iterable

from linkboy._watch._finding import TrainingFinding

EVERYTHING_ABOUT_STEPS = ("lr-low", "lr-high", "vanishing", "symmetry")
SWALLOWS: dict[str, tuple[str, ...]] = {
    "lr-high": ("nan", "dead-units", "vanishing", "exploding"),
    "nan": ("exploding", "lr-low", "lr-high", "dead-units", "batch-mixing", "vanishing", "state-carry", "squeeze"),
    "unscaled-input": ("exploding", "dead-units", "lr-high", "vanishing", "nan"),
    "unscaled-target": ("exploding", "lr-high", "lr-low", "vanishing", "nan"),
    "exploding": ("vanishing", "lr-low"),
    "dead-units": ("vanishing", "cut", "ignored-input", "lr-low"),
    "symmetry": ("vanishing", "cut", "ignored-input", "lr-low", "dead-units"),
    "no-step": ("lr-low", "lr-high", "stale-gradient", "scheduler-order", "scheduler-unused", "accumulate-scale"),
    "wiped-gradient": EVERYTHING_ABOUT_STEPS,
    "double-step": ("lr-high", "scheduler-order"),
    "amp-order": ("lr-low", "lr-high", "nan"),
    "wrong-dim": ("batch-mixing", "raw-nll", "future", "mask", "squeeze"),
    "stale-gradient": ("lr-high", "accumulate-scale", "nan"),
    "scheduler-pace": ("lr-low", "scheduler-unused"),
    "same-batch": ("constant-target", "unshuffled", "label-range", "same-order"),
    "unshuffled": ("constant-target", "label-range", "same-order"),
    "unshifted": ("future",),
    "mask": ("batch-mixing", "padding-counted"),
    "batch-mixing": ("future", "squeeze", "mask"),
    "state-carry": ("batch-mixing", "squeeze"),
    "raw-nll": ("exploding", "sign"),
    "double-softmax": ("vanishing", "exploding"),
    "relu-logits": ("vanishing", "dead-units", "cut"),
    "heavy-dropout": ("vanishing",),
    "unregistered": ("cut", "unused", "unoptimized"),
    "reset-optimizer": ("lr-low", "scheduler-unused", "unoptimized"),
    "broadcast": ("constant-target",),
    "constant-target": ("label-range", "unshuffled"),
    "always-dropout": ("state-carry",),
    "target-leak": ("ignored-input",),
    "unused": ("ignored-input",),
    "cut": ("ignored-input", "vanishing"),
    "decay": ("cut",),
    "tied": ("unoptimized",),
    "checkpoint": (),
    "leakage": ("random-validation",),
}


def causes(findings: Iterable[TrainingFinding]) -> list[TrainingFinding]:
    """Return the findings without those that another one explains, the gravest first.

    Examples:
        >>> nan = TrainingFinding("nan", "FAULT", "the loss is not finite", "lower the rate")
        >>> low = TrainingFinding("lr-low", "FAULT", "steps are small", "raise the rate")
        >>> [found.word for found in causes([low, nan])]
        ['nan']
    """
    findings = list(findings)
    words = {found.word for found in findings if found.severity != "NOTE"}
    swallowed: set[str] = set()
    for word in words:
        others = set(SWALLOWS.get(word, ())) & words
        # of two that name each other, the one that stands first in the table is the cause
        order = list(SWALLOWS)
        swallowed |= {
            other for other in others if word not in SWALLOWS.get(other, ()) or order.index(word) < order.index(other)
        }
    order = {"FAULT": 0, "LIKELY": 1, "NOTE": 2}
    return sorted((found for found in findings if found.word not in swallowed), key=lambda found: order[found.severity])
