"""Simulated people: traits that stay, and the events of a day that follow from them.

A user's events of a table are a Poisson process whose rate is their activity, times a weekly and a daily rhythm of
their own. Contents come from two groups that a user prefers, and from all others now and then. History and future are
independent given the traits, so the probability of a label given the traits is exact, and no model can do better.

Legend: U users, E events, G groups of contents.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

import numpy as np
import pyarrow as pa
from scipy.special import ndtri

from ray_ggsm.simulation.config import SimulationConfig
from ray_ggsm.simulation.draws import MOST, mixed, poisson, stream, uniform

FIRST, SECOND = 0.5, 0.3
"""Shares of a user's events that belong to the two groups that they prefer; the rest is spread over all groups."""
HALF_WIDTH_HOURS = 4.0
"""Events are spread this far around the hour that a user prefers."""


@dataclass(frozen=True)
class Traits:
    """What makes users different, (U,) each."""

    user_U: np.ndarray
    """int64: numbers of the users."""
    activity_U: np.ndarray
    """Factor of all rates; its mean is 1."""
    weekend_U: np.ndarray
    """Factor of the rate on Saturdays and Sundays, .5 to 2."""
    hour_U: np.ndarray
    """Hour of the day (UTC) around which events are."""
    first_U: np.ndarray
    """int64: the group that is preferred most."""
    second_U: np.ndarray
    """int64: the next one; it may be the same."""
    spending_U: np.ndarray
    """Factor of amounts; its mean is 1."""

    @classmethod
    def of(cls, config: SimulationConfig, user_U: np.ndarray) -> "Traits":
        """The traits of users with these numbers."""
        u = {name: uniform(stream(config.seed, "trait", name), user_U) for name in cls.__dataclass_fields__}
        return cls(
            user_U=user_U,
            activity_U=_log_normal(u["activity_U"], config.spread),
            weekend_U=2.0 ** (2 * u["weekend_U"] - 1),
            hour_U=24 * u["hour_U"],
            first_U=(config.groups * u["first_U"] ** 2).astype(np.int64),
            second_U=(config.groups * u["second_U"]).astype(np.int64),
            spending_U=_log_normal(u["spending_U"], 0.5),
        )

    def rate(self, config: SimulationConfig, table: str, day: date) -> np.ndarray:
        """Expected number of events of a table on a day, at most `MOST`, (U,)."""
        # five working days and two at the weekend: the mean over a week is that of the config
        weekend_U = self.weekend_U if day.weekday() >= 5 else 1.0
        rate_U = config.tables[table].events_per_day * self.activity_U * weekend_U * 7 / (5 + 2 * self.weekend_U)
        return np.minimum(rate_U, MOST)

    def group_share(self, config: SimulationConfig, group: int) -> np.ndarray:
        """Share of a user's events that belong to a group of contents, (U,)."""
        rest = (1 - FIRST - SECOND) / config.groups
        return FIRST * (self.first_U == group) + SECOND * (self.second_U == group) + rest


