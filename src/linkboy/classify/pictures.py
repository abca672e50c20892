"""The pictures of a run: learning curves and the confusion matrix, as PNG bytes."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Fonts with Chinese, Japanese and Korean glyphs, as they are named on Linux, macOS and Windows.
_WIDE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC",
    "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Arial Unicode MS", "Droid Sans Fallback",
)  # fmt: skip


def curves_png(rows: Sequence[Mapping[str, Any]], metric: str, best_epoch: int | None = None) -> bytes:
    """Draw loss and validation metric over the epochs.

    Args:
        rows: one mapping per epoch with `epoch`, `train_loss`, `val_loss` and the metric.
        metric: key of the validation metric.
        best_epoch: the epoch whose weights were kept.
    """
    epochs = [row["epoch"] for row in rows]
    with _figure(9, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        left.plot(epochs, [row["train_loss"] for row in rows], "o-", label="training")
        left.plot(epochs, [row["val_loss"] for row in rows], "o-", label="validation")
        left.set(title="loss", xlabel="epoch")
        left.legend()
        right.plot(epochs, [100 * row[metric] for row in rows], "o-", color="tab:green", label="validation")
        right.set(title=f"{metric.replace('_', ' ')} (%)", xlabel="epoch")
        if best_epoch is not None:
            right.axvline(best_epoch, color="gray", linestyle=":", label=f"kept: epoch {best_epoch}")
        right.legend()
        for axes in (left, right):
            axes.grid(alpha=0.3)
            axes.xaxis.get_major_locator().set_params(integer=True)
        return _png(figure)


def confusion_png(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> bytes:
    """Draw the confusion matrix, each row as shares of its true class; classes no font can write show their number."""
    counts = np.array(confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    classes = len(class_names)
    side = min(14.0, 3.5 + 0.3 * classes)
    with _figure(side + 1, side) as figure:
        axes = figure.subplots()
        picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(picture, label="share of the true class", shrink=0.5)
        names = _drawable(class_names)
        size = 9 if classes <= 40 else 6 if classes <= 80 else 4
        axes.set_xticks(range(classes), names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(classes), names, fontsize=size, parse_math=False)
        axes.set(xlabel="predicted", ylabel="true")
        if classes <= 20:
            for (row, column), share in np.ndenumerate(shares):
                if counts[row, column]:
                    color = "white" if share > 0.5 else "black"
                    axes.text(
                        column, row, f"{counts[row, column]:.0f}", ha="center", va="center", fontsize=7, color=color
                    )
        return _png(figure)


@contextmanager
def _figure(width: float, height: float) -> Iterator["Figure"]:
    # A Figure of its own, without pyplot: no window, no global state, nothing to close.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.family": _families()}):
        yield Figure(figsize=(width, height), layout="constrained")


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _families() -> list[str]:
    """Return the font that matplotlib brings, and behind it one for Chinese where the system has one."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *[name for name in _WIDE_FONTS if name in installed][:1]]


def _drawable(names: Sequence[str]) -> list[str]:
    """Return the names, or where the fonts at hand lack a glyph the numbers of the classes, so no box is ever drawn."""
    from matplotlib import font_manager

    fonts = [font_manager.get_font(font_manager.findfont(family)) for family in _families()]
    known = {c for c in set("".join(names)) if any(font.get_char_index(ord(c)) for font in fonts)}
    shortened = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    return [name if set(name) <= known | {"…"} else str(number) for number, name in enumerate(shortened)]
