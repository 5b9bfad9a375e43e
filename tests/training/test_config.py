"""The settings of training."""

import pytest

from ray_ggsm.config import InputError, build
from ray_ggsm.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        ([], "training.yaml: terms: expected at least 1 entry, found []"),
        (["ua", "aa", "ua"], "training.yaml: terms: give each kind of negatives once, or it counts twice, found ['ua'"),
    ],
)
def test_terms_are_some_and_differ(terms: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        build(TrainingConfig, {"steps": 1, "batch_size": 2, "terms": terms}, "training.yaml")
    assert str(raised.value).startswith(sentence)
