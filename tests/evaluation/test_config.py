"""Which instruction's vectors a label's probes read."""

import pytest

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.config import ProbeConfig

LABELS = ["buys", "leaves", "stays"]


def test_one_instruction_is_that_of_all_labels() -> None:
    assert ProbeConfig().labels_of(["default"], LABELS) == {"default": ("buys", "leaves", "stays")}


def test_labels_follow_their_instructions_and_unread_ones_are_left_out() -> None:
    config = ProbeConfig(instructions={"stays": "b", "buys": "b", "leaves": "c"})
    assert config.labels_of(["a", "b", "c"], LABELS) == {"b": ("buys", "stays"), "c": ("leaves",)}


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({}, r"label 'buys' has none of embedding.instructions \(a, b\)"),
        ({"buys": "a", "stays": "b"}, "label 'leaves' has none"),
        (dict.fromkeys([*LABELS, "returns"], "a"), "there is no label 'returns'; data.labels has buys, leaves, stays"),
        ({**dict.fromkeys(LABELS, "a"), "stays": "c"}, "instructions.stays: there is no instruction 'c'"),
    ],
)
def test_what_does_not_fit_is_refused(named: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ProbeConfig(instructions=named).labels_of(["a", "b"], LABELS)
