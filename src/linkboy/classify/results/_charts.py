"""Charts as inline SVG: sharp at any size, readable by a screen reader, coloured by the page's style sheet."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from linkboy._language import Language, translate, translate_filled
from linkboy._report import display_width, plural
from linkboy.classify.judging._reliability import Reliability
from linkboy.classify.judging.decisions import DecisionCurve

WIDTH, HEIGHT = 420, 270  # of a chart, in units of which a phone shows about 350 and a desktop 500
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 40
MOST_CLASSES_DRAWN = 150

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #5c6066; } .title { font-size: 15px; font-weight: 600; fill: #1b1d20; }
.grid { stroke: #deded7; } .mark { stroke: #5c6066; stroke-dasharray: 4 4; }
.line { fill: none; stroke-width: 2; } .line.s0 { stroke: #1d5db5; } .line.s1 { stroke: #a44a05; }
.dot.s0 { fill: #1d5db5; } .dot.s1 { fill: #a44a05; } tspan.s0 { fill: #1d5db5; } tspan.s1 { fill: #a44a05; }
.frame { fill: #fff; stroke: #deded7; } .hit { fill: #1d5db5; } .miss { fill: #b85408; } .on-dark { fill: #fff; }
"""  # of charts in files of their own: plain colours, since few viewers know custom properties
TITLE_HEIGHT = 26

COLOURS = {"training": "s0", "validation": "s1"}  # classes of the style sheet
Scale = Callable[[float], float]


def line_chart(
    title: str,
    epochs: Sequence[int],
    series: Mapping[str, Sequence[float]],
    *,
    percent: bool = False,
    mark: int | None = None,
    lang: Language = "en",
) -> Markup:
    """Draw values over epochs, a line for `"training"`, one for `"validation"`, and a dashed line at the epoch `mark`."""
    values = [value for line in series.values() for value in line if math.isfinite(value)]
    ticks = _ticks(min(values, default=0.0), max(values, default=1.0))
    low, high, first, last = ticks[0], ticks[-1], epochs[0], max(epochs[-1], epochs[0] + 1)

    def x(epoch: float) -> float:
        return _scaled(epoch, first, last, LEFT + 8, WIDTH - RIGHT - 8)

    def y(value: float) -> float:
        return _scaled(value, low, high, HEIGHT - BOTTOM, TOP)

    parts = [_grid(ticks, y, percent=percent), _epochs_axis(epochs, x, lang)]
    if mark is not None:
        line = '<line class="mark" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>'
        parts.append(Markup(line).format(x(mark), TOP, HEIGHT - BOTTOM))
    for name, line in series.items():
        points = [(x(epoch), y(value)) for epoch, value in zip(epochs, line, strict=True) if math.isfinite(value)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(COLOURS[name], path))
        dot = '<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>'
        parts += [Markup(dot).format(COLOURS[name], *point) for point in points]
    said = ", ".join(f"{translate(name, lang)} {line[0]:.4g} → {line[-1]:.4g}" for name, line in series.items())
    return _svg(WIDTH, HEIGHT, f"{translate(title, lang)}: {said}", parts)


def learning_curves(
    rows: Sequence[Mapping[str, Any]], metric: str, best_epoch: int | None = None, lang: Language = "en"
) -> list[tuple[str, Markup, Sequence[str]]]:
    """Draw loss and validation metric over the epochs; return title, chart and legend of each.

    Args:
        rows: one mapping per epoch with `epoch`, `train_loss`, `val_loss` and the metric.
        metric: key of the validation metric.
        best_epoch: the epoch whose weights were kept.
        lang: the language of what screen readers say and of the axis.
    """
    epochs = [row["epoch"] for row in rows]
    loss = {"training": [row["train_loss"] for row in rows], "validation": [row["val_loss"] for row in rows]}
    score = {"validation": [row[metric] for row in rows]}
    name = {"macro_f1": "Macro-F1", "micro_f1": "Micro-F1", "accuracy": "Accuracy"}[metric]
    return [
        ("Loss", line_chart("Loss", epochs, loss, mark=best_epoch, lang=lang), list(loss)),
        (name, line_chart(name, epochs, score, percent=True, mark=best_epoch, lang=lang), list(score)),
    ]


