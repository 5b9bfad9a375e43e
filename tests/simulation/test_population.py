"""The simulated population: draws that depend on what they are for, traits that show in the events, exact best AUCs."""

from datetime import date, timedelta
from itertools import product

import numpy as np
import pyarrow.compute as pc
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from ray_ggsm.simulation.config import SimulatedTable, SimulationConfig
from ray_ggsm.simulation.draws import MOST, poisson, stream, uniform
from ray_ggsm.simulation.labels import best_aucs
from ray_ggsm.simulation.population import Traits, best_auc, events, facts, names, probabilities

SATURDAY = date(2025, 1, 4)
CONFIG = SimulationConfig(users=3000, first_day=date(2025, 1, 1), days=14, horizon_days=9, seed=3)


def of(users: int, config: SimulationConfig = CONFIG) -> Traits:
    return Traits.of(config, np.arange(users))


def test_draws_are_uniform_and_unrelated() -> None:
    n = 50_000
    first, second = uniform(stream(1, "a"), np.arange(n)), uniform(stream(1, "b"), np.arange(n))
    assert scipy.stats.kstest(first, "uniform").pvalue > 1e-4
    for other in (second, np.roll(first, 1), uniform(stream(2, "a"), np.arange(n))):
        assert abs(np.corrcoef(first, other)[0, 1]) < 5 / n**0.5


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"first_day": date(9999, 12, 1)}, "end after 9999-12-31"),
        ({"tables": {"ready": SimulatedTable(events_per_day=1, contents=1)}}, "a table cannot be called 'ready'"),
        ({"tables": {"A b": SimulatedTable(events_per_day=1, contents=1)}}, "pattern"),
    ],
)
def test_what_cannot_be_written_is_refused(settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SimulationConfig(**{"users": 1, "first_day": date(2025, 1, 1), "days": 20, **settings})


def test_poisson_numbers_are_those_of_the_inverse_distribution() -> None:
    u, mean = map(np.ravel, np.meshgrid([1e-12, 0.003, 0.4, 0.77, 0.9999, 1 - 2**-53], [1e-9, 0.1, 1.3, 29.0, MOST]))
    difference = np.abs(poisson(u, mean) - scipy.stats.poisson.ppf(u, mean))
    assert not difference[u < 0.99999].any()
    assert difference.max() <= 3, "next to 1, rounding decides"


def test_a_users_events_do_not_depend_on_the_users_beside() -> None:
    together = events(CONFIG, of(200), "bill", SATURDAY)
    more = CONFIG.model_copy(update={"users": 10**6, "days": 100})
    for user in (0, 7, 199):
        alone = events(more, Traits.of(more, np.array([user])), "bill", SATURDAY)
        assert alone.equals(together.filter(pc.equal(together["user"], f"u{user:010d}")))
    others = events(CONFIG.model_copy(update={"seed": 4}), of(200), "bill", SATURDAY)
    assert not others.equals(together)


def test_ids_and_facts() -> None:
    assert names(np.array([0, 42, 1234567890])).to_pylist() == ["u0000000000", "u0000000042", "u1234567890"]
    table = facts(CONFIG, of(3000))
    assert table.column_names == ["user", "age", "region"]
    assert 18 <= pc.min(table["age"]).as_py() <= pc.max(table["age"]).as_py() <= 67
    first = np.array([f"region {g}" for g in of(3000).first_U])
    assert (first == table["region"].to_numpy()).mean() > 0.45, "the region hints at the preferred group"


def test_events_follow_rates_and_rhythm() -> None:
    traits = of(3000)
    for table, day in product(("bill", "page_view"), (SATURDAY, SATURDAY + timedelta(days=2))):
        made = events(CONFIG, traits, table, day)
        rate_U = traits.rate(CONFIG, table, day)
        assert abs(len(made) - rate_U.sum()) < 5 * rate_U.sum() ** 0.5
        assert made["time"].to_numpy().min() >= np.datetime64(day, "us")
        assert made["time"].to_numpy().max() < np.datetime64(day + timedelta(days=1), "us")
        assert made["time"].combine_chunks().equals(made.sort_by("time")["time"].combine_chunks())
    week = [traits.rate(CONFIG, "bill", SATURDAY + timedelta(days=k)) for k in range(7)]
    np.testing.assert_allclose(np.mean(week, axis=0), 0.8 * traits.activity_U)
    np.testing.assert_allclose(week[0] / week[2], traits.weekend_U)
    assert traits.activity_U.mean() == pytest.approx(1, abs=5 * (np.e - 1) ** 0.5 / 3000**0.5)


def test_contents_follow_zipf_and_preferences() -> None:
    config = CONFIG.model_copy(update={"tables": {"bill": SimulatedTable(events_per_day=8, contents=4, mean_amount=5)}})
    traits = of(3000, config)
    made = events(config, traits, "bill", SATURDAY)
    rank_E = np.array([int(item.rsplit("-", 1)[1]) for item in made["item"].to_pylist()])
    expected = np.array([1, 1 / 2, 1 / 3, 1 / 4]) / (1 + 1 / 2 + 1 / 3 + 1 / 4)
    assert scipy.stats.chisquare(np.bincount(rank_E), expected * len(made)).pvalue > 1e-4
    topics = np.array([f"topic {g}" for g in range(config.groups)])
    user_E = np.array([int(user[1:]) for user in made["user"].to_pylist()])
    for group in (0, 5):
        share_E = traits.group_share(config, group)[user_E]
        found = (made["topic"].to_numpy() == topics[group]).sum()
        assert abs(found - share_E.sum()) < 5 * (share_E * (1 - share_E)).sum() ** 0.5
        assert [text.split("-")[0] for text in made["item"].to_pylist()[:50]] == [
            topic.replace("topic", "bill") for topic in made["topic"].to_pylist()[:50]
        ]
    np.testing.assert_allclose(sum(traits.group_share(config, g) for g in range(config.groups)), 1)
    amount = made["amount"].to_numpy() / traits.spending_U[user_E]
    assert amount.mean() == pytest.approx(5, rel=0.05)
    assert "amount" not in events(CONFIG, of(5), "search", SATURDAY).column_names


def test_the_best_auc_equals_a_loop_over_pairs() -> None:
    p = np.array([0.1, 0.4, 0.4, 0.9, 0.4, 0.1])
    won = pairs = 0.0
    for i, j in product(range(len(p)), repeat=2):
        if i != j:
            weight = p[i] * (1 - p[j])
            won, pairs = won + weight * ((p[i] > p[j]) + 0.5 * (p[i] == p[j])), pairs + weight
    assert best_auc(p) == pytest.approx(won / pairs)
    assert best_auc(np.full(7, 0.3)) == pytest.approx(0.5)
    assert best_auc(np.ones(7)) is None
    assert best_auc(np.array([0.3])) is None


@pytest.mark.parametrize(("table", "group"), [("app", None), ("bill", 0)])
def test_what_happens_has_the_probability_that_is_told(table: str, group: int | None) -> None:
    traits, first = of(3000), SATURDAY
    p = probabilities(CONFIG, traits, table, first, group)
    happened = np.zeros(3000, dtype=bool)
    for k in range(CONFIG.horizon_days):
        made = events(CONFIG, traits, table, first + timedelta(days=k))
        if group is not None:
            made = made.filter(pc.equal(made["topic"], f"topic {group}"))
        happened[[int(user[1:]) for user in made["user"].to_pylist()]] = True
    assert abs(happened.sum() - p.sum()) < 5 * (p * (1 - p)).sum() ** 0.5
    told = best_aucs(CONFIG, first)[f"any_{table}" if group is None else f"{table}_topic_{group}"]
    assert told == pytest.approx(best_auc(p))
    assert roc_auc_score(happened, p) == pytest.approx(told, abs=0.03)
