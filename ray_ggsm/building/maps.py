"""The maps of a candidate version: from its encoder's space into those of older versions, fitted before the commit.

Anchors are users who have a vector in both. They are read bucket by bucket until there are enough: a bucket is chosen
by a hash of the user, so any bucket is a random sample. Nobody who was forgotten is one, because such a user has no row
in the candidate.

Legend: N anchor rows, A width of the old vectors, B of the new ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.building.candidate import Candidate
from ray_ggsm.config import InputError
from ray_ggsm.hashing import hash64
from ray_ggsm.tables import scan
from ray_ggsm.tables.compatible import recorded_maps, space, space_of, write_map
from ray_ggsm.tables.config import CompatibleConfig
from ray_ggsm.tables.gates import Verdict
from ray_ggsm.tables.metadata import RecordedMap
from ray_ggsm.tables.pairs import newest_pairs
from ray_ggsm.tables.reader import EmbeddingTable, Version, open_table
from ray_ggsm.tables.schema import KEY, matrix
from ray_ggsm.tables.timeline import standing

COLUMNS = [*KEY, "embedding"]


@dataclass(frozen=True)
class FittedMaps:
    """The maps of a candidate, and whether they are good enough."""

    maps: tuple[RecordedMap, ...] = ()
    """Those that could be fitted; their files are written."""
    verdict: Verdict | None = None
    """The gate `compatible`; None: no map was due."""


@dataclass(frozen=True)
class Anchors:
    """Vectors of the same users in two versions, row by row."""

    old_NA: np.ndarray
    """In the older one."""
    new_NB: np.ndarray
    """In the candidate."""
    same_moment: bool
    """Whether both are of the same moment in every row."""


def fit_maps(candidate: Candidate, config: CompatibleConfig) -> FittedMaps:
    """Fit the maps that the candidate needs and its table has not, and write their files.

    Raises:
        InputError: a version of `config.to` is not there.
    """
    if len(candidate.check.widths) != 1:
        return FittedMaps()  # nothing was encoded, or the gate `width` refuses the candidate
    least = -1.0 if config.min_agreement is None else config.min_agreement
    maps: list[RecordedMap] = []
    sentences: list[str] = []
    passed = True
    for place, ends in _due(candidate, config):
        try:
            made = _fitted(candidate, place, ends, config)
        except InputError as error:
            instruction, source, target = ends
            sentences.append(f"no map from {source} to {target} ('{instruction}'): {error}")
            passed = passed and not place.required
        else:
            maps.append(made)
            sentences.append(_told(made))
            passed = passed and (made.agreement[made.kind] >= least or not place.required)
    limit = "any agreement allowed" if config.min_agreement is None else f"at least {least:g} needed"
    verdict = Verdict("compatible", passed, f"{'; '.join(sentences)}; {limit}")
    return FittedMaps(tuple(maps), verdict if sentences else None)


@dataclass(frozen=True)
class Target:
    """A version into whose space the candidate's vectors are mapped."""

    table: EmbeddingTable
    version: Version
    required: bool
    """Whether the gate fails without a map that is good enough; a tag may be old, and few of its users still here."""


def check_targets(config: CompatibleConfig, previous: EmbeddingTable | None) -> None:
    """Look at the versions that the config names, before anything is encoded.

    Raises:
        InputError: one is not there.
    """
    for place in config.to:
        table = previous if place.table is None else open_table(place.table)
        if table is not None:
            table.metadata(place.version)


Ends = tuple[str, str, str]
"""Instruction, and the spaces that a map leads from and to."""


def _due(candidate: Candidate, config: CompatibleConfig) -> Iterator[tuple[Target, Ends]]:
    """The maps that the table does not have yet, or has in versions only that a rollback withdrew."""
    build = candidate.build
    history = candidate.previous.history() if candidate.previous else []
    counted = standing(history)
    known = recorded_maps([commit for commit in history if commit.version in counted])
    seen = {(each.instruction, each.source, each.target) for each in known}
    for place in _targets(candidate, config):
        metadata = place.table.metadata(place.version)
        for instruction, text in build.embedding.instructions.items():
            source = space(build.encoder_digest, build.embedding.mask, text)
            target = space_of(metadata, instruction)
            if target is not None and target != source and (instruction, source, target) not in seen:
                seen.add((instruction, source, target))
                yield place, (instruction, source, target)


