"""Charts of plain values: lines, marks on an axis, and clouds of points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from ray_ggsm.evaluation.pages import svg
from ray_ggsm.evaluation.pages.axes import Axis, LogAxis

Points = Sequence[tuple[float, float]]
"""(x, y) of a curve."""


@dataclass(frozen=True)
class _Plot:
    """Axes and size of a line chart."""

    x: Axis
    y: Axis | LogAxis
    height: float

    def path(self, points: Points) -> str:
        """The points as SVG coordinates."""
        return " ".join(f"{self.x(at):.1f},{self.y(value):.1f}" for at, value in points)

    def line(self, number: int, name: str, points: Points) -> str:
        """A series."""
        style, title = f"line s{number % svg.STYLES}", f"<title>{escape(name)}</title>"
        return f'<polyline class="{style}" points="{self.path(points)}">{title}</polyline>'

    def axes(self, axis_name: str) -> list[str]:
        """Horizontal grid lines, the labels of all ticks, and the name of the x axis."""
        x, y, left, right, bottom = self.x, self.y, self.x.start, self.x.end, self.y.start
        parts = [
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>' for tick in y.ticks
        ]
        parts += [svg.text("tick", left - 6, y(tick) + 4, y.text(tick), "end") for tick in y.ticks]
        parts += svg.tick_texts(x, bottom + 20)
        if axis_name:
            parts.append(svg.text("tick", (left + right) / 2, self.height - 6, axis_name, "middle"))
        return parts

    def names_at_ends(self, series: Mapping[str, Points]) -> list[str]:
        """Each line's name at its end, in its colour."""
        ends = _apart([self.y(points[-1][1]) for points in series.values()], 13, svg.TOP, self.y.start)
        return [
            svg.text(f"end s{number % svg.STYLES}", self.x.end + 8, end + 4, name)
            for number, (name, end) in enumerate(zip(series, ends, strict=True))
        ]


def lines(
    series: Mapping[str, Points],
    title: str,
    band: tuple[Points, Points] | None = None,
    *,
    span: tuple[float, float] | None = None,
    logarithmic: bool = False,
    names: bool = False,
    axis_name: str = "",
    size: tuple[int, int] = (svg.WIDTH, 230),
) -> str:
    """Lines, by default over training steps.

    Args:
        series: name -> (x, y); every y positive if `logarithmic`.
        title: description of the picture for those who cannot see it.
        band: lower and upper edge, of equal x, of an area to shade.
        span: lowest and highest value of the y axis; by default of all values.
        logarithmic: whether equal distances are equal ratios on the y axis.
        names: whether each line's name stands at its end, which makes a legend unnecessary.
        axis_name: name of the x axis.
        size: width and height of the picture.
    """
    width, height = size
    right = width - (max(map(len, series)) * 7.5 + 10 if names else svg.RIGHT)
    bottom = height - svg.BOTTOM - (16 if axis_name else 0)
    everything = [point for points in [*series.values(), *(band or ())] for point in points]
    x = Axis.around([at for at, _ in everything], 52, right)
    y = (LogAxis if logarithmic else Axis).around(span or [value for _, value in everything], bottom, svg.TOP)
    plot = _Plot(x, y, height)
    parts = plot.axes(axis_name)
    if band:
        parts.append(f'<polygon class="band" points="{plot.path([*band[0], *reversed(band[1])])}"/>')
    parts += [plot.line(number, name, points) for number, (name, points) in enumerate(series.items())]
    return svg.picture(height, title, [*parts, *(plot.names_at_ends(series) if names else ())], width)


def marks(
    rows: Mapping[str, Sequence[float]], series: Sequence[str], title: str, span: tuple[float, float], width: int
) -> str:
    """One row per name, with one mark per series.

    Args:
        rows: name -> one value per series.
        series: their names.
        title: description of the picture for those who cannot see it.
        span: lowest and highest value of the axis.
        width: width of the picture.
    """
    left, row_height = max(map(len, rows)) * 6.6 + 10, 20
    x = Axis.around(span, left + 8, width - svg.RIGHT)
    bottom = svg.TOP + row_height * len(rows)
    parts = [*svg.columns(x, bottom), *svg.tick_texts(x, bottom + 20)]
    for row, (name, values) in enumerate(rows.items()):
        y = svg.TOP + row_height * (row + 0.5)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{width - svg.RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(svg.text("name", left - 4, y + 4, name, "end"))
        parts += [
            f'<g class="s{number % svg.STYLES}"><title>{escape(f"{name}, {series[number]}: {value:.3f}")}</title>'
            f"{svg.marker(number, x(value), y)}</g>"
            for number, value in enumerate(values)
        ]
    return svg.picture(bottom + svg.BOTTOM, title, parts, width)


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
    return svg.picture(size, title, parts, size)


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
