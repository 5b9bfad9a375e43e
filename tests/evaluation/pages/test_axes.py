from hypothesis import given
from hypothesis import strategies as st

from ray_ggsm.evaluation.pages.axes import Axis, LogAxis


@given(values=st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=5))
def test_axis_keeps_values_inside_and_ticks_round(values):
    axis = Axis.around(values, 10, 110)
    assert all(9.99 <= axis(value) <= 110.01 for value in values)
    assert 1 <= len(axis.ticks) <= 7
    assert f"{axis.step:.0e}"[0] in "125"


@given(values=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=5))
def test_logarithmic_axis_keeps_values_inside_and_ticks_round(values):
    axis = LogAxis.around(values, 10, 110)
    assert all(9.9 <= axis(value) <= 110.1 for value in values)
    assert [axis(tick) for tick in (axis.ticks[0], axis.ticks[-1])] == [10, 110]
    assert {f"{tick:.0e}"[0] for tick in axis.ticks} <= set("125")
