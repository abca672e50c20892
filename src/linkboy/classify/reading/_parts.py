"""Training, validation and test parts: classes agreed between them, equal texts on one side."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linkboy._checks import did_you_mean
from linkboy._reading import read_lines
from linkboy._report import Block, Printable, Table, format_count, format_percent, listed, plural
from linkboy.classify.reading._findings import value_key
from linkboy.classify.reading._proportions import most_different
from linkboy.classify.reading.labelled import LabelledTexts, label_counts

PARTS = ("train", "valid", "test")
HELD_OUT = 0.1
MOST_CLASS_NAMES = 1 << 24  # bytes of a file with their names


@dataclasses.dataclass(frozen=True)
class Parts(Printable):
    """The three parts of a labelled data set.

    Attributes:
        class_names: the classes; a target is an index into them.
        numbered: whether a label may be the number of its class, because the names came from elsewhere.
        texts: the rows of `train`, `valid` and `test`.
        targets: for each part `(rows,)` int64, or `(rows, C)` bool where a text may have several labels.
        notes: what a reader should know: how the data was split, and texts that occur in two parts or with two labels.
        overlap: `(rows,)` bool for `valid` and `test`: whether the text also occurs in the training part.
    """

    class_names: Sequence[str]
    numbered: bool
    texts: Mapping[str, LabelledTexts]
    targets: Mapping[str, NDArray[Any]]
    notes: tuple[str, ...]
    overlap: Mapping[str, NDArray[np.bool_]]

    @property
    def several(self) -> bool:
        """Whether a text may have any number of labels."""
        return self.targets["train"].ndim == 2

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """The training rows of each class."""
        train = self.targets["train"]
        return train.sum(0) if self.several else np.bincount(train, minlength=len(self.class_names))

    def _blocks(self) -> Iterator[Block]:
        rows = []
        for part in PARTS:
            lengths = [len(text) for text in self.texts[part].texts]
            rows.append(
                (part, format_count(len(lengths)), int(np.median(lengths)), max(lengths), self.texts[part].source)
            )
        yield Table(("part", "rows", "median length", "longest", "source"), rows)
        counts = self.class_counts
        least, most = int(counts.argmin()), int(counts.argmax())
        what = plural(len(counts), "label") if self.several else f"{len(counts)} classes"
        mean = f"{counts.sum() / len(self.targets['train']):.2g}"
        each = f"; {mean} {'label' if mean == '1' else 'labels'} a row" if self.several else ""
        yield (
            f"{what}, {format_count(int(counts[least]))} ({self.class_names[least]}) to "
            f"{format_count(int(counts[most]))} ({self.class_names[most]}) training rows each{each}"
        )
        yield "\n".join(self.notes)
        told: set[str] = set()
        for texts in self.texts.values():
            if texts.notes and texts.source not in told:
                yield from texts.reading_blocks()
            told.add(texts.source)
            yield from texts.skipped_blocks()


def make_parts(
    train: LabelledTexts,
    *,
    valid: LabelledTexts | None = None,
    test: LabelledTexts | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> Parts:
    """Determine the classes and cut the parts that were not given from the training data.

    A part that is missing takes a tenth of each class, at least one text where the class has three or more; equal
    texts go to one side together, and a class with one or two texts stays in training.

    Args:
        train: the training rows.
        valid: the validation rows; cut from `train` by default.
        test: the test rows; cut from `train` by default.
        class_names: names of the classes where the labels are numbers, in their order.
        seed: decides the split.

    Raises:
        ValueError: there is one class only, a label looks like a misspelt class of the training data, no label of a part is
            among them, or there are too few rows to split.
    """
    classes = _class_names(train, class_names)
    if len(classes) > max(10, len(train) // 2) and class_names is None:
        raise ValueError(
            f"{train.source} has {len(classes)} different labels in {len(train)} rows; if the label is in another "
            "column, name it as label_column=..."
        )
    _check_weights({"training": train, "validation": valid})
    notes: list[str] = []
    given = {"valid": valid, "test": test}
    _check_alike(train, given)
    numbered = class_names is not None
    if train.several:
        return _parts_with_several(train, given, classes, seed, notes, numbered=numbered)
    targets = {"train": targets_of(train, classes, "training", numbered=numbered)}
    if len(np.unique(targets["train"])) < 2:
        only = classes[int(targets["train"][0])]
        raise ValueError(
            f"{train.source}: training needs rows of at least two classes, got {plural(len(train), 'row')} of {only!r} only"
        )
    texts = _cut(train, given, targets["train"], seed, notes)
    for part, rows in given.items():
        if rows is not None:
            texts[part], left_out = _without_other_classes(rows, classes, part, numbered=numbered)
            notes += left_out
    targets = {part: targets_of(texts[part], classes, part, numbered=numbered) for part in PARTS}
    return _with_overlap(classes, numbered, texts, targets, notes)


def parts_of_fold(
    rows: LabelledTexts, parts: Parts, learned: NDArray[np.int64], judged: NDArray[np.int64], *, seed: int
) -> Parts:
    """Return the parts of a fold: a validation part is cut from the rows to learn from, and the rows to judge are the test part.

    The classes are those of the rows to learn from; the target of a row of another class is -1.

    Args:
        rows: all rows.
        parts: what they are part of, with the classes.
        learned: the rows to learn from.
        judged: the others.
        seed: decides the cut.
    """
    names, numbered, train, notes = parts.class_names, parts.numbered, rows.take(learned.tolist()), list[str]()
    targets = targets_of(train, names, "train", numbered=numbered)
    texts = _cut(train, {"valid": None, "test": rows}, targets, seed, notes) | {"test": rows.take(judged.tolist())}
    held, place = np.unique(targets), np.full(len(names), -1)
    place[held] = np.arange(len(held))
    by_part = {part: place[targets_of(texts[part], names, part, numbered=numbered)] for part in PARTS}
    return _with_overlap([names[int(number)] for number in held], numbered, texts, by_part, notes)


def _cut(
    train: LabelledTexts,
    given: Mapping[str, LabelledTexts | None],
    strata: NDArray[np.int64],
    seed: int,
    notes: list[str],
) -> dict[str, LabelledTexts]:
    """Return the training part, and the parts that were not given, cut from it: a tenth of each stratum."""
    missing = [part for part in ("valid", "test") if given[part] is None]
    texts: dict[str, LabelledTexts] = {"train": train}
    if missing:
        side = _split(keys_of(train.texts), strata, len(missing), seed)
        new = side.max() == len(missing)
        if not new:
            side = _split(np.arange(len(train)), strata, len(missing), seed)
        for number, part in enumerate(missing, 1):
            texts[part] = train.take(np.flatnonzero(side == number).tolist())
            if not len(texts[part]):
                raise ValueError(
                    f"{train.source} has too few rows to cut a {part} part from ({plural(len(train), 'row')}, and no class with "
                    f"more than {len(missing)}); pass one as {part}=..."
                )
        texts["train"] = dataclasses.replace(train.take(np.flatnonzero(side == 0).tolist()), skipped=train.skipped)
        notes.append(f"{' and '.join(missing)}: a tenth of each class held out of the training file, seed {seed}")
        if not new:
            notes.append(
                f"no class has enough different texts to hold some out, so {' and '.join(missing)} repeat texts of training: "
                "their figures do not say how new texts are classified"
            )
    return texts


def _with_overlap(
    classes: Sequence[str],
    numbered: bool,
    texts: Mapping[str, LabelledTexts],
    targets: Mapping[str, NDArray[Any]],
    notes: list[str],
) -> Parts:
    keys = {part: keys_of(texts[part].texts) for part in PARTS}
    overlap = {part: np.isin(keys[part], keys["train"]) for part in ("valid", "test")}
    notes += _overlaps(texts["train"], keys, overlap)
    if targets["train"].ndim == 1:
        notes += _test_proportions(classes, targets)
    return Parts(classes, numbered, {part: texts[part] for part in PARTS}, targets, tuple(notes), overlap)


def _check_alike(train: LabelledTexts, given: Mapping[str, LabelledTexts | None]) -> None:
    """Refuse parts of which one has several labels a text and the other one label."""
    for part, rows in given.items():
        if rows is not None and rows.several != train.several:
            words = {True: "any number of labels", False: "one label"}
            raise ValueError(
                f"{rows.source}: a text of the {part} part has {words[rows.several]}, and one of the training data "
                f"{words[train.several]}; read both in the same way, for instance with label_separator=..."
            )


def _parts_with_several(
    train: LabelledTexts,
    given: Mapping[str, LabelledTexts | None],
    classes: Sequence[str],
    seed: int,
    notes: list[str],
    *,
    numbered: bool,
) -> Parts:
    """Return the parts of rows that may have several labels; a label without training rows is left out.

    A tenth of the rows is cut by the rarest label of each, so that rare labels come into all parts.
    """
    everything = memberships_of(train, classes, numbered=numbered)[0]
    if (everything.sum(1) == 1).all():
        raise ValueError(
            f"{train.source}: every row has exactly one label, so a text has one class; leave label_separator out, or write "
            "the labels as text instead of lists"
        )
    texts = _cut(train, given, strata_of(everything), seed, notes)
    for part, rows in given.items():
        if rows is not None:
            texts[part] = rows
    targets = {}
    for part in PARTS:
        targets[part], unknown = memberships_of(texts[part], classes, numbered=numbered)
        notes += unknown_labels(part, unknown, classes)
    held = targets["train"].any(0)
    if not held.any():
        raise ValueError(f"{train.source}: no row of the training part has a label; training needs rows with labels")
    if not held.all():
        names = [name for name, kept in zip(classes, held, strict=True) if not kept]
        notes.append(
            f"{plural(len(names), 'label')} without a training row ({listed(map(repr, names))}) left out; such a label cannot "
            "be learned"
        )
        classes = [name for name, kept in zip(classes, held, strict=True) if kept]
        targets = {part: table[:, held] for part, table in targets.items()}
    always = [name for name, all_ in zip(classes, targets["train"].all(0), strict=True) if all_]
    if len(always) == len(classes):
        raise ValueError(
            f"{train.source}: every training row has the label{'s' * (len(always) > 1)} {listed(map(repr, always))}, so there is "
            "nothing to tell apart; add rows without"
        )
    if always:
        notes.append(f"every training row has {listed(map(repr, always))}, which is therefore given to every text")
    return _with_overlap(classes, numbered, texts, targets, notes)


def strata_of(table: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rarest label of each row of `(rows, C)`, and `C` for rows without any."""
    strata = np.where(table, table.sum(0), len(table) + 1).argmin(1)
    strata[~table.any(1)] = table.shape[1]
    return strata


