"""Three charts as inline SVG: dots with intervals, a forest of differences, lines over steps.

Colours are CSS classes (`s0`, `s1`, ... for series), so that the page decides how they look in light, dark and print.
Series differ in shape as well as in colour. Lengths are SVG user units, about one CSS pixel.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ray_ggsm.evaluation.metrics import MEAN, Estimate

Points = Sequence[tuple[float, float]]

_WIDTH = 540
_LEFT, _RIGHT, _TOP, _BOTTOM = 96, 14, 10, 30
_SERIES_GAP, _ROW_GAP, _GROUP_GAP = 13, 13, 10


@dataclass(frozen=True)
class Axis:
    """A linear scale from values between `low` and `high` to positions, with round ticks `step` apart."""

    low: float
    high: float
    step: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> "Axis":
        """The axis that just holds `values`, with two to five ticks 1, 2 or 5 times a power of ten apart."""
        low, high = min(values), max(values)
        if low == high:
            low, high = low - abs(low or 1.0) / 2, high + abs(high or 1.0) / 2
        rough = (high - low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        return cls(low, high, step, start, end)

    def __call__(self, value: float) -> float:
        """The position of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Multiples of the step between `low` and `high`."""
        first, last = math.ceil(self.low / self.step - 1e-6), math.floor(self.high / self.step + 1e-6)
        return [self.step * n for n in range(first, last + 1)]

    def text(self, tick: float) -> str:
        """A tick's label with just enough decimals for the step."""
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        return f"{tick:,.{decimals}f}".replace("-", "−") if abs(tick) > self.step / 2 else "0"


def dots(
    series: Mapping[str, Mapping[str, Estimate]],
    groups: Mapping[str, Sequence[str]],
    title: str,
    span: tuple[float, float],
) -> str:
    """One row per label, one dot with its interval per series; the mean stands first.

    Args:
        series: name -> label (and "mean") -> estimate.
        groups: group name -> labels, in display order.
        title: accessible description of the picture.
        span: lowest and highest value of the axis; equal spans make pictures comparable.
    """
    return _rows(series, groups, Axis.around(span, _LEFT, _WIDTH - _RIGHT), title, signed=False)


def forest(
    differences: Mapping[str, Mapping[str, Estimate]],
    groups: Mapping[str, Sequence[str]],
    title: str,
    span: tuple[float, float],
) -> str:
    """As `dots`, for differences of the first series to each other one, in the style of the other.

    A line stands at zero, and marks whose interval holds zero are hollow.
    """
    return _rows(differences, groups, Axis.around([0.0, *span], _LEFT, _WIDTH - _RIGHT), title, signed=True)


def span(series: Iterable[Mapping[str, Estimate]]) -> tuple[float, float]:
    """The lowest and highest end of all intervals."""
    estimates = [estimate for values in series for estimate in values.values()]
    return min(estimate.low for estimate in estimates), max(estimate.high for estimate in estimates)


def lines(series: Mapping[str, Points], title: str, band: tuple[Points, Points] | None = None) -> str:
    """Lines over training steps, with an optional shaded band between two of equal steps."""
    height, left = 230, 52
    every = [point for points in [*series.values(), *(band or ())] for point in points]
    x = Axis.around([step for step, _ in every], left, _WIDTH - _RIGHT)
    y = Axis.around([value for _, value in every], height - _BOTTOM, _TOP)
    parts = [
        f'<line class="grid" x1="{left}" x2="{_WIDTH - _RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>' for t in y.ticks
    ]
    parts += [_text("tick", left - 6, y(t) + 4, y.text(t), "end") for t in y.ticks]
    parts += [_text("tick", x(t), height - 10, x.text(t), "middle") for t in x.ticks]
    if band:
        outline = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in [*band[0], *reversed(band[1])])
        parts.append(f'<polygon class="band" points="{outline}"/>')
    for number, (name, points) in enumerate(series.items()):
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        parts.append(f'<polyline class="line s{number}" points="{path}"><title>{escape(name)}</title></polyline>')
    return _svg(height, title, parts)


def _rows(
    series: Mapping[str, Mapping[str, Estimate]],
    groups: Mapping[str, Sequence[str]],
    x: Axis,
    title: str,
    *,
    signed: bool,
) -> str:
    row_height = _SERIES_GAP * len(series) + _ROW_GAP
    parts: list[str] = []
    top = float(_TOP)
    for group, labels in {"": [MEAN], **groups}.items():
        if group:
            parts.append(_text("group", 0, top + 9, group))
            top += 14
        for label in labels:
            parts += _row(series, label, x, top, row_height, signed)
            top += row_height
        top += _GROUP_GAP
    bottom = top - _GROUP_GAP + 4
    grid = [f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{_TOP}" y2="{bottom:.1f}"/>' for t in x.ticks]
    if signed:
        grid.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_TOP}" y2="{bottom:.1f}"/>')
    ticks = [_text("tick", x(t), bottom + 16, x.text(t), "middle") for t in x.ticks]
    return _svg(bottom + 24, title, [*grid, *ticks, *parts])


def _row(
    series: Mapping[str, Mapping[str, Estimate]], label: str, x: Axis, top: float, height: float, signed: bool
) -> list[str]:
    strong, name = (" strong", "mean") if label == MEAN else ("", label)
    sign, skipped = ("+", 1) if signed else ("", 0)
    middle = top + height / 2 + 4
    parts = [_text(f"name{strong}", _LEFT - 12, middle, name, "end")]
    for position, (title, values) in enumerate(series.items()):
        number, estimate, y = position + skipped, values[label], top + _ROW_GAP / 2 + _SERIES_GAP * (position + 0.5)
        faint = " faint" if signed and estimate.low <= 0 <= estimate.high else ""
        text = f"{title}, {name}: {estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"
        parts.append(
            f'<g class="s{number}{strong}{faint}"><title>{escape(text)}</title>'
            f'<line class="whisker" x1="{x(estimate.low):.1f}" x2="{x(estimate.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f"{marker(number, x(estimate.value), y)}</g>"
        )
    return parts


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def marker(number: int, x: float, y: float) -> str:
    """The shape of a series: circle, square, diamond, triangle, then again."""
    shapes = (
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        f'<rect class="dot" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>',
        f'<path class="dot" d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>',
        f'<path class="dot" d="M{x:.1f} {y - 5:.1f}l5 9h-10z"/>',
    )
    return shapes[number % len(shapes)]


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    label = escape(title, quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
