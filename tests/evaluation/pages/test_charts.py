from xml.etree import ElementTree

import numpy as np
import pytest

from ray_ggsm.evaluation.metrics import Estimate
from ray_ggsm.evaluation.pages import charts, interval_charts, svg
from ray_ggsm.evaluation.pages.axes import Axis


def test_names_at_line_ends_do_not_overlap():
    series = {f"line {n}": [(0, 1.0), (1, 2.0 + n / 1000)] for n in range(7)}
    root = ElementTree.fromstring(charts.lines(series, "t", names=True))
    ends = [float(text.get("y")) for text in root.iter("text") if text.get("class").startswith("end")]
    assert ends == sorted(ends, reverse=True)
    assert min(-np.diff(ends)) >= 12.9


def test_marks_stand_where_their_value_is():
    values = {name: Estimate(0.7 + n / 100, 0.6, 0.8) for n, name in enumerate(("food", "transit", "mean"))}
    root = ElementTree.fromstring(
        interval_charts.dots({"x": values}, {"one": ["food"], "two": ["transit"]}, "t", (0.5, 0.9))
    )
    axis = Axis.around((0.5, 0.9), svg.LEFT, svg.WIDTH - svg.RIGHT)
    found = sorted(float(circle.get("cx")) for circle in root.iter("circle"))
    assert found == pytest.approx(sorted(axis(item.value) for item in values.values()), abs=0.06)