def memberships_of(
    rows: LabelledTexts, class_names: Sequence[str], *, numbered: bool = False
) -> tuple[NDArray[np.bool_], Counter[str]]:
    """Return `(rows, C)`, whether each row has each label, and how often rows have a label that is not among the classes.

    Args:
        rows: texts with any number of labels.
        class_names: the classes.
        numbered: whether a label may also be the number of its class.
    """
    number_of = numbers_of(class_names, numbered=numbered)
    table, unknown = np.zeros((len(rows), len(class_names)), np.bool_), Counter[str]()
    for row, labels in enumerate(rows.labels):
        for label in labels:
            number = number_of(label)
            if number is None:
                unknown[label] += 1
            else:
                table[row, number] = True
    return table, unknown


def unknown_labels(part: str, unknown: Mapping[str, int], class_names: Sequence[str]) -> list[str]:
    """Return what to say about labels that are not among the classes."""
    if not unknown:
        return []
    names = listed(
        f"{name!r} of {plural(rows, 'row')}{did_you_mean(name, class_names)}" for name, rows in unknown.items()
    )
    return [f"{part}: {plural(len(unknown), 'label')} that the training data does not have left out ({names})"]


def _without_other_classes(
    rows: LabelledTexts, class_names: Sequence[str], part: str, *, numbered: bool
) -> tuple[LabelledTexts, list[str]]:
    """Return the rows of classes that training has, and what to say about the others.

    A label that looks like a misspelt class stays, and is refused where targets are looked up; so do rows of which none is of
    a class of the training data.
    """
    number_of = numbers_of(class_names, numbered=numbered)
    unknown = {label for label in set(rows.labels) if number_of(label) is None and not did_you_mean(label, class_names)}
    kept = [row for row, label in enumerate(rows.labels) if label not in unknown]
    if not unknown or not kept:
        return rows, []
    gone = len(rows) - len(kept)
    said = (
        f"{part}: {plural(gone, 'row')} of {plural(len(unknown), 'class', 'classes')} that the training data does not have "
        f"({listed(map(repr, sorted(unknown)))}) left out"
    )
    return dataclasses.replace(rows.take(kept), skipped=rows.skipped), [said]


