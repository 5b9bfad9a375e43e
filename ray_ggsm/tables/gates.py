"""Publish gates: checks that must pass before a version is committed. Each gives a verdict that a person can read.

With the same encoder, anchor users of the same moment whose rows did not change must keep their vectors, and those of
the same moment as a whole must not move far. When the encoder changed, both are reported and neither fails.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.config import Config
from ray_ggsm.tables import drift
from ray_ggsm.tables.checks import FileCheck
from ray_ggsm.tables.pairs import newest_pairs
from ray_ggsm.tables.schema import matrix


class GatesConfig(Config):
    """Limits of the gates; shares lie between 0 and 1."""

    min_coverage: float = 1.0
    """Smallest share of the expected rows that have a vector or are counted as dead letters."""
    min_previous_share: float = 0.9
    """Smallest number of rows, as a share of the previous version's rows."""
    max_departed_share: float = 0.05
    """Largest share of the previous version's rows whose users have no vector now; more look like input that is not
    complete."""
    max_bucket_departed_share: float = 0.25
    """The same for each bucket of BUCKET_ROWS rows or more: an incomplete store shows in a few buckets."""
    max_dead_letter_share: float = 0.01
    """Largest share of the expected rows that could not be embedded."""
    max_zero: int = 0
    """Largest number of vectors that are all zero."""
    max_constant: int = 0
    """Largest number of vectors whose values are all the same."""
    min_norm: float = 0.5
    """Smallest length that a vector may have; published vectors normally have length 1."""
    max_norm: float = 1.5
    """Largest length that a vector may have."""
    max_similarity: float = 0.9999
    """Largest mean cosine between different anchor users; 1 means that the encoder tells nobody apart."""
    min_cosine_unchanged: float = 0.999
    """Smallest cosine between the old and new vector of an anchor user with the same content, moment and encoder."""
    max_mean_distance: float = 0.2
    """Largest mean cosine distance (1 - cosine) over all anchor users of the same moment when the encoder is the
    same."""


BUCKET_ROWS = 100
"""Rows of a bucket whose departures are judged on their own."""


@dataclass(frozen=True)
class Verdict:
    """The result of one gate."""

    gate: str
    """Name of the gate."""
    passed: bool
    """Whether the version may be published."""
    sentence: str
    """The measured value beside its limit, for people."""


class GateError(Exception):
    """Gates failed and nothing was published; jobs exit with code 3."""


def judge(
    config: GatesConfig,
    found: FileCheck,
    *,
    expected_rows: int,
    dead_letters: int,
    encoder: str,
    previous: FileCheck | None,
    previous_encoder: str | None,
    departed: Mapping[int, tuple[int, int]] | None = None,
    max_age_days: int | None = None,
) -> list[Verdict]:
    """Judge a version that is about to be published.

    Args:
        config: limits.
        found: merged checks of all its files; files that are kept count with `carried`.
        expected_rows: rows that the input asks for, those with a vector and dead letters together.
        dead_letters: input rows that got no vector.
        encoder: digest of the encoder.
        previous: `published(table, found)` of the version before; None: there is none.
        previous_encoder: digest of the encoder of that version.
        departed: bucket -> its rows in that version, and how many of them have no vector now.
        max_age_days: largest age of a vector, by the newest one; None: any.
    """
    verdicts = _counts(config, found, expected_rows, dead_letters) + _vectors(config, found)
    if found.ages:
        verdicts.append(_age(found.ages, max_age_days))
    if previous is not None:
        least = config.min_previous_share * previous.rows
        sentence = f"{found.rows:,} rows after {previous.rows:,} in the previous version; at least {least:,.0f} needed"
        verdicts.append(Verdict("previous", found.rows >= least, sentence))
        verdicts.append(_departed(config, departed or {}))
        verdicts += _drift(config, found, previous, encoder == previous_encoder)
    return verdicts


