import json

import pytest

from ray_ggsm.evaluation.summary import Summary, terminal_summary

AUC = {
    "encoder": {"linear": {"food": 0.8, "transit": 0.9}, "lightgbm": {"food": 0.7, "transit": 0.8}},
    "untrained": {"linear": {"food": 0.6, "transit": 0.7}, "lightgbm": {"food": 0.5, "transit": 0.6}},
}


@pytest.fixture
def values():
    return Summary.of(
        rows={"pretrain": 7219, "probe": 2945, "test": 1185},
        label_rates={"test": {"food": 0.257, "transit": 0.212}},
        auc=AUC,
        seconds={"train": 301.26, "embed": 59.9},
        table="outputs/table",
        report="outputs/report.html",
        scored="test",
    )


def test_the_file_has_exactly_the_agreed_keys_and_means(values):
    written = values.model_dump_json()
    assert set(json.loads(written)) == {"rows", "label_rates", "auc", "seconds", "table", "report", "scored"}
    assert values.auc["encoder"]["linear"] == {"food": 0.8, "transit": 0.9, "mean": pytest.approx(0.85)}
    assert Summary.model_validate_json(written) == values
    assert "mean" not in AUC["encoder"]["linear"]


def test_text_shows_every_number_in_the_right_row(values):
    text = terminal_summary(values)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["food"][1:] == ["0.800", "0.600", "0.700", "0.500"]
    assert rows["mean"][2:] == ["0.850", "0.650", "0.750", "0.550"]
    assert "7,219 pretrain, 2,945 probe, 1,185 test" in text
    assert "train 301 s  embed 60 s  (total 361 s)" in text
    assert {"outputs/table", "outputs/report.html"} <= set(text.split())
    assert max(map(len, text.splitlines())) <= 100