def _check_weights(parts: Mapping[str, LabelledTexts | None]) -> None:
    for part, rows in parts.items():
        if rows is not None and rows.weights is not None and not sum(rows.weights):
            raise ValueError(f"{rows.source}: the weights of the {part} rows are all 0; at least one must be more")


def _class_names(train: LabelledTexts, given: Sequence[str] | None) -> list[str]:
    if given is not None:
        return list(given)
    labels = set(label_counts(train.labels))
    if not labels:
        raise ValueError(f"{train.source}: no row has a label; training needs rows with labels")
    if all(re.fullmatch(r"-?[0-9]{1,18}", value_key(label)) for label in labels):
        return sorted(labels, key=lambda label: int(value_key(label)))
    return sorted(labels)


def targets_of(
    rows: LabelledTexts, class_names: Sequence[str], part: str, *, numbered: bool = False
) -> NDArray[np.int64]:
    """Return the class of each row as an index into `class_names`.

    Args:
        rows: the labelled texts.
        class_names: the classes.
        part: what to call the rows in a message.
        numbered: whether a label may also be the number of its class.

    Raises:
        ValueError: a label is not among the classes; the message names its line.
    """
    if rows.several:
        raise ValueError(
            f"{rows.source}: a text of the {part} part may have several labels, and the classifier chooses one class; read "
            "the file without label_separator"
        )
    number_of = numbers_of(class_names, numbered=numbered)
    targets = np.empty(len(rows), np.int64)
    for row, label in enumerate(rows.labels):
        number = number_of(label)
        if number is None:
            shown = ", ".join(map(repr, class_names[:5])) + (", ..." if len(class_names) > 5 else "")
            raise ValueError(
                f"{rows.source} line {rows.lines[row]}: the label {label!r} of the {part} part is not among the "
                f"{len(class_names)} classes ({shown}){did_you_mean(label, class_names)}; correct the label or leave the row out"
            )
        targets[row] = number
    return targets


