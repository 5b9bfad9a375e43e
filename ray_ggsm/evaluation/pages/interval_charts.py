"""Charts of values with intervals: dots, forests of differences, and rankings."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ray_ggsm.evaluation.metrics import MEAN, Estimate
from ray_ggsm.evaluation.pages import svg
from ray_ggsm.evaluation.pages.axes import Axis

_WIDE = 760
"""Width of a ranking."""
_SERIES_GAP, _ROW_GAP, _GROUP_GAP = 13, 13, 10
"""Distance between two series of a row; additional distance between rows, between groups of rows."""

Series = Mapping[str, Mapping[str, Estimate]]
"""Name -> label (and "mean") -> estimate."""


def dots(series: Series, groups: Mapping[str, Sequence[str]], title: str, span: tuple[float, float]) -> str:
    """One row per label, the mean first, with one dot and interval per series.

    Args:
        series: what is shown.
        groups: label group -> labels, in display order.
        title: description of the picture for those who cannot see it.
        span: lowest and highest value of the axis; equal spans make pictures comparable.
    """
    return _rows(series, groups, Axis.around(span, svg.LEFT, svg.WIDTH - svg.RIGHT), title, signed=False)


def forest(differences: Series, groups: Mapping[str, Sequence[str]], title: str, span: tuple[float, float]) -> str:
    """As `dots`, for the first series minus each of the others, in the style of the other.

    A line stands at zero, and marks whose interval holds zero are hollow.
    """
    return _rows(differences, groups, Axis.around([0.0, *span], svg.LEFT, svg.WIDTH - svg.RIGHT), title, signed=True)


def span(series: Iterable[Mapping[str, Estimate]]) -> tuple[float, float]:
    """The lowest and the highest end of all intervals."""
    estimates = [estimate for values in series for estimate in values.values()]
    return min(estimate.low for estimate in estimates), max(estimate.high for estimate in estimates)


def ranking(rows: Mapping[str, Estimate], points: Mapping[str, Sequence[float]], title: str) -> str:
    """A forest with one row per name: a difference with its interval, and small points behind it.

    A line stands at zero, and marks whose interval holds zero are hollow.

    Args:
        rows: name -> difference, in display order.
        points: name -> values whose mean is the difference, for example one per seed.
        title: description of the picture for those who cannot see it.
    """
    left, row_height = max(map(len, rows)) * 6.9 + 12, 24
    ends = [end for e in rows.values() for end in (e.low, e.high)]
    single = [value for values in points.values() for value in values]
    x = Axis.around([0.0, *ends, *single], left, _WIDE - svg.RIGHT)
    bottom = svg.TOP + row_height * len(rows)
    parts = [*svg.columns(x, bottom), svg.zero(x, bottom), *svg.tick_texts(x, bottom + 20)]
    for row, (name, e) in enumerate(rows.items()):
        y = svg.TOP + row_height * (row + 0.5)
        parts.append(svg.text("name", left - 8, y + 4, name, "end"))
        parts += [f'<circle class="seed" cx="{x(value):.1f}" cy="{y:.1f}" r="2.6"/>' for value in points[name]]
        parts.append(_mark(0, f"s0{_faint(e)}", f"{name}: {e.value:+.4f} [{e.low:+.4f}, {e.high:+.4f}]", e, x, y))
    return svg.picture(bottom + svg.BOTTOM, title, parts, _WIDE)


def _rows(series: Series, groups: Mapping[str, Sequence[str]], x: Axis, title: str, *, signed: bool) -> str:
    row_height = _SERIES_GAP * len(series) + _ROW_GAP
    parts: list[str] = []
    top = float(svg.TOP)
    for group, labels in {"": [MEAN], **groups}.items():
        if group:
            parts.append(svg.text("group", 0, top + 9, group))
            top += 14
        for label in labels:
            parts += _row(series, label, x, top, row_height, signed)
            top += row_height
        top += _GROUP_GAP
    bottom = top - _GROUP_GAP + 4
    grid = [*svg.columns(x, bottom), *([svg.zero(x, bottom)] if signed else [])]
    return svg.picture(bottom + 24, title, [*grid, *svg.tick_texts(x, bottom + 16), *parts])


def _row(series: Series, label: str, x: Axis, top: float, height: float, signed: bool) -> list[str]:
    strong, name = (" strong", "mean") if label == MEAN else ("", label)
    sign, first_style = ("+", 1) if signed else ("", 0)
    parts = [svg.text(f"name{strong}", svg.LEFT - 12, top + height / 2 + 4, name, "end")]
    for position, (title, values) in enumerate(series.items()):
        number, e, y = position + first_style, values[label], top + _ROW_GAP / 2 + _SERIES_GAP * (position + 0.5)
        style = f"s{number}{strong}{_faint(e) if signed else ''}"
        content = f"{title}, {name}: {e.value:{sign}.3f} [{e.low:{sign}.3f}, {e.high:{sign}.3f}]"
        parts.append(_mark(number, style, content, e, x, y))
    return parts


def _mark(number: int, style: str, content: str, e: Estimate, x: Axis, y: float) -> str:
    """A marker with its interval; `content` is its tooltip."""
    return (
        f'<g class="{style}"><title>{escape(content)}</title>'
        f'<line class="whisker" x1="{x(e.low):.1f}" x2="{x(e.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f"{svg.marker(number, x(e.value), y)}</g>"
    )


def _faint(difference: Estimate) -> str:
    """The CSS class of a difference that may be zero."""
    return " faint" if difference.low <= 0 <= difference.high else ""
