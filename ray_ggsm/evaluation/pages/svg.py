"""Parts of inline SVG pictures: texts, marks, grid lines.

Colours are CSS classes (`s0` to `s7` for series), so that the page decides how they look in light, dark and print.
Series differ in shape or dashes as well as in colour. Lengths are SVG user units, about one CSS pixel.
"""

from collections.abc import Sequence
from html import escape

from ray_ggsm.evaluation.pages.axes import Axis

STYLES = 8
"""Number of series that the page can tell apart; a further series looks like the first."""
WIDTH = 540
"""Width of a picture."""
LEFT, RIGHT, TOP, BOTTOM = 96, 14, 10, 30
"""Margins around the plot."""


def text(style: str, x: float, y: float, content: str, anchor: str = "start") -> str:
    """A text of a CSS class."""
    return f'<text class="{style}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'


def marker(number: int, x: float, y: float) -> str:
    """The shape of a series: circle, square, diamond, triangle, then again."""
    shapes = (
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        f'<rect class="dot" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>',
        f'<path class="dot" d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>',
        f'<path class="dot" d="M{x:.1f} {y - 5:.1f}l5 9h-10z"/>',
    )
    return shapes[number % len(shapes)]


def columns(x: Axis, bottom: float) -> list[str]:
    """A vertical grid line at every tick of `x`, from the top margin to `bottom`."""
    return [_column("grid", x(tick), bottom) for tick in x.ticks]


def zero(x: Axis, bottom: float) -> str:
    """A vertical line at zero."""
    return _column("zero", x(0), bottom)


def tick_texts(x: Axis, y: float) -> list[str]:
    """The labels of the ticks of `x`."""
    return [text("tick", x(tick), y, x.text(tick), "middle") for tick in x.ticks]


def picture(height: float, title: str, parts: Sequence[str], width: int = WIDTH) -> str:
    """A picture of its parts; the title describes it to those who cannot see it."""
    label = escape(title, quote=True)
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _column(style: str, x: float, bottom: float) -> str:
    return f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom:.1f}"/>'
