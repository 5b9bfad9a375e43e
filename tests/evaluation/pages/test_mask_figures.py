import re
import statistics
from html import unescape
from xml.etree import ElementTree

import numpy as np
import pytest

from ray_ggsm.evaluation.pages.mask_figures import (
    calibrated_weight,
    mask_history,
    over_gradients,
    over_slots,
    over_steps,
)
from ray_ggsm.evaluation.pages.report import render
from ray_ggsm.masks.slot_weights import SlotWeights
from tests.helpers.reports import report
from tests.helpers.train_stage import KEEP, NAMES, NEVER, TAGS, alpha, importance, log_json, slot_weights

WHY = "Why the published weight is flat"


def drawn(svg, low=0.0, high=1.0):
    """Line -> its y values, read back with the help of the grid lines at the axis's ends."""
    root = ElementTree.fromstring(svg)
    grid = [float(line.get("y1")) for line in root.iter("line")]
    scale = (high - low) / (max(grid) - min(grid))
    return {
        line[0].text: [low + (max(grid) - float(point.split(",")[1])) * scale for point in line.get("points").split()]
        for line in root.iter("polyline")
    }


def slots_with(norms, calibration="zscore"):
    return SlotWeights(recipe="ggsm", slots=(), weight={}, importance=norms, calibration=calibration)


def test_published_weight_is_flat_and_calibrated_one_is_not():
    figure = over_gradients(mask_history(log_json(), slot_weights()).slots)
    lines = drawn(figure.panels[""])
    seen = [g for g in importance() if g is not None]
    assert len(lines["published"]) == len(lines["calibrated"]) == len(seen) == len(NAMES) - 1
    assert max(abs(weight - 0.5) for weight in lines["published"]) < 0.01
    assert max(lines["calibrated"]) - min(lines["calibrated"]) > 0.5
    assert lines["calibrated"] == sorted(lines["calibrated"])
    assert figure.caption == WHY
    assert f"between {min(seen):.2g} and {max(seen):.2g}, so near zero" in figure.note


def test_what_opening_is_worth_is_not_drawn_as_a_gradient_norm():
    slots = slots_with((0.1, -0.2, 0.3))
    assert over_gradients(slots) is not None
    assert over_gradients(slots.model_copy(update={"grad_site": "mask"})) is None


def test_calibrated_weight_against_the_formula():
    norms = [0.3, 0.02, 0.05, 0.11, 0.07]
    mean, spread = statistics.mean(norms), statistics.pstdev(norms)
    expected = [1 / (1 + np.exp(-(g - mean) / spread)) for g in norms]
    assert calibrated_weight(np.array(norms)).tolist() == pytest.approx(expected)
    assert calibrated_weight(np.array(norms) * 1e-6).tolist() == pytest.approx(expected)
    assert calibrated_weight(np.full(7, 0.1)).tolist() == [0.5] * 7


def test_only_what_is_flat_is_called_flat():
    figure = over_gradients(slots_with([0.1, 2.0, None, 4.0]))
    assert figure.caption != WHY
    assert "near zero" not in figure.note
    assert "3 slots lie between 0.1 and 4, which puts the published σ(g) between 0.52 and 0.98" in figure.note
    assert over_gradients(slots_with([5.0, 5.1])).caption != WHY


@pytest.mark.parametrize(("calibration", "word"), [("none", "published"), ("zscore", "calibrated"), ("rank", "rank")])
def test_the_note_says_what_the_run_used(calibration, word):
    last = over_gradients(slots_with([0.01, 0.02], calibration)).note.split(". ")[-1]
    assert last.startswith("This run used")
    assert word in last


@pytest.mark.parametrize("norms", [None, [], [None, None], [None, 0.1]])
def test_fewer_than_two_gradients_are_no_picture(norms):
    assert over_gradients(slots_with(norms)) is None


