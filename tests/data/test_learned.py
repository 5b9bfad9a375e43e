"""What shards tell is bounded: exact where that decides, refused where it does not, the same for any shards."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_ggsm.config import InputError
from ray_ggsm.data import fit as fitting
from ray_ggsm.data import learned
from ray_ggsm.data.config import FeatureConfig
from ray_ggsm.data.fit import fit
from ray_ggsm.data.learned import Numbers, ValueCounts, most_frequent
from tests.helpers.data import data_config

FEATURE = FeatureConfig(name="pages", table="clicks", sql="count(*)", per="page", top=2)


def told(counts: Counter[str], most: int) -> ValueCounts:
    """The most frequent values, and how often the next one occurs."""
    found = sorted(counts, key=lambda value: (-counts[value], value))
    others = counts[found[most]] if len(found) > most else 0
    return ValueCounts(Counter({value: counts[value] for value in found[:most]}), others)


@given(
    shards=st.lists(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 40)), min_size=1, max_size=4),
    most=st.integers(1, 8),
)
def test_a_vocabulary_is_exact_or_refused(shards: list[dict[str, int]], most: int) -> None:
    total = sum((Counter(shard) for shard in shards), Counter())
    expected = tuple(sorted(total, key=lambda value: (-total[value], value))[:2])
    try:
        assert most_frequent(FEATURE, [told(Counter(shard), most) for shard in shards]) == expected
    except InputError:
        assert any(len(shard) > most for shard in shards), "all values were told"


def test_where_the_frequent_values_are_clear_the_rare_ones_do_not_matter() -> None:
    shards = [
        ValueCounts(Counter({"home": 90, "cart": 50, "x": 3}), 3),
        ValueCounts(Counter({"cart": 80, "home": 9}), 4),
    ]
    assert most_frequent(FEATURE, shards) == ("cart", "home")
    unclear = [ValueCounts(Counter({"home": 9, "cart": 5}), 3), ValueCounts(Counter({"home": 8, "shop": 4}), 4)]
    with pytest.raises(InputError, match=r"\(pages\)\.per: `page` has more than 100,000 different values"):
        most_frequent(FEATURE, unclear)


@pytest.mark.parametrize("most", [7, 30, 1000])
def test_numbers_do_not_depend_on_the_shards(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "MOST_NUMBERS", most)
    rng = np.random.default_rng(0)
    order, values = rng.permutation(100).astype(np.uint64), rng.normal(size=100)
    expected = {float(values[i]) for i in np.argsort(order)[:most]}
    for shards in (1, 3, 10):
        whose = rng.integers(shards, size=100)
        parts = [Numbers(order[whose == k], values[whose == k]) for k in range(shards)]
        assert set(Numbers.of([Numbers.of([part]) for part in parts]).values.tolist()) == expected


def test_a_quantile_of_a_sample_is_the_same_for_any_shards(
    clicks: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"u{k},2024-0{month}-0{n + 1},a,1" for k in range(9) for month in (2, 3) for n in range(1 + k % 4)]
    Path("clicks.csv").write_text("\n".join(["uid,ts,item,price", *lines]) + "\n")
    clicks["snapshots"] |= {"history_days": 40}
    clicks["labels"] = {"many": {"group": "g", "table": "clicks", "sql": "count(*)", "at_least_quantile": 0.5}}
    assert fit(data_config(clicks)).thresholds == {"many": 2.0}, "1, 2, 3, 4, 1, 2, 3, 4, 1"
    for module in (fitting, learned):
        monkeypatch.setattr(module, "MOST_NUMBERS", 2)
    sampled = [fit(data_config(clicks), shards).thresholds for shards in (1, 2, 3)]
    assert sampled[0] == sampled[1] == sampled[2]