def numbers_of(class_names: Sequence[str], *, numbered: bool) -> Callable[[str], int | None]:
    """Return a function from a label to the number of its class, `None` where there is no such class."""
    index = {str(number): number for number in range(len(class_names))} if numbered else {}
    index |= {name: number for number, name in enumerate(class_names)}
    by_value = {value_key(name): number for number, name in enumerate(class_names)}

    def number_of(label: str) -> int | None:
        number = index.get(label)
        return by_value.get(value_key(label)) if number is None else number  # 1.0 is the class 1, TRUE the class true

    return number_of


def _split(keys: NDArray[np.int64], targets: NDArray[np.int64], parts: int, seed: int) -> NDArray[np.int64]:
    """Return 0 (training) or the number of a held-out part for each row; rows of one key come into one part."""
    _, first_seen, number = np.unique(keys, return_index=True, return_inverse=True)
    group, leaders = first_seen[number], np.sort(first_seen)
    generator = np.random.default_rng(seed)
    side_of_leader = np.zeros(len(keys), np.int64)
    for target in np.unique(targets):
        members = generator.permutation(leaders[targets[leaders] == target])
        held_out = max(round(HELD_OUT * len(members)), 1 if len(members) > parts else 0)
        for part in range(parts):
            side_of_leader[members[part * held_out : (part + 1) * held_out]] = part + 1
    return side_of_leader[group]