def as_file(charts: Sequence[tuple[str, Markup, Sequence[str]]]) -> bytes:
    """Write charts side by side, each with its title and legend, as one SVG file that needs no style sheet."""
    parts, x, bottom = [Markup('<rect width="100%" height="100%" fill="#fff"/>')], 0.0, 0.0
    for title, chart, legend in charts:
        width, height = (float(size) for size in re.findall(r'viewBox="0 0 (\d+) (\d+)"', chart)[0])
        words = [Markup('<tspan class="title">{}</tspan>').format(title)]
        words += [Markup('<tspan dx="12" class="{}">{}</tspan>').format(COLOURS[name], name) for name in legend]
        parts.append(Markup('<text x="{:.0f}" y="18">{}</text>').format(x + 10, Markup("").join(words)))
        place = Markup('<svg x="{:.0f}" y="{}" width="{:.0f}" height="{:.0f}" ').format(x, TITLE_HEIGHT, width, height)
        parts.append(place + Markup(chart.removeprefix("<svg ")))
        x, bottom = x + width, max(bottom, TITLE_HEIGHT + height)
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0:.0f} {1:.0f}" width="{0:.0f}" height="{1:.0f}">'
    )
    style = Markup("<style>{}</style>").format(Markup(STYLE))
    return (head.format(x, bottom) + style + Markup("").join(parts) + Markup("</svg>\n")).encode("utf-8", "replace")


