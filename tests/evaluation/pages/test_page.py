from ray_ggsm.evaluation.pages.page import duration


def test_durations():
    assert [duration(value) for value in (44.4, 75, 7500)] == ["44 s", "1 min 15 s", "2 h 5 min"]
