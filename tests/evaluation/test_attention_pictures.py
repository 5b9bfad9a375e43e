import re
from html import unescape
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from ray_ggsm.evaluation.pages.attention_figures import AFTER, BEFORE, CHANGE, attention_figure

from ray_ggsm.evaluation.attention import AttentionMeans


def means(future: list[list[float]], alone: list[float]) -> AttentionMeans:
    same = [[2.0 for _ in heads] for heads in future]
    half = [[0.5 for _ in heads] for heads in future]
    return AttentionMeans(1234, future, same, same, half, alone, alone)


BEFORE_MEANS = means([[0.0, 0.125, 0.3], [0.2, 0.25, 0.05]], [0.25, 0.25])
AFTER_MEANS = means([[0.5, 0.1, 0.3], [0.2, 0.375, 0.06]], [0.5, 0.5])


def titles(svg: str) -> list[str]:
    return [unescape(title) for title in re.findall(r"<title>(.*?)</title>", svg)]


def opacity(svg: str) -> list[tuple[str, float]]:
    """Colour and opacity of the cells, in their order."""
    cells = re.findall(r"</title><rect [^>]*fill: var\((--c\d)\); fill-opacity: ([0-9.]+)", svg)
    return [(colour, float(value)) for colour, value in cells]


def test_every_cell_says_its_number() -> None:
    panels = attention_figure(BEFORE_MEANS, AFTER_MEANS).panels
    assert list(panels) == [BEFORE, AFTER, CHANGE]
    assert titles(panels[AFTER]) == [
        "layer 0, head 0: 50.0 %", "layer 0, head 1: 10.0 %", "layer 0, head 2: 30.0 %", "layer 0, mask alone: 50.0 %",
        "layer 1, head 0: 20.0 %", "layer 1, head 1: 37.5 %", "layer 1, head 2: 6.0 %", "layer 1, mask alone: 50.0 %",
    ]  # fmt: skip
    assert titles(panels[CHANGE])[:4] == [
        "layer 0, head 0: +50.0 %", "layer 0, head 1: −2.5 %", "layer 0, head 2: 0 %", "layer 0, mask alone: +25.0 %",
    ]  # fmt: skip


def test_both_readings_have_one_scale() -> None:
    panels = attention_figure(BEFORE_MEANS, AFTER_MEANS).panels
    for name, reading in {BEFORE: BEFORE_MEANS, AFTER: AFTER_MEANS}.items():
        expected = [
            ("--c0", pytest.approx(share / 0.5, abs=1e-3))
            for heads, alone in zip(reading.future_share, reading.uniform_future_share, strict=True)
            for share in (*heads, alone)
        ]
        assert opacity(panels[name]) == expected
    assert opacity(panels[CHANGE])[:3] == [("--c0", 1.0), ("--c1", 0.05), ("--c0", 0.0)]


def test_the_note_counts_heads() -> None:
    note = attention_figure(BEFORE_MEANS, AFTER_MEANS).note
    assert "1,234 user rows" in note
    assert "All heads: 15% → 26% (mask alone: 25% → 50%); mean distance 2 → 2 tokens; entropy 0.50 → 0.50" in note
    assert note.endswith("3 of 6 heads opened and 1 closed; head 0 of layer 0 changed most, 0% → 50%.")
    assert attention_figure(AFTER_MEANS, BEFORE_MEANS).note.endswith(
        "1 of 6 heads opened and 3 closed; head 0 of layer 0 changed most, 50% → 0%."
    )
    assert attention_figure(AFTER_MEANS, AFTER_MEANS).note.endswith("No head changed.")


@pytest.mark.parametrize(("layers", "heads"), [(2, 4), (4, 9), (24, 14), (36, 64)])
def test_large_models_stay_inside_the_picture(layers: int, heads: int) -> None:
    values = [[(layer * heads + head) / (layers * heads) for head in range(heads)] for layer in range(layers)]
    reading = means(values, [0.5] * layers)
    for svg in attention_figure(reading, reading).panels.values():
        root = ElementTree.fromstring(svg)
        _, _, width, height = map(float, root.get("viewBox").split())
        cells = list(root.iter("rect"))
        assert len(titles(svg)) == layers * (heads + 1)
        assert all(float(c.get("width")) > 1 and float(c.get("height")) > 1 for c in cells)
        assert max(float(c.get("x")) + float(c.get("width")) for c in cells) <= width
        assert max(float(c.get("y")) + float(c.get("height")) for c in cells) <= height
        names = [t for t in root.iter("text") if t.get("y") == "12.0" and t.text != "mask"]
        across = [float(t.get("x")) for t in names]
        assert all(b - a >= 18 for a, b in pairwise(across))
        assert not re.search(r"#[0-9a-f]{3}|rgb\(", svg)  # all colours are the page's


def test_nothing_ahead_is_an_empty_picture() -> None:
    causal = means([[0.0, 0.0]], [0.0])
    panels = attention_figure(causal, causal).panels
    assert {value for svg in panels.values() for _, value in opacity(svg)} == {0.0}