def reliability_chart(calibration: Reliability, before: Reliability | None = None, lang: Language = "en") -> Markup:
    """Draw how often each bin of probabilities is right, against the diagonal of a perfect classifier.

    Args:
        calibration: reliability of the probabilities.
        before: reliability before calibration, drawn as a second line.
        lang: the language of its words.
    """

    def x(share: float) -> float:
        return _scaled(share, 0, 1, LEFT, WIDTH - RIGHT)

    def y(share: float) -> float:
        return _scaled(share, 0, 1, HEIGHT - BOTTOM, TOP)

    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = [_grid(ticks, y, percent=True)]
    label = '<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{:.0%}</text>'
    parts += [Markup(label).format(x(t), HEIGHT - BOTTOM + 16, "end" if t == 1 else "middle", t) for t in ticks]
    most = max(b.row_count for b in calibration.bins)
    for b in calibration.bins:
        if b.row_count:
            bar = '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
            height = (HEIGHT - TOP - BOTTOM) * 0.3 * b.row_count / most
            parts.append(Markup(bar).format(x(b.low) + 0.5, HEIGHT - BOTTOM - height, x(b.high) - x(b.low) - 1, height))
    parts.append(
        Markup('<line class="ideal" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(x(0), y(0), x(1), y(1))
    )
    if before is not None:
        points = " ".join(f"{x(b.confidence):.1f},{y(b.accuracy):.1f}" for b in before.bins if b.row_count)
        parts.append(Markup('<polyline class="line s1" points="{}"/>').format(points))
    filled = [b for b in calibration.bins if b.row_count]
    path = " ".join(f"{x(b.confidence):.1f},{y(b.accuracy):.1f}" for b in filled)
    parts.append(Markup('<polyline class="line s0" points="{}"/>').format(path))
    for b in filled:
        bin_figures = f"mean confidence {b.confidence:.1%}, accuracy {b.accuracy:.1%}, {plural(b.row_count, 'row')}"
        dot = '<circle class="dot s0" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>'
        parts.append(Markup(dot).format(x(b.confidence), y(b.accuracy), translate_filled(bin_figures, lang)))
    parts.append(_axis_title(translate("probability of the predicted class", lang)))
    said = f"reliability: mean confidence {calibration.confidence:.2%}, accuracy {calibration.accuracy:.2%}"
    return _svg(WIDTH, HEIGHT, translate_filled(said, lang), parts)


def coverage_chart(curves: Sequence[DecisionCurve], lang: Language = "en") -> Markup:
    """Draw the precision of the texts that are decided against their share, a line for each curve.

    Args:
        curves: of the test part, and of the validation part.
        lang: language of what stands in the chart.
    """
    lines = [
        [(c / curve.row_count, r / c) for c, r in zip(curve.covered, curve.right, strict=True)] for curve in curves
    ]
    ticks = _ticks(min(precision for line in lines for _, precision in line), 1.0)

    def x(share: float) -> float:
        return _scaled(share, 0, 1, LEFT, WIDTH - RIGHT)

    def y(share: float) -> float:
        return _scaled(share, ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)

    parts = [_grid(ticks, y, percent=True)]
    label = '<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{:.0%}</text>'
    below = HEIGHT - BOTTOM + 16
    parts += [Markup(label).format(x(t), below, "end" if t == 1 else "middle", t) for t in (0, 0.25, 0.5, 0.75, 1)]
    for number, line in enumerate(lines):
        points = " ".join(f"{x(covered):.1f},{y(precision):.1f}" for covered, precision in line)
        parts.append(Markup('<polyline class="line s{}" points="{}"/>').format(number, points))
    parts.append(_axis_title(translate("share of the texts that are decided", lang)))
    return _svg(WIDTH, HEIGHT, translate("Precision against coverage", lang), parts)


def confusion_chart(confusion: Sequence[Sequence[int]], class_names: Sequence[str], lang: Language = "en") -> Markup:
    """Draw the confusion matrix: rows are true classes, columns predicted ones, the shade is the share of the row."""
    classes = len(class_names)
    cell = 40 if classes <= 8 else 32 if classes <= 16 else 22 if classes <= 34 else 13
    names = [_shortened(name, 18) for name in class_names]
    margin = 16 + 6.5 * max(display_width(name) for name in names)
    side = cell * classes
    size = min(12, cell - 2)
    parts: list[Markup] = []
    for row, counts in enumerate(confusion):
        total = sum(counts)
        y = margin + row * cell
        parts.append(
            Markup('<text class="name" x="{:.1f}" y="{:.1f}" text-anchor="end" font-size="{}">{}</text>').format(
                margin - 8, y + cell / 2 + size * 0.35, size, names[row]
            )
        )
        turned = '<text class="name" transform="translate({:.1f} {:.1f}) rotate(-90)" font-size="{}">{}</text>'
        x = margin + row * cell + cell / 2 + size * 0.35
        parts.append(Markup(turned).format(x, margin - 8, size, names[row]))
        parts += [
            _cell(margin + column * cell, y, cell, count, count / total, class_names[row], class_names[column], lang)
            for column, count in enumerate(counts)
            if count
        ]
    frame = '<rect class="frame" x="{0:.1f}" y="{0:.1f}" width="{1}" height="{1}"/>'
    parts.insert(0, Markup(frame).format(margin, side))
    right = sum(confusion[n][n] for n in range(classes))
    said = (
        f"confusion matrix of {classes} classes, {right} of {plural(sum(map(sum, confusion)), 'row')} on the diagonal"
    )
    return _svg(margin + side + 2, margin + side + 2, translate_filled(said, lang), parts, natural=True)


def _cell(x: float, y: float, cell: int, count: int, share: float, true: str, predicted: str, lang: Language) -> Markup:
    said = Markup("<title>{}: {} {} ({:.1%})</title>").format(
        true,
        translate("right", lang) if true == predicted else f"{translate('predicted as', lang)} {predicted}",
        count,
        share,
    )
    # An opacity in proportion would hide the rare mistakes, which are what one looks for: the square root shows them.
    rect = '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{}" height="{}" rx="2" fill-opacity="{:.3f}">{}</rect>'
    kind = "hit" if true == predicted else "miss"
    drawn = Markup(rect).format(kind, x + 0.75, y + 0.75, cell - 1.5, cell - 1.5, math.sqrt(share), said)
    if cell < 22 or len(str(count)) * 6.4 > cell - 2:
        return drawn
    tone = "on-dark" if share > 0.3 else "on-light"
    number = '<text class="count {}" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>'
    return drawn + Markup(number).format(tone, x + cell / 2, y + cell / 2 + 3.8, count)


def _svg(width: float, height: float, said: str, parts: Sequence[Markup], *, natural: bool = False) -> Markup:
    style = Markup(' style="width:{0:.0f}px;min-width:{1:.0f}px"').format(width, min(width, 640)) if natural else ""
    head = '<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}"{}>'
    return Markup(head).format(width, height, said, style) + Markup("").join(parts) + Markup("</svg>")


def _grid(ticks: Sequence[float], y: Scale, *, percent: bool) -> Markup:
    line = '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
    label = '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
    return Markup("").join(
        Markup(line).format(LEFT, WIDTH - RIGHT, y(tick), y(tick))
        + Markup(label).format(LEFT - 7, y(tick) + 4, f"{100 * tick:g}%" if percent else f"{tick:g}")
        for tick in ticks
    )


def _epochs_axis(epochs: Sequence[int], x: Scale, lang: Language) -> Markup:
    step = math.ceil(len(epochs) / 10)
    label = '<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>'
    shown = (Markup(label).format(x(epoch), HEIGHT - BOTTOM + 16, epoch) for epoch in epochs[::step])
    return Markup("").join(shown) + _axis_title(translate("epoch", lang))


def _axis_title(title: str) -> Markup:
    label = '<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>'
    return Markup(label).format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, title)


def _scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (end - start) * ((value - low) / (high - low))


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers that enclose the values, at a step of 1, 2 or 5 times a power of ten."""
    if high - low < 1e-9 * max(abs(high), 1e-3):
        low, high = low - max(abs(low) * 0.05, 1e-3), high + max(abs(high) * 0.05, 1e-3)
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _shortened(name: str, width: int) -> str:
    if display_width(name) <= width:
        return name
    while display_width(name) >= width:
        name = name[:-1]
    return name + "…"
