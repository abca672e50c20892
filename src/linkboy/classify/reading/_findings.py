"""What a reader should know about labelled texts before training on them: spellings of labels, small classes, odd texts."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from linkboy._report import format_percent, listed, plural
from linkboy.classify.reading._sentences import say
from linkboy.text._scripts import is_unspaced

SMALL = 5  # rows of a class
_LOOKED_AT = 20_000  # texts, drawn evenly, where a share is enough
_PLACEHOLDERS = frozenset(
    (
        "nan",
        "null",
        "none",
        "n/a",
        "#n/a",
        "na",
        "nil",
        "-",
        "--",
        "?",
        ".",
        "...",
        "#name?",
        "#ref!",
        "#value!",
        "\\n",
        "(null)",
        "<na>",
        "[deleted]",
        "[removed]",
        "undefined",
    )
)
_TRUTH = ("true", "false")
_MISSING = frozenset(  # `none` may well be a class, and so may `Na`; R writes NA, SAS a dot, MySQL \N, Excel the rest
    (
        "nan",
        "null",
        "n/a",
        "#n/a",
        "<na>",
        "nat",
        "None",
        "NA",
        ".",
        "\\n",
        "(null)",
        "<null>",
        "[null]",
        "#ref!",
        "#name?",
        "#value!",
        "#div/0!",
        "#num!",
        "#null!",
    )
)
_WHOLE = re.compile(r"\+?(-?\d+)(\.0*)?([eE][-+]?0+)?")
# Signs and letters that look like one of ASCII, of Cyrillic and Greek as far as they are the same to see.
_ALIKE = str.maketrans("−–—‐‑‒’‘“”`´аеорсухіјѕкмнтвοαρυικντχ", "------''\"\"''aeopcyxijskmhtboapuikvtx")
_AROUND = "'\""  # quotes that some rows may have around a label
_FRACTION = re.compile(r"-?\d*\.\d*[1-9]\d*")
_WORD_TAG = re.compile(r"O|[BIESLUM]-\S+")  # where names and the like begin, go on and end
_C1 = re.compile("[\u0080-\u0084\u0086-\u009f]")  # \x85 ends lines on some machines
# What UTF-8 looks like when its bytes are read as cp1252 or Latin-1: a lead byte and a byte that goes on.
_MOJIBAKE = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
)


def value_key(label: str) -> str:
    """Return a label, where it is a number or a truth value in one spelling, so that `1` and `1.0` are one class.

    Examples:
        >>> value_key("1.0"), value_key("1"), value_key("1.5"), value_key("True"), value_key("pos")
        ('1', '1', '1.5', 'true', 'pos')
        >>> value_key("+1"), value_key("1."), value_key("1.000e+00")
        ('1', '1', '1')
    """
    match = _WHOLE.fullmatch(label)
    if match:
        return "0" if match[1] == "-0" else match[1]
    return label.lower() if label.lower() in _TRUTH else label


def spellings(labels: Iterable[str]) -> dict[str, str]:
    """Return the labels that get another spelling, with it: of one whole number the shortest, of truth values that of JSON.

    Spreadsheets write `TRUE`, Python `True` and JSON `true`; where other labels stand beside them, they are words.

    Examples:
        >>> spellings(["1", "1.0", "2.0"]), spellings(["True", "False"]), spellings(["True", "other"])
        ({'1.0': '1'}, {'False': 'false', 'True': 'true'}, {})
    """
    groups: dict[str, list[str]] = {}
    truth = all(label.lower() in _TRUTH for label in labels)
    for label in sorted(labels):
        groups.setdefault(value_key(label) if truth or label.lower() not in _TRUTH else label, []).append(label)
    one_of = {label: key if key in _TRUTH else min(group, key=len) for key, group in groups.items() for label in group}
    return {label: one for label, one in one_of.items() if label != one}


def label_findings(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield what to know about the labels.

    Args:
        counts: the rows of each label.
    """
    groups: dict[str, list[str]] = {}
    for label in counts:
        groups.setdefault(_seen(label), []).append(label)
    for group in groups.values():
        if len(group) > 1:
            yield say("spelling", names=_quoted(group), count=len(group))
    missing = next((label for label in counts if label in _MISSING or label.lower() in _MISSING), None)
    if missing is not None:
        yield say("missing labels", example=missing)
    if counts and all(_is_enclosed(label) for label in counts):
        yield say("enclosed", example=next(iter(counts)))
    fraction = next((label for label in counts if _FRACTION.fullmatch(label)), None)
    if fraction is not None:
        yield say("fractions", example=fraction)
    tag = next((label for label in counts if label.startswith("B-")), None)
    if tag is not None and all(_WORD_TAG.fullmatch(label) for label in counts):
        yield say("word tags", example=tag)
    small = [label for label, count in counts.items() if count < SMALL]
    if small:
        yield say("small classes", classes=_are(len(small), "class", "classes"), names=_quoted(small))


def _is_enclosed(label: str) -> bool:
    """Return whether a label is in quotes, or ends with a bracket that is not opened in it."""
    if len(label) < 2:
        return False
    around = label[0] + label[-1]
    unopened = label[-1] in ")]}" and not {*"([{"} & {*label}
    return (
        unopened or (label.startswith('="') and label.endswith('"')) or around in ("''", '""', "``", "“”", "‘’", "「」")
    )


