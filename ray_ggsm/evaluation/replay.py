"""What vectors of earlier nights cost: probe AUCs on them against those on vectors of tonight, of the same rows.

Shapes: N test rows.
"""

from collections.abc import Mapping

import numpy as np

from ray_ggsm.config import Record
from ray_ggsm.evaluation.alignment import Aligned
from ray_ggsm.evaluation.metrics import MEAN, Estimate, bootstrap_aucs, paired_difference
from ray_ggsm.evaluation.results import RESAMPLES, Probed

CARRIED, EXACT = "carried", "exact"
"""Names of the vectors: those that the table has, and those of tonight."""
SILENCE = (0, 3, 7, 14, 30)
"""First days of the groups of test rows by the days since the user's last event."""


class PlayedNight(Record):
    """One night."""

    day: str
    version: int
    users: int
    """Users in the table."""
    expected: int
    """Users whom the events give a row tonight."""
    repeated: int
    """Rows beyond one per user."""
    encoded: int
    oldest_days: int
    """Age of the oldest vector."""
    seconds: float


class Loss(Record):
    """AUC of a probe on carried vectors minus that on exact ones, mean over the labels."""

    probe: str
    group: str
    """Days since the last event of the rows; "all" of them."""
    rows: int
    carried_rows: int
    """Rows whose vector is of an earlier night."""
    labels: int
    """Labels that have both classes in the group."""
    exact: float
    """AUC on exact vectors."""
    difference: float
    low: float
    high: float
    """Ends of the 95 % interval, over users."""


class Replay(Record):
    """What a replay found."""

    nights: tuple[PlayedNight, ...]
    losses: tuple[Loss, ...]
    largest_error: float
    """Largest difference of any number between a vector of tonight and the one that a full embedding gives."""


def groups_of(silence_N: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> which rows, (N,) bool, by whole days since the last event (N,); "all" first."""
    found = {"all": np.ones(len(silence_N), dtype=bool)}
    for first, end in zip(SILENCE, (*SILENCE[1:], None), strict=True):
        name = f"{first} or more" if end is None else f"{first} to {end - 1}"
        found[name] = (silence_N >= first) & (silence_N < (np.inf if end is None else end))
    return found


def losses_of(probed: Probed, test: Aligned, silence_N: np.ndarray, is_carried_N: np.ndarray, seed: int) -> list[Loss]:
    """The losses of every probe, over all rows and by silence; a group in which no label has both classes has none.

    Args:
        probed: results on CARRIED and EXACT vectors of the same rows.
        test: the rows.
        silence_N: whole days since the last event.
        is_carried_N: whether the row's vector is of an earlier night.
        seed: of the bootstrap.
    """
    found = []
    for kind in sorted({kind for _, kind in probed}):
        scores = {name: {label: r.scores for label, r in probed[name, kind].items()} for name in (CARRIED, EXACT)}
        for group, in_group_N in groups_of(silence_N).items():
            labels = {
                label: values_N[in_group_N]
                for label, values_N in test.labels.items()
                if np.isin([0.0, 1.0], values_N[in_group_N]).all()
            }
            if labels:
                both = {
                    name: {label: scores_N[in_group_N] for label, scores_N in each.items() if label in labels}
                    for name, each in scores.items()
                }
                exact, difference = _difference(labels, both, test.users[in_group_N], seed)
                found.append(
                    Loss(
                        probe=kind,
                        group=group,
                        rows=int(in_group_N.sum()),
                        carried_rows=int((in_group_N & is_carried_N).sum()),
                        labels=len(labels),
                        exact=exact,
                        difference=difference.value,
                        low=difference.low,
                        high=difference.high,
                    )
                )
    return found


def _difference(
    labels: Mapping[str, np.ndarray], scores: Mapping[str, Mapping[str, np.ndarray]], users_N: np.ndarray, seed: int
) -> tuple[float, Estimate]:
    """Mean AUC on exact vectors, and that on carried ones minus it."""
    carried, exact = (bootstrap_aucs(labels, scores[name], users_N, RESAMPLES, seed) for name in (CARRIED, EXACT))
    return float(exact.values.mean()), paired_difference(carried, exact)[MEAN]


def headline(replay: Replay) -> str:
    """The finding in one sentence."""
    later = replay.nights[1:] or replay.nights
    share = sum(night.encoded for night in later) / max(sum(night.users for night in later), 1)
    overall = [loss for loss in replay.losses if loss.group == "all"]
    told = "; ".join(f"{o.probe} probe {o.difference:+.4f} ({o.low:+.4f} to {o.high:+.4f})" for o in overall)
    return f"{share:.0%} of the users were encoded per night; AUC of carried minus exact vectors: {told}"


def markdown(replay: Replay, title: str, made: str) -> str:
    """The page as Markdown; `made` says how it was made."""
    nights = replay.nights
    wrong = sum(abs(night.users - night.expected) + night.repeated for night in nights)
    lines = [
        f"# {title}",
        "",
        f"{headline(replay)}. 95 % intervals over users.",
        "",
        f"{made}.",
        "",
        f"- {len(nights)} nights, {nights[0].day} to {nights[-1].day}; {nights[-1].users:,} users at the end.",
        f"- Users lost or repeated over all nights: {wrong}. Oldest vector on any night: "
        f"{max(night.oldest_days for night in nights)} days.",
        f"- Vectors of the night itself differ from a full embedding by at most {replay.largest_error:.1e}.",
        f"- A night took {np.median([n.seconds for n in nights[1:] or nights]):.1f} s (median); the first one "
        f"{nights[0].seconds:.1f} s.",
        "",
        "| probe | days since the last event | rows | of them carried | AUC exact | carried minus exact |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {o.probe} | {o.group} | {o.rows:,} | {o.carried_rows:,} | {o.exact:.4f} | {o.difference:+.4f} "
        f"({o.low:+.4f} to {o.high:+.4f}){'' if o.labels == replay.losses[0].labels else f', {o.labels} labels'} |"
        for o in replay.losses
    ]
    lines += ["", "![share encoded per night](replay.svg)", "", "| night | users | encoded | oldest | seconds |"]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| {n.day} | {n.users:,} | {n.encoded:,} ({n.encoded / max(n.users, 1):.0%}) | {n.oldest_days} d | "
        f"{n.seconds:.1f} |"
        for n in nights
    ]
    return "\n".join(lines) + "\n"
