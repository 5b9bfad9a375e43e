"""Publish gates: checks that must pass before a version is committed. Each gives a verdict that a person can read.

With the same encoder, users whose rows did not change must keep their vectors, and the anchors as a whole must not
move far. When the encoder changed, both are reported and neither fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.config import Config
from ray_ggsm.tables import drift
from ray_ggsm.tables.checks import FileCheck
from ray_ggsm.tables.schema import KEY, matrix

_NOTHING = pa.array([], pa.int64())


class GatesConfig(Config):
    """Limits of the gates; shares lie between 0 and 1."""

    min_coverage: float = 1.0
    """Smallest share of the expected rows that have a vector or are counted as dead letters."""
    min_previous_share: float = 0.9
    """Smallest number of rows, as a share of the previous version's rows."""
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
    """Smallest cosine between the old and new vector of an anchor user with the same content and encoder."""
    max_mean_distance: float = 0.2
    """Largest mean cosine distance (1 - cosine) over all anchor users when the encoder is the same."""


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
    """
    verdicts = _counts(config, found, expected_rows, dead_letters) + _vectors(config, found)
    if previous is not None:
        least = config.min_previous_share * previous.rows
        sentence = f"{found.rows:,} rows after {previous.rows:,} in the previous version; at least {least:,.0f} needed"
        verdicts.append(Verdict("previous", found.rows >= least, sentence))
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


def _similarity(anchors: pa.Table) -> float:
    """Mean cosine between different users, within the instruction where it is largest."""
    parts = [anchors.filter(pc.equal(anchors["instruction"], i)) for i in anchors["instruction"].unique()]
    parts = [part for part in parts if len(part["user_id"].unique()) > 1 and len(_widths(part)) == 1]
    return max((drift.mean_similarity(matrix(part["embedding"])) for part in parts), default=0.0)


def _widths(anchors: pa.Table) -> list[int]:
    return pc.list_value_length(anchors["embedding"]).unique().to_pylist()


def _drift(config: GatesConfig, found: FileCheck, previous: FileCheck, same_encoder: bool) -> list[Verdict]:
    old, new = _pairs(previous.anchors, found.anchors)
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
    cosine_N = drift.cosines(old_NA, new_NB)
    unchanged_N = pc.equal(old["content"], new["content"]).to_numpy()
    least = float(cosine_N[unchanged_N].min(initial=1.0))
    distance = float(1 - cosine_N.mean())
    return [
        Verdict(
            "unchanged",
            least >= config.min_cosine_unchanged,
            f"smallest cosine {least:.5f} among {int(unchanged_N.sum())} anchor rows of equal content and encoder; "
            f"at least {config.min_cosine_unchanged:g} needed; else the encoder's files or the input changed unseen",
        ),
        Verdict(
            "drift",
            distance <= config.max_mean_distance,
            f"mean cosine distance {distance:.4f} over {old.num_rows} anchor rows; at most "
            f"{config.max_mean_distance:g} allowed; {shape}",
        ),
    ]


def _pairs(previous: pa.Table, found: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The anchor rows of users and instructions that both versions have, in one order; the newest of several as_of."""
    old, new = _newest(previous), _newest(found)
    shared = sorted(old.keys() & new.keys())
    return previous.take([old[key] for key in shared] or _NOTHING), found.take([new[key] for key in shared] or _NOTHING)


def _newest(anchors: pa.Table) -> dict[tuple[str, str], int]:
    """Position of the newest row of each (user_id, instruction)."""
    order = anchors.select(KEY).append_column("row", pa.array(range(anchors.num_rows), pa.int64())).sort_by("as_of")
    names = [order[name].to_pylist() for name in ("user_id", "instruction", "row")]
    return {(user, instruction): row for user, instruction, row in zip(*names, strict=True)}
