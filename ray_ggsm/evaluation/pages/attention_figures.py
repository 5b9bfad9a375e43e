"""Pictures of where attention goes: the share that each head gives to later tokens, before and after training.

Every cell is a head. Colours are those of the page, more or less opaque, so that they work in light, dark and print.
The column at the right shows the mask alone, for comparison.
"""

from collections.abc import Sequence
from html import escape
from statistics import fmean

from ray_ggsm.evaluation.attention import AttentionMeans, PerHead, opened_and_closed
from ray_ggsm.evaluation.pages import svg
from ray_ggsm.evaluation.pages.axes import Axis
from ray_ggsm.evaluation.pages.figure import Figure

BEFORE, AFTER, CHANGE = "before training", "after training", "change"
"""Headings of the panels."""
_WIDTH, _LEFT, _TOP, _GAP, _SCALE = 360, 34, 18, 8, 46
"""Width of a panel, margins around the cells, gap before the mask's column, height of the scale."""
_NUMBERED = 22
"""Width of the narrowest cell that shows its number."""
_NAME_GAP = 22
"""Smallest distance between the names of two heads."""
_LEAST = 0.05
"""Smallest end of a scale."""


def attention_figure(before: AttentionMeans, after: AttentionMeans) -> Figure:
    """The future share of every head before and after, on one scale, and its change; layers from top to bottom."""
    first, second = (
        [[*heads, alone] for heads, alone in zip(means.future_share, means.uniform_future_share, strict=True)]
        for means in (before, after)
    )
    change = [[b - a for a, b in zip(*rows, strict=True)] for rows in zip(first, second, strict=True)]
    share = max(_LEAST, *(value for row in [*first, *second] for value in row))
    moved = max(_LEAST, *(abs(value) for row in change for value in row))
    title = "of attention to later tokens by layer and head"
    panels = {
        BEFORE: _heatmap(first, f"Share {title}, {BEFORE}", (0.0, share)),
        AFTER: _heatmap(second, f"Share {title}, {AFTER}", (0.0, share)),
        CHANGE: _heatmap(change, f"Change of the share {title}", (-moved, moved)),
    }
    return Figure("Attention to later tokens by layer and head", panels, note=_note(before, after))


def _heatmap(rows: Sequence[Sequence[float]], title: str, span: tuple[float, float]) -> str:
    """A row of cells per layer; the last cell, apart from the others, is for the mask alone."""
    heads, signed = len(rows[0]) - 1, span[0] < 0
    width = (_WIDTH - _LEFT - _GAP) / (heads + 1)
    height = min(max(width, 10.0), 24.0)
    left = [_LEFT + width * head for head in range(heads)] + [_WIDTH - width]
    named = range(0, heads, -(-_NAME_GAP // int(width)))
    parts = [svg.text("tick", left[head] + width / 2, _TOP - 6, str(head), "middle") for head in named]
    parts.append(svg.text("tick", _WIDTH, _TOP - 6, "mask", "end"))
    for layer, values in enumerate(rows):
        y = _TOP + height * layer
        if layer % (1 if height >= 14 else 2) == 0:
            parts.append(svg.text("tick", _LEFT - 6, y + height / 2 + 4, str(layer), "end"))
        for head, value in enumerate(values):
            name = f"layer {layer}, {f'head {head}' if head < heads else 'mask alone'}"
            cell = _cell(left[head], y, width, height, value, span[1], signed)
            parts.append(f"<g><title>{escape(f'{name}: {_percent(value, 1, signed)} %')}</title>{cell}</g>")
    bottom = _TOP + height * len(rows)
    return svg.picture(bottom + _SCALE, title, [*parts, *_scale(span, bottom + 14)], _WIDTH)


def _cell(x: float, y: float, width: float, height: float, value: float, most: float, signed: bool) -> str:
    """A cell with its number, if there is room; `most` is the end of the scale."""
    rect = _rect(x + 0.5, y + 0.5, width - 1, height - 1, value / most, "; stroke: var(--grid)")
    if min(width, height * 1.5) < _NUMBERED:
        return rect
    ink = "var(--card)" if abs(value) > 0.55 * most else "var(--ink)"
    number = svg.text("tick", x + width / 2, y + height / 2 + 4, _percent(value, 0, signed), "middle")
    return rect + number.replace("<text ", f'<text style="fill: {ink}" ', 1)


def _rect(x: float, y: float, width: float, height: float, depth: float, style: str = "") -> str:
    """A rectangle; `depth` in [-1, 1] sets its opacity and, by its sign, which of two colours it has."""
    colour = "var(--c1)" if depth < 0 else "var(--c0)"
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"'
        f' style="fill: {colour}; fill-opacity: {min(abs(depth), 1):.3f}{style}"/>'
    )


def _percent(value: float, decimals: int, signed: bool) -> str:
    number = f"{100 * value:+.{decimals}f}" if signed else f"{100 * value:.{decimals}f}"
    return "0" if not number.strip("+-0.") else number.replace("-", "−")


def _scale(span: tuple[float, float], top: float) -> list[str]:
    """The legend of colours, with ticks in percent."""
    axis, steps = Axis.around([100 * end for end in span], _LEFT, _WIDTH - _GAP), 40
    width = (axis.end - axis.start) / steps
    depths = [(span[0] + (span[1] - span[0]) * (n + 0.5) / steps) / span[1] for n in range(steps)]
    parts = [_rect(axis.start + n * width, top, width, 8, depth) for n, depth in enumerate(depths)]
    return parts + [svg.text("tick", axis(t), top + 24, f"{axis.text(t)} %", "middle") for t in axis.ticks]


def _note(before: AttentionMeans, after: AttentionMeans) -> str:
    """Means over all heads, and the heads that changed, in words."""

    def over_heads(tables: Sequence[PerHead], form: str) -> str:
        return " → ".join(form.format(fmean(value for row in table for value in row)) for table in tables)

    both = (before, after)
    alone = over_heads([[m.uniform_future_share] for m in both], "{:.0%}")
    sentences = [
        f"How much of a token's attention goes to later tokens, in percent: the mean over the tokens of {after.rows:,}"
        " user rows. The column “mask” is for attention that cannot tell tokens apart.",
        f"All heads: {over_heads([m.future_share for m in both], '{:.0%}')} (mask alone: {alone});"
        f" mean distance {over_heads([m.distance for m in both], '{:.0f}')} tokens;"
        f" entropy {over_heads([m.relative_entropy for m in both], '{:.2f}')} of the largest possible.",
    ]
    opened, closed = opened_and_closed(before, after)
    if not opened and not closed:
        return " ".join([*sentences, "No head changed."])
    most = max([*opened[:1], *closed[:1]], key=lambda change: abs(change.rise))
    heads = sum(map(len, after.future_share))
    counts = f"{len(opened)} of {heads} heads opened and {len(closed)} closed"
    largest = f"head {most.head} of layer {most.layer} changed most, {most.before:.0%} → {most.after:.0%}"
    return " ".join([*sentences, f"{counts}; {largest}."])