def test_panels_show_every_modality_over_recency_and_the_rest_in_rows():
    values = slot_weights()
    figure = over_slots(mask_history(log_json(), values))
    assert list(figure.panels) == [*KEEP, ""]
    assert figure.names == ["step 1", "step 20, warm-up", "step 31, late warm-up", "step 90, alpha 0.49"]
    for name, keep in KEEP.items():
        first = NAMES.index(f"{name}[0]")
        for line, step in zip(drawn(figure.panels[name]).values(), (1, 20, 31, 90), strict=True):
            assert line == pytest.approx(values.weight[step][first : first + keep], abs=0.001)
    rows = figure.panels[""]
    texts = [text.text for text in ElementTree.fromstring(rows).iter("text") if text.get("class") == "name"]
    assert texts == [*TAGS, *(f"tabular[{k}]" for k in range(4)), "text"]
    titles = re.findall(r"<title>(.*?)</title>", rows)
    assert len(titles) == 4 * len(texts)
    assert unescape(titles[3]) == f"<bill>, step 90, alpha 0.49: {values.weight[90][0]:.3f}"
    assert f"(1 of {len(NAMES)})" in figure.note
    assert values.importance[NEVER] is None


@pytest.mark.parametrize(
    ("alpha_of", "names"),
    [
        (lambda step: 0.0 if step < 4 else 0.5, ["step 1", "step 2, warm-up", "step 3, late warm-up"]),
        (lambda step: step / 9, ["step 1", "step 4, alpha 0.44"]),
        (lambda step: 1.0, ["step 1", "step 5", "step 9"]),
        (None, ["step 1", "step 5", "step 9"]),
    ],
    ids=["warm-up", "scheduler", "fixed", "not logged"],
)
def test_steps_are_chosen_by_what_is_recorded(alpha_of, names):
    values = SlotWeights(recipe="any", slots=("text",), weight=dict.fromkeys(range(1, 10), (0.5,)))
    log = [{"step": n, "alpha": alpha_of(n), "w_mean": 0, "w_p5": 0, "w_p95": 0} for n in range(1, 10) if alpha_of]
    found = over_slots(mask_history(log, values)).names
    assert found[: len(names)] == names
    assert len(found) <= 4


def test_gradient_norms_stand_on_a_logarithmic_axis():
    log = [{"step": n, "grad_norm/bill": 10.0**-n, "grad_norm/text": 0.01} for n in (1, 2, 3)]
    log.append({"step": 4, "grad_norm/bill": float("nan"), "grad_norm/text": 0.0, "grad_norm/promo": 0.0})
    (figure,) = over_steps(mask_history(log, None))
    lines = drawn(figure.panels[""], -3, -1)
    assert lines == {"bill": pytest.approx([-1, -2, -3], abs=0.01), "text": pytest.approx([-2] * 3, abs=0.01)}


def test_weight_over_steps_has_the_whole_axis():
    figure, _ = over_steps(mask_history(log_json(), None))
    lines = drawn(figure.panels[""])
    assert lines["alpha"] == pytest.approx([alpha(step) for step in range(1, 151)], abs=0.001)


@pytest.mark.parametrize(
    ("log", "slots", "captions"),
    [
        ([], None, []),
        (log_json(gradients=False), None, ["Weight of future keys"]),
        (log_json(), None, ["Weight of future keys", "Gradient norm at the input embeddings (logarithmic)"]),
        (
            log_json(gradients=False),
            slot_weights("scheduler", None),
            ["Weight of future keys", "Weight of future keys by slot"],
        ),
        (log_json(gradients=False), slot_weights(), ["Weight of future keys", WHY, "Weight of future keys by slot"]),
        ([], SlotWeights(recipe="oracle", slots=tuple(NAMES), weight={}), []),
    ],
    ids=["oracle", "older", "no mask.json", "no gradients", "all", "nothing recorded"],
)
def test_what_was_not_logged_leaves_no_picture_behind(log, slots, captions):
    page = render(report(mask=mask_history(log, slots)))
    section = re.search(r"<h2>Opening of the mask</h2>.*?</section>", page, re.S)
    found = re.findall(r"<figcaption>(.*?)</figcaption>", section.group()) if section else []
    assert found == captions
    assert bool(section) == bool(captions)
