"""Charts as inline SVG: dots with intervals, forests of differences, lines, marks on an axis, and clouds of points.

Colours are CSS classes (`s0` to `s7` for series), so that the page decides how they look in light, dark and print.
Series differ in shape or dashes as well as in colour. Lengths are SVG user units, about one CSS pixel.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise

from ray_ggsm.evaluation.metrics import MEAN, Estimate
from ray_ggsm.evaluation.pages.axes import Axis, LogAxis

Points = Sequence[tuple[float, float]]

KINDS = 8
"""Series that the page can tell apart; more begin again."""

_WIDTH, _WIDE = 540, 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 96, 14, 10, 30
_SERIES_GAP, _ROW_GAP, _GROUP_GAP = 13, 13, 10


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


def lines(
    series: Mapping[str, Points],
    title: str,
    band: tuple[Points, Points] | None = None,
    *,
    span: tuple[float, float] | None = None,
    logarithmic: bool = False,
    names: bool = False,
    axis_name: str = "",
    size: tuple[int, int] = (_WIDTH, 230),
) -> str:
    """Lines, by default over training steps.

    Args:
        series: name -> (x, y); every y positive if `logarithmic`.
        title: accessible description of the picture.
        band: lower and upper edge, of equal x, of an area to shade.
        span: lowest and highest value of the y axis; by default what holds all values.
        logarithmic: whether equal distances are equal ratios on the y axis.
        names: whether each line's name stands at its end, which spares a legend.
        axis_name: what x is.
        size: width and height of the picture.
    """
    (width, height), left = size, 52
    right = width - (max(map(len, series)) * 7.5 + 10 if names else _RIGHT)
    bottom = height - _BOTTOM - (16 if axis_name else 0)
    every = [point for points in [*series.values(), *(band or ())] for point in points]
    x = Axis.around([at for at, _ in every], left, right)
    y = (LogAxis if logarithmic else Axis).around(span or [value for _, value in every], bottom, _TOP)

    def path(points: Points) -> str:
        return " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)

    parts = [f'<line class="grid" x1="{left}" x2="{right}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>' for t in y.ticks]
    parts += [words("tick", left - 6, y(t) + 4, y.text(t), "end") for t in y.ticks]
    parts += [words("tick", x(t), bottom + 20, x.text(t), "middle") for t in x.ticks]
    if axis_name:
        parts.append(words("tick", (left + right) / 2, height - 6, axis_name, "middle"))
    if band:
        parts.append(f'<polygon class="band" points="{path([*band[0], *reversed(band[1])])}"/>')
    parts += [
        f'<polyline class="line s{n % KINDS}" points="{path(points)}"><title>{escape(name)}</title></polyline>'
        for n, (name, points) in enumerate(series.items())
    ]
    if names:
        ends = _apart([y(points[-1][1]) for points in series.values()], 13, _TOP, bottom)
        placed = enumerate(zip(series, ends, strict=True))
        parts += [words(f"end s{n % KINDS}", right + 8, end + 4, name) for n, (name, end) in placed]
    return svg(height, title, parts, width)


def marks(
    rows: Mapping[str, Sequence[float]], series: Sequence[str], title: str, span: tuple[float, float], width: int
) -> str:
    """One row per name with one mark per series.

    Args:
        rows: name -> one value per series.
        series: their names.
        title: accessible description of the picture.
        span: lowest and highest value of the axis.
        width: width of the picture.
    """
    left, row_height = max(map(len, rows)) * 6.6 + 10, 20
    x = Axis.around(span, left + 8, width - _RIGHT)
    bottom = _TOP + row_height * len(rows)
    parts = [f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{_TOP}" y2="{bottom}"/>' for t in x.ticks]
    parts += [words("tick", x(t), bottom + 20, x.text(t), "middle") for t in x.ticks]
    for row, (name, values) in enumerate(rows.items()):
        y = _TOP + row_height * (row + 0.5)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(words("name", left - 4, y + 4, name, "end"))
        parts += [
            f'<g class="s{number % KINDS}"><title>{escape(f"{name}, {series[number]}: {value:.3f}")}</title>'
            f"{marker(number, x(value), y)}</g>"
            for number, value in enumerate(values)
        ]
    return svg(bottom + _BOTTOM, title, parts, width)


def ranking(rows: Mapping[str, Estimate], points: Mapping[str, Sequence[float]], title: str) -> str:
    """A forest with one row per name: a difference with its interval, and small points behind it.

    A line stands at zero, and marks whose interval holds zero are hollow.

    Args:
        rows: name -> difference, in display order.
        points: the same names -> what the difference is the mean of, for example one value per seed.
        title: accessible description of the picture.
    """
    left, row_height = max(map(len, rows)) * 6.9 + 12, 24
    ends = [end for e in rows.values() for end in (e.low, e.high)]
    x = Axis.around([0.0, *ends, *(value for values in points.values() for value in values)], left, _WIDE - _RIGHT)
    bottom = _TOP + row_height * len(rows)
    parts = [f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{_TOP}" y2="{bottom}"/>' for t in x.ticks]
    parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_TOP}" y2="{bottom}"/>')
    parts += [words("tick", x(t), bottom + 20, x.text(t), "middle") for t in x.ticks]
    for row, (name, e) in enumerate(rows.items()):
        y = _TOP + row_height * (row + 0.5)
        faint = " faint" if e.low <= 0 <= e.high else ""
        text = f"{name}: {e.value:+.4f} [{e.low:+.4f}, {e.high:+.4f}]"
        parts.append(words("name", left - 8, y + 4, name, "end"))
        parts += [f'<circle class="seed" cx="{x(value):.1f}" cy="{y:.1f}" r="2.6"/>' for value in points[name]]
        parts.append(
            f'<g class="s0{faint}"><title>{escape(text)}</title>'
            f'<line class="whisker" x1="{x(e.low):.1f}" x2="{x(e.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f"{marker(0, x(e.value), y)}</g>"
        )
    return svg(bottom + _BOTTOM, title, parts, _WIDE)


def cloud(points_N2: Sequence[tuple[float, float]], positive_N: Sequence[bool], title: str) -> str:
    """Points on a plane without axes; the positive ones are coloured and lie above the others."""
    size, rim = 240, 6
    columns = list(zip(*points_N2, strict=True))
    scale = (size - 2 * rim) / max(*(max(column) - min(column) for column in columns), 1e-12)
    x0, y0 = (min(column) for column in columns)
    groups: dict[bool, list[str]] = {False: [], True: []}
    for (x, y), positive in zip(points_N2, positive_N, strict=True):
        groups[bool(positive)].append(f"M{rim + (x - x0) * scale:.0f} {rim + (y - y0) * scale:.0f}h0")
    parts = [f'<path class="{"on" if positive else "off"}" d="{"".join(d)}"/>' for positive, d in groups.items() if d]
    return svg(size, title, parts, size)


def _apart(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions in the same order, moved to at least `gap` apart, and between `low` and `high` if there is room."""
    order = sorted(range(len(positions)), key=lambda n: positions[n])
    moved = list(positions)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    for n in reversed(order):
        moved[n] = max(min(moved[n], high), low)
        high = moved[n] - gap
    return moved


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
            parts.append(words("group", 0, top + 9, group))
            top += 14
        for label in labels:
            parts += _row(series, label, x, top, row_height, signed)
            top += row_height
        top += _GROUP_GAP
    bottom = top - _GROUP_GAP + 4
    grid = [f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{_TOP}" y2="{bottom:.1f}"/>' for t in x.ticks]
    if signed:
        grid.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_TOP}" y2="{bottom:.1f}"/>')
    ticks = [words("tick", x(t), bottom + 16, x.text(t), "middle") for t in x.ticks]
    return svg(bottom + 24, title, [*grid, *ticks, *parts])


def _row(
    series: Mapping[str, Mapping[str, Estimate]], label: str, x: Axis, top: float, height: float, signed: bool
) -> list[str]:
    strong, name = (" strong", "mean") if label == MEAN else ("", label)
    sign, skipped = ("+", 1) if signed else ("", 0)
    middle = top + height / 2 + 4
    parts = [words(f"name{strong}", _LEFT - 12, middle, name, "end")]
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


def words(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    """A text of a CSS class."""
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


def svg(height: float, title: str, parts: Sequence[str], width: int = _WIDTH) -> str:
    """A picture of its parts; the title is for those who cannot see it."""
    label = escape(title, quote=True)
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