def enforce(verdicts: Sequence[Verdict]) -> None:
    """Raise GateError with the sentences of all failed gates, if any failed."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        raise GateError(
            "\n".join(
                [
                    f"nothing was published, {len(failed)} of {len(verdicts)} gates failed; written files are kept:",
                    *(f"  {verdict.gate}: {verdict.sentence}" for verdict in failed),
                    "Correct the cause and start the run again; or change the limit in the config; or publish as it is "
                    "with --publish-anyway REASON, which is recorded in the version's metadata.",
                ]
            )
        )


def _counts(config: GatesConfig, found: FileCheck, expected: int, dead: int) -> list[Verdict]:
    done = found.rows + dead
    covered = bool(expected) and config.min_coverage * expected <= done <= expected
    coverage = f"{found.rows:,} rows and {dead:,} dead letters for {expected:,} expected rows"
    dead_share = dead / max(expected, 1)
    return [
        Verdict("coverage", covered, f"{coverage}; at least {config.min_coverage:.1%} needed, and not more than all"),
        Verdict(
            "dead_letters",
            dead_share <= config.max_dead_letter_share,
            f"{dead:,} of {expected:,} rows got no vector ({dead_share:.2%}); at most "
            f"{config.max_dead_letter_share:.2%} allowed; the dead letters give the reasons",
        ),
        Verdict(
            "duplicates",
            found.keys == found.rows,
            f"{found.rows - found.keys:,} rows repeat a (user_id, as_of, instruction); none may",
        ),
    ]


def _vectors(config: GatesConfig, found: FileCheck) -> list[Verdict]:
    widths = ", ".join(map(str, found.widths)) or "none"
    similarity = _similarity(found.anchors)
    mean = found.norm_sum / max(found.measured, 1)
    known = found.measured > 0
    norms = f"between {found.norm_min:.4f} and {found.norm_max:.4f} (mean {mean:.4f})" if known else "unknown"
    return [
        Verdict("width", len(found.widths) <= 1 and 0 not in found.widths, f"vectors of width {widths}; one is needed"),
        Verdict("finite", not found.not_finite, f"{found.not_finite:,} vectors with NaN or infinite values; none may"),
        Verdict("zero", found.zero <= config.max_zero, f"{found.zero:,} zero vectors; at most {config.max_zero:,}"),
        Verdict(
            "constant",
            found.constant <= config.max_constant,
            f"{found.constant:,} vectors whose values are all the same; at most {config.max_constant:,}",
        ),
        Verdict(
            "norm",
            not known or (config.min_norm <= found.norm_min and found.norm_max <= config.max_norm),
            f"lengths of vectors {norms}; {config.min_norm:g} to {config.max_norm:g} allowed",
        ),
        Verdict(
            "collapse",
            similarity <= config.max_similarity,
            f"mean cosine between different anchor users {similarity:.5f}; at most {config.max_similarity:g}",
        ),
    ]


def _departed(config: GatesConfig, departed: Mapping[int, tuple[int, int]]) -> Verdict:
    rows, gone = (sum(counts[i] for counts in departed.values()) for i in (0, 1))
    share = gone / max(rows, 1)
    shares = {k: lost / before for k, (before, lost) in departed.items() if before >= BUCKET_ROWS}
    worst = max(shares, key=lambda k: shares[k], default=None)
    sentence = f"{gone:,} of {rows:,} rows are gone ({share:.2%}); at most {config.max_departed_share:.2%} allowed"
    passed = share <= config.max_departed_share
    if worst is not None:
        passed = passed and shares[worst] <= config.max_bucket_departed_share
        sentence += (
            f"; most in bucket {worst} ({shares[worst]:.2%}), at most {config.max_bucket_departed_share:.2%} allowed"
        )
    return Verdict("departed", passed, f"{sentence}; more look like input that is not complete")


def _age(ages: Mapping[str, int], max_age_days: int | None) -> Verdict:
    oldest, newest = (dt.datetime.fromisoformat(end(ages)) for end in (min, max))
    days = (newest - oldest).total_seconds() / 86_400
    sentence = f"vectors of {len(ages):,} moments, the oldest {days:.1f} days before the newest"
    if max_age_days is None:
        return Verdict("age", True, f"{sentence}; any age allowed")
    # a day of the calendar may have an hour more
    passed = days <= max_age_days + 1 / 24
    return Verdict("age", passed, f"{sentence}; at most {max_age_days} days allowed")


def _similarity(anchors: pa.Table) -> float:
    """Mean cosine between different users, within the instruction where it is largest."""
    parts = [anchors.filter(pc.equal(anchors["instruction"], i)) for i in anchors["instruction"].unique()]
    parts = [part for part in parts if len(part["user_id"].unique()) > 1 and len(_widths(part)) == 1]
    return max((drift.mean_similarity(matrix(part["embedding"])) for part in parts), default=0.0)


def _widths(anchors: pa.Table) -> list[int]:
    return pc.list_value_length(anchors["embedding"]).unique().to_pylist()


def _drift(config: GatesConfig, found: FileCheck, previous: FileCheck, same_encoder: bool) -> list[Verdict]:
    old, new = newest_pairs(previous.anchors, found.anchors)
    if not old.num_rows:
        return [Verdict("drift", True, "no anchor user is in both versions; nothing to compare")]
    if len(_widths(old)) != 1 or len(_widths(new)) != 1 or (same_encoder and _widths(old) != _widths(new)):
        return [Verdict("drift", False, f"anchor vectors had width {_widths(old)} and have {_widths(new)} now")]
    old_NA, new_NB = matrix(old["embedding"]), matrix(new["embedding"])
    shape = (
        f"Procrustes distance {drift.procrustes(old_NA, new_NB):.4f}, overlap of the 10 nearest neighbours "
        f"{drift.neighbour_overlap(old_NA, new_NB):.1%}"
    )
    if not same_encoder:
        return [Verdict("drift", True, f"the encoder changed; {old.num_rows} anchor rows compared: {shape}")]
    same_N = pc.equal(old["as_of"], new["as_of"]).to_numpy()
    cosine_N = drift.cosines(old_NA, new_NB)
    distance = float(1 - cosine_N.mean())
    if not same_N.any():
        moved = f"mean cosine distance {distance:.4f} between vectors of different moments, which may move; {shape}"
        return [Verdict("drift", True, f"no anchor row has a vector of the same moment; {moved}")]
    cosine_N = cosine_N[same_N]
    unchanged_N = pc.equal(old["content"], new["content"]).to_numpy()[same_N]
    least = float(cosine_N[unchanged_N].min(initial=1.0))
    distance = float(1 - cosine_N.mean())
    return [
        Verdict(
            "unchanged",
            least >= config.min_cosine_unchanged,
            f"smallest cosine {least:.5f} among {int(unchanged_N.sum())} anchor rows of equal content, moment and "
            f"encoder; at least {config.min_cosine_unchanged:g} needed; else the encoder's files or the input changed "
            "unseen",
        ),
        Verdict(
            "drift",
            distance <= config.max_mean_distance,
            f"mean cosine distance {distance:.4f} over {len(cosine_N)} anchor rows of equal moment; at most "
            f"{config.max_mean_distance:g} allowed; {shape}",
        ),
    ]
