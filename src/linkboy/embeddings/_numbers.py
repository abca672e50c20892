"""Decimal numbers of many rows at once: polars where every row is plain, Python's `float` for a row that is not."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

_CHARACTERS = frozenset(b"0123456789+-.eEinfatyINFATY")  # of decimal numbers, nan, inf and infinity


def is_number(token: bytes) -> bool:
    """Return whether a token is a number as a vectors file writes one: no spaces, tabs or underscores, unlike `float`.

    Examples:
        >>> [is_number(token) for token in (b"-1.5e-3", b"nan", b"1_000", b"", b"0.1\\t")]
        [True, True, False, False, False]
    """
    if not _CHARACTERS.issuperset(token):
        return False
    try:
        float(token)
    except ValueError:
        return False
    return True


def parse_rows(tails: list[bytes], dim: int, separator: bytes = b" ") -> tuple[NDArray[np.float64], dict[int, str]]:
    """Read rows of `dim` numbers, separated by one character.

    Args:
        tails: the rows; each must hold `dim - 1` separators, because polars fills a short row with gaps.
        dim: numbers per row.
        separator: what stands between two numbers.

    Returns:
        `(rows, dim)` float64, equal to `float(token)` bit for bit, and for each bad row its position and what is wrong.

    Examples:
        >>> parse_rows([b"1 2.5", b"3 x"], 2)
        (array([[1. , 2.5],
                [nan, nan]]), {1: "'x' is not a number"})
    """
    # Read as Float64: polars rounds a long decimal straight to Float32, which differs from float() cast to float32.
    schema = {str(column): pl.Float64 for column in range(dim)}
    try:
        frame = pl.read_csv(
            b"\n".join(tails), has_header=False, separator=separator.decode(), quote_char=None, schema=schema
        )
    except pl.exceptions.PolarsError:
        return _row_by_row(tails, dim, separator)
    if len(frame) != len(tails) or frame.null_count().sum_horizontal().item():
        return _row_by_row(tails, dim, separator)
    return frame.to_numpy(), {}


def _row_by_row(tails: list[bytes], dim: int, separator: bytes) -> tuple[NDArray[np.float64], dict[int, str]]:
    values = np.full((len(tails), dim), np.nan)
    bad: dict[int, str] = {}
    for position, tail in enumerate(tails):
        tokens = tail.split(separator)
        wrong = next((token for token in tokens if not is_number(token)), None)
        if wrong is None:
            values[position] = [float(token) for token in tokens]
        else:
            bad[position] = f"{wrong[:40].decode('utf-8', 'replace')!r} is not a number"
    return values, bad