def keys_of(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return a number for each text, the same for equal texts only: a set of millions of strings would fill the memory.

    Two of five million different texts get the same 64-bit hash with a probability below one in a million.
    """
    return np.fromiter(map(hash, texts), np.int64, len(texts))


def _occur(count: int) -> str:
    return "occurs" if count == 1 else "occur"


def _overlaps(
    train: LabelledTexts,
    keys: Mapping[str, NDArray[np.int64]],
    overlap: Mapping[str, NDArray[np.bool_]],
) -> Iterator[str]:
    """Yield what to know about texts that occur in two parts, more than once, or with two labels."""
    in_both = {part: int(rows.sum()) for part, rows in overlap.items()}
    for part, shared in in_both.items():
        if shared:
            yield (
                f"{plural(shared, f'{part} text')} ({format_percent(shared / len(keys[part]))}) also "
                f"{_occur(shared)} in training"
            )
    shared = int(np.isin(keys["test"], keys["valid"]).sum())
    if shared:
        yield f"{plural(shared, 'test text')} ({format_percent(shared / len(keys['test']))}) also {_occur(shared)} in valid"
    first = train.labels[0]
    if len(train) > 20 and train.lines[0] == 1 and list(train.labels).count(first) == 1:
        yield f"the label of the first line, {first!r}, occurs nowhere else: if that line is a header, name the text column"
    distinct, number = np.unique(keys["train"], return_inverse=True)
    repeated = len(train) - len(distinct)
    if repeated:
        yield (
            f"{plural(repeated, 'training row')} ({format_percent(repeated / len(train))}) "
            f"{'repeats' if repeated == 1 else 'repeat'} a text"
        )
    _, label = np.unique(np.fromiter(map(hash, train.labels), np.int64, len(train)), return_inverse=True)
    pairs = np.unique(number * (label.max() + 1) + label) // (label.max() + 1)
    doubtful = int((np.unique(pairs, return_counts=True)[1] > 1).sum())
    if doubtful:
        yield (
            f"{plural(doubtful, 'training text')} {_occur(doubtful)} with "
            f"{'other labels' if train.several else 'more than one label'}"
        )


def _test_proportions(classes: Sequence[str], targets: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """Yield what to know about a test part whose classes have other proportions than the training part."""
    known = {
        part: targets[part][targets[part] >= 0] for part in ("train", "test")
    }  # a fold may lack a class of its test part
    counts = {part: np.bincount(rows, minlength=len(classes)) for part, rows in known.items()}
    different = most_different(counts["train"], counts["test"])
    if different is not None:
        most, there, here = different
        yield (
            f"test has other proportions of classes than training: {classes[most]!r} is {format_percent(here)} of it and "
            f"{format_percent(there)} of training; figures and probabilities on it depend on that"
        )


def read_class_names(path: str | Path) -> list[str]:
    """Read one class name per line, in the order of the numbers that the labels are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, empty, or names a class twice.
    """
    try:
        lines = read_lines(path, MOST_CLASS_NAMES)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path} with class names") from None
    names = [line.strip() for line in lines if line.strip()]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated or not names:
        raise ValueError(
            f"{path} must name each class once, got " + (f"{repeated[0]!r} twice" if repeated else "nothing")
        )
    return names
