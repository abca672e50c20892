"""Figures of matplotlib, which is an optional package."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of that size in inches; it has no window and is not part of any global state.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "a plot needs the package matplotlib, which is not installed; run: pip install 'linkboy[plots]'",
            name="matplotlib",
        ) from None
    return Figure(figsize=(width, height), layout="constrained")