def _seen(label: str) -> str:
    """Return what a reader takes a label for: without case, width, spaces, quotes around it, and characters that are not seen or
    look like others."""
    plain = unicodedata.normalize("NFKC", label).casefold().translate(_ALIKE).strip().strip(_AROUND)
    return "".join(each for each in plain if not each.isspace() and unicodedata.category(each) != "Cf")


def text_findings(texts: Sequence[str], labels: Sequence[Any]) -> Iterator[str]:
    """Yield what to know about the texts."""
    odd = [text for text in texts if len(text) < 12 and text.lower() in _PLACEHOLDERS]
    if odd:
        yield say("placeholders", texts=_have(len(odd)), example=odd[0])
    foreign = [text for text in texts if not text.isascii()]
    lost = sum("\ufffd" in text for text in foreign)
    if lost:
        yield say("replacement", texts=_have(lost))
    garbled = [text for text in foreign if _is_mojibake(text)]
    if garbled:
        yield say("mojibake", texts=_have(len(garbled)), example=garbled[0][:40])
    controls = [text for text in foreign if _C1.search(text) and not _is_mojibake(text)]
    if controls:
        yield say("controls", texts=_have(len(controls)), example=controls[0][:40])
    step = max(1, len(texts) // _LOOKED_AT)
    if all(isinstance(label, str) for label in labels[:1]):
        yield from _own_label(texts[::step], labels[::step])


def _is_mojibake(text: str) -> bool:
    found = _MOJIBAKE.search(text)
    if found is None:
        return False
    for codec in ("cp1252", "latin-1"):
        try:
            return len(text.encode(codec).decode()) < len(text)
        except UnicodeError:
            continue
    return False


def _own_label(texts: Sequence[str], labels: Sequence[str]) -> Iterator[str]:
    """Yield a sentence where the label stands in its text, and much more often than the label of another text does."""
    finders = {label: found for label in set(labels) if (found := _finder(label)) is not None}
    if len(finders) < 2:
        return
    rows = [(text.casefold(), label) for text, label in zip(texts, labels, strict=True) if label in finders]
    names = sorted(finders)
    follower = dict(zip(names, [*names[1:], names[0]], strict=True))
    own = sum(finders[label](text) for text, label in rows)
    other = sum(finders[follower[label]](text) for text, label in rows)
    if own > 0.3 * len(texts) and own > 3 * other:
        yield say("names its label", share=format_percent(own / len(texts)))


def _finder(label: str) -> Callable[[str], bool] | None:
    """Return a function that says whether a text holds the label as a word; none for one too short to tell."""
    word = label.casefold()
    if any(map(is_unspaced, word)):
        return (lambda text: word in text) if len(word) > 1 else None
    if len(word) < 3 or not any(map(str.isalpha, word)):
        return None
    pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
    return lambda text: word in text and pattern.search(text) is not None


def duplicate_findings(texts: Sequence[str], labels: Sequence[Any]) -> Iterator[str]:
    """Yield how many rows repeat a text, and how many texts have more than one label."""
    distinct, number = np.unique(np.fromiter(map(hash, texts), np.int64, len(texts)), return_inverse=True)
    repeated = len(texts) - len(distinct)
    if not repeated:
        return
    yield say("duplicates", rows=plural(repeated, "row") + (" repeats" if repeated == 1 else " repeat"))
    labelled = np.unique(np.stack([number, np.fromiter(map(hash, labels), np.int64, len(labels))]), axis=1)
    doubtful = int((np.bincount(labelled[0]) > 1).sum())
    if doubtful:
        yield say("two labels", texts=plural(doubtful, "text") + (" occurs" if doubtful == 1 else " occur"))


def repeated_header_finding(lines: Sequence[int]) -> Iterator[str]:
    """Yield what to know about rows that were left out because they are the header once more."""
    if lines:
        rows = plural(len(lines), "row") + (" repeats" if len(lines) == 1 else " repeat")
        more = ", ..." if len(lines) > 3 else ""
        where = f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines[:3]))}{more}"
        yield say("header again", rows=rows, are="is" if len(lines) == 1 else "are", lines=where)


def encoding_finding(reasons: Sequence[str], encoding: str) -> Iterator[str]:
    """Yield what to know where rows were skipped because they are in another encoding."""
    wrong = [reason for reason in reasons if f"is not {encoding.upper()} (0x" in reason]
    likely = Counter(match[1] for reason in wrong if (match := re.search(r"with encoding='([\w-]+)'", reason)))
    if likely:
        name, count = likely.most_common(1)[0]
        rows = plural(count, "skipped row") + (" is" if count == 1 else " are")
        yield say("other encoding", rows=rows, encoding=encoding.upper(), likely=name)


def _quoted(names: Sequence[str]) -> str:
    return listed(map(repr, sorted(names)))


def _are(count: int, noun: str, nouns: str) -> str:
    return f"{plural(count, noun, nouns)} {'has' if count == 1 else 'have'}"


def _have(count: int) -> str:
    return f"{plural(count, 'text')} {'holds' if count == 1 else 'hold'}"
