"""Splits that are no honest test of each other are refused; each test plants the leak."""

import pytest
import yaml

from ray_ggsm.config import InputError, load
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.held_out import check_held_out
from ray_ggsm.experiment import Experiment
from tests.helpers.data import CONFIGS, data_config


@pytest.fixture
def splits(clicks: dict):
    """Builds the config with other cutoffs per split; cutoffs lie ten days apart and futures last ten days."""

    def build(pretrain: int, probe: int, test: int, **options) -> DataConfig:
        clicks["snapshots"] |= {"cutoffs": {"first": "2024-03-01", "every_days": 10, "count": 5}, **options}
        users = {"pretrain": "train", "probe": "train", "test": "test"}
        roles = {"pretrain": "train", "probe": "fit", "test": "score"}
        clicks["splits"] = {
            name: {"role": roles[name], "users": users[name], "cutoffs": [k]}
            for name, k in (("pretrain", pretrain), ("probe", probe), ("test", test))
        }
        return data_config(clicks)

    return build


def check(config: DataConfig, allow_same_period: bool = False) -> None:
    check_held_out(config, "probe", "test", allow_same_period=allow_same_period)


def test_futures_that_touch_do_not_overlap(splits) -> None:
    check(splits(0, 1, 2))
    check(splits(2, 1, 0))


@pytest.mark.parametrize(
    ("cutoffs", "future_days", "sentence"),
    [
        ((0, 1, 1), 10, r"splits\.test\.cutoffs: the futures of 'probe' and 'test' overlap \(cutoffs 0 days"),
        ((0, 1, 0), 10, r"the futures of 'pretrain' and 'test' overlap"),
        ((0, 2, 3), 11, r"'probe' and 'test' overlap \(cutoffs 10 days apart, future_days 11\).*allow_same_period"),
        ((0, 3, 2), 11, r"'probe' and 'test' overlap"),
    ],
)
def test_overlapping_futures_of_different_users(splits, cutoffs, future_days, sentence) -> None:
    config = splits(*cutoffs, future_days=future_days)
    with pytest.raises(InputError, match=sentence):
        check(config)
    check(config, allow_same_period=True)


def test_a_change_to_daylight_saving_is_no_overlap(splits) -> None:
    """Two cutoffs around it are 239 hours apart, and ten calendar days."""
    check(splits(0, 1, 2, timezone="America/New_York"))


@pytest.mark.parametrize(("probe", "test"), [("train", "train"), ("all", "test"), ("train", "all"), ("test", "test")])
def test_users_shared_by_probe_and_test(clicks, probe: str, test: str) -> None:
    """Refused even when nothing else overlaps, whatever is allowed."""
    clicks["splits"] |= {
        "probe": {"role": "fit", "users": probe, "cutoffs": [1]},
        "test": {"role": "score", "users": test, "cutoffs": [2]},
    }
    with pytest.raises(InputError, match=r"splits\.test\.users: 'probe' and 'test' can share users"):
        check(data_config(clicks), allow_same_period=True)


EXPERIMENTS = [
    file
    for file in sorted(CONFIGS.glob("**/*.yaml"))
    if {"data", "base"} & yaml.safe_load(file.read_text()).keys() and file.stem != "nights"
]


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: str(f.relative_to(CONFIGS)))
def test_shipped_experiments_hold_their_test_rows_out(file) -> None:
    experiment = load(Experiment, str(file))
    same_period = experiment.evaluation.allow_same_period  # of targets that belong to no time
    assert same_period == (file.name in ("ebes.yaml", "ptls.yaml"))
    check(experiment.data, allow_same_period=same_period)


def test_exactly_one_split_is_trained_on_and_no_role_is_given_twice(clicks) -> None:
    clicks["splits"]["probe"]["role"] = "train"
    with pytest.raises(InputError, match="the role 'train' is given to two splits"):
        data_config(clicks)
    clicks["splits"] = {"probe": {"role": "fit", "users": "train", "cutoffs": [1]}}
    with pytest.raises(InputError, match="one split needs `role: train`"):
        data_config(clicks)