def names(user_U: np.ndarray) -> pa.Array:
    """The users' ids: u and ten digits."""
    digits = (user_U[:, None] // 10 ** np.arange(9, -1, -1)) % 10 + ord("0")
    letters = np.concatenate([np.full((len(user_U), 1), ord("u")), digits], axis=1).astype(np.uint8)
    offsets = pa.array(np.arange(len(user_U) + 1, dtype=np.int32) * 11).buffers()[1]
    return pa.Array.from_buffers(pa.string(), len(user_U), [None, offsets, pa.py_buffer(letters.tobytes())])


def events(config: SimulationConfig, traits: Traits, table: str, day: date) -> pa.Table:
    """A table's events of some users on a day, in the order of their time: user, time, item, topic and, where the table
    has them, amount."""
    key = stream(config.seed, table, day.isoformat())
    count_U = poisson(uniform(key, traits.user_U), traits.rate(config, table, day))
    of_E = np.repeat(np.arange(len(count_U)), count_U)
    rank_E = np.arange(len(of_E)) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    event_E = mixed(mixed(key, traits.user_U)[of_E], rank_E)

    def draw(name: str) -> np.ndarray:
        return uniform(stream(config.seed, name), event_E)

    group_E = _groups(config, traits, of_E, draw("topic"))
    hour_E = (traits.hour_U[of_E] + HALF_WIDTH_HOURS * (2 * draw("hour") - 1)) % 24
    time_E = np.datetime64(day, "us") + (hour_E * 3_600_000_000).astype("timedelta64[us]")
    rank_in_group_E = np.searchsorted(_zipf(config.tables[table].contents), draw("item"))
    columns = {
        "user": names(traits.user_U).take(pa.array(of_E)),
        "time": pa.array(time_E, pa.timestamp("us", "UTC")),
        "item": _texts(table, group_E, rank_in_group_E),
        "topic": pa.array([f"topic {g}" for g in range(config.groups)]).take(pa.array(group_E)),
    }
    mean = config.tables[table].mean_amount
    if mean is not None:
        amount_E = mean * traits.spending_U[of_E] * _log_normal(draw("amount"), 0.7)
        columns["amount"] = pa.array(np.round(amount_E, 2).astype(np.float32))
    return pa.table(columns).take(pa.array(np.lexsort((event_E, time_E))))


def facts(config: SimulationConfig, traits: Traits) -> pa.Table:
    """The static facts about users, which hint at their traits: user, age, region."""
    noise_U = uniform(stream(config.seed, "age"), traits.user_U)
    age_U = 18 + (50 * (0.5 * noise_U + 0.5 * traits.hour_U / 24)).astype(np.int64)
    other_U = uniform(stream(config.seed, "region"), traits.user_U)
    region_U = np.where(other_U < 0.5, traits.first_U, (other_U * config.groups).astype(np.int64))
    regions = pa.array([f"region {g}" for g in range(config.groups)])
    return pa.table({"user": names(traits.user_U), "age": age_U, "region": regions.take(pa.array(region_U))})


def probabilities(config: SimulationConfig, traits: Traits, table: str, first: date, group: int | None) -> np.ndarray:
    """Probability, given the traits, of an event of a table (of a group) within `horizon_days` from `first`, (U,)."""
    days = [first + timedelta(days=k) for k in range(config.horizon_days)]
    mean_U = np.sum([traits.rate(config, table, day) for day in days], axis=0)
    return -np.expm1(-mean_U * (1.0 if group is None else traits.group_share(config, group)))


def best_auc(probability_U: np.ndarray) -> float | None:
    """The AUC that is to be expected if users are ranked by the exact probability of their label; None where hardly any
    pair of users can have different labels.

    Over all pairs of users: the probability that the first has the label, the second has not, and the first has the
    higher probability, or half of it where both are equal; divided by that without the condition.
    """
    p = np.sort(probability_U)
    values, start, count = np.unique(p, return_index=True, return_counts=True)
    without = np.concatenate([[0.0], np.cumsum(1 - p)])
    below, equal = without[start], count * (1 - values)
    won = (values * count * (below + 0.5 * equal)).sum() - 0.5 * (p * (1 - p)).sum()
    pairs = p.sum() * (1 - p).sum() - (p * (1 - p)).sum()
    return float(won / pairs) if pairs > 1e-6 else None


def _log_normal(uniform_N: np.ndarray, spread: float) -> np.ndarray:
    """Log-normal numbers with mean 1."""
    return np.exp(spread * ndtri(uniform_N) - spread**2 / 2)


def _groups(config: SimulationConfig, traits: Traits, of_E: np.ndarray, draw_E: np.ndarray) -> np.ndarray:
    """The group of contents of each event, int64 (E,)."""
    rest_E = np.maximum((draw_E - FIRST - SECOND) / (1 - FIRST - SECOND), 0)
    other_E = np.minimum((rest_E * config.groups).astype(np.int64), config.groups - 1)
    return np.where(
        draw_E < FIRST, traits.first_U[of_E], np.where(draw_E < FIRST + SECOND, traits.second_U[of_E], other_E)
    )


@lru_cache(maxsize=16)
def _zipf(contents: int) -> np.ndarray:
    """Cumulative shares of the contents of a group, without the last."""
    share = 1 / np.arange(1, contents + 1)
    return np.asarray((np.cumsum(share) / share.sum())[:-1])


def _texts(table: str, group_E: np.ndarray, rank_in_group_E: np.ndarray) -> pa.Array:
    """The texts of events' contents; each distinct one is made once."""
    code_P, of_E = np.unique(group_E << 32 | rank_in_group_E, return_inverse=True)
    texts = [f"{table} {code >> 32}-{code & 0xFFFFFFFF}" for code in code_P.tolist()]
    return pa.array(texts, pa.string()).take(pa.array(of_E))