def _targets(candidate: Candidate, config: CompatibleConfig) -> Iterator[Target]:
    """The version before, those of the config, and those that have a tag."""
    previous = candidate.previous
    if previous is not None:
        yield Target(previous, None, True)
    for place in config.to:
        table = previous if place.table is None else open_table(place.table)
        if table is not None:  # else it is the table's first version
            yield Target(table, place.version, True)
    if previous is not None:
        yield from (Target(previous, name, False) for name in previous.tags())


def _fitted(candidate: Candidate, place: Target, ends: Ends, config: CompatibleConfig) -> RecordedMap:
    """Fit one map and write its file."""
    from ray_ggsm.tables.fit_map import fit_map  # loads scikit-learn, which most nights do without

    instruction, source, target = ends
    anchors = _anchors(candidate, place, instruction, config)
    found = fit_map(anchors.old_NA, anchors.new_NB, config)
    return RecordedMap(
        instruction=instruction,
        source=source,
        target=target,
        file=write_map(candidate.build.table, found.map),
        kind=found.kind,
        anchors=found.anchors,
        held_out=found.held_out,
        same_moment=anchors.same_moment,
        agreement=dict(found.agreement),
        raw=found.raw,
    )


def _anchors(candidate: Candidate, place: Target, instruction: str, config: CompatibleConfig) -> Anchors:
    """Anchor rows of an instruction; only those whose vectors are of the same moment, if these are enough.

    Raises:
        InputError: there are none.
    """
    pairs: list[tuple[pa.Table, pa.Table]] = []
    for files in _files(candidate):
        new = candidate.build.without_gone(scan.read_files(files, COLUMNS))
        new = new.filter(pc.equal(new["instruction"], instruction))
        users = new["user_id"].combine_chunks().unique()
        pairs.append(newest_pairs(place.table.read(version=place.version, user_ids=users, columns=COLUMNS), new))
        if sum(len(old) for old, _ in pairs) >= config.anchors:
            break
    old, new = (pa.concat_tables(side) for side in zip(*pairs, strict=True))
    if not len(old):
        raise InputError("no user has a vector of both")
    first = pa.array(np.argsort(hash64(old["user_id"]), kind="stable")[: config.anchors])
    old, new = old.take(first), new.take(first)
    same = pc.equal(old["as_of"], new["as_of"])
    old_NA, new_NB, same_N = matrix(old["embedding"]), matrix(new["embedding"]), same.to_numpy()
    if same_N.sum() >= config.needed(old_NA.shape[1], new_NB.shape[1]):
        return Anchors(old_NA[same_N], new_NB[same_N], True)
    return Anchors(old_NA, new_NB, bool(same_N.all()))


def _files(candidate: Candidate) -> Iterator[list[str]]:
    """The candidate's files (full locations), bucket by bucket."""
    kept: dict[int, list[str]] = {}
    for file in candidate.previous.data_files() if candidate.previous else ():
        kept.setdefault(file.bucket, []).append(file.path)
    for bucket in candidate.buckets:
        own = kept.get(bucket.bucket, []) if bucket.kept else [bucket.file.path] if bucket.file else []
        if own:
            yield [storage.join(candidate.build.table, path) for path in own]


def _told(made: RecordedMap) -> str:
    """A map in words."""
    moments = "" if made.same_moment else " of different moments"
    raw = "" if made.raw is None else f", {made.raw:.4f} without it"
    return (
        f"{made.kind} from {made.source} to {made.target} ('{made.instruction}') on {made.anchors:,} anchor rows"
        f"{moments}: mean cosine {made.agreement[made.kind]:.4f} on {made.held_out:,} held-out ones{raw}"
    )
