"""The drift job: what changed between two encoders, or two versions or moments of a table, for the same users.

Cosines compare vectors where they stand, Procrustes distance and neighbours whatever the coordinate system
(`ray_ggsm.tables.drift`), and probes tell whether the new vectors say more or less about labels: the difference of the
AUCs on the same test rows, with an interval over users.
"""

from dataclasses import asdict
from typing import Any

import pyarrow as pa
from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Runtime
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.counts import count_rows, left_out
from ray_ggsm.evaluation.labels import KEYS, ProbeData, align_all, check_disjoint, read_labels
from ray_ggsm.evaluation.metrics import MEAN
from ray_ggsm.evaluation.results import results
from ray_ggsm.evaluation.summary import TITLES
from ray_ggsm.experiment import RayConfig
from ray_ggsm.on_ray.cluster.connection import check_place, started
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.tables.compare import Side, SideConfig, opened, shared
from ray_ggsm.tables.drift import moved

FIT, SCORE = "fit", "score"
"""Roles of label tables."""
OTHER_ENCODER = "the encoders differ, so cosines compare coordinates that need not mean the same"
OTHER_WIDTH = "the widths differ, so there are no cosines"


class LabelTables(Config):
    """Label tables: user_id, as_of, boolean labels; one table can hold both with a column `role` (fit, score)."""

    fit: str
    """Rows that the probes are fitted on."""
    score: str
    """Rows of other users that they are scored on."""


class DriftConfig(Config):
    """What is compared."""

    old: SideConfig
    """Vectors from before."""
    new: SideConfig
    """Vectors from now."""
    output: Runtime[str]
    """JSON file to write, local or s3://."""
    users: int = Field(2000, ge=2)
    """Most users whose vectors are compared, the same people every time; neighbours cost the square of it."""
    neighbours: int = Field(10, ge=1)
    """Nearest users whose overlap is measured."""
    labels: LabelTables | None = None
    """null: no probes."""
    evaluation: ProbeConfig = ProbeConfig()
    """The probes. Label tables do not tell how far their futures reach, so `allow_same_period` changes nothing here."""
    seed: int = 0
    """Of probes and resampling."""
    ray: Runtime[RayConfig] = RayConfig()
    """Resources of the probes."""


def drift(config: DriftConfig) -> dict[str, Any]:
    """Compare, print a table, write and return the numbers.

    Raises:
        InputError: a table, version, instruction or label is missing, or no user is on both sides.
    """
    with started(config.ray):
        check_place("output", config.output)
        old, new = opened("old", config.old), opened("new", config.new)
        found = shared(old, new, config.users)
        values: dict[str, Any] = {"users": found.counts, **_moved(config, old, new, found.users)}
        if config.labels:
            values |= _probed(config, config.labels, old, new)
    storage.write_json(storage.absolute(config.output), values)
    print(f"{_text(values)}\ndrift: wrote {storage.absolute(config.output)}", flush=True)
    return values


def preview(config: DriftConfig) -> str:
    """Both sides and how many users they share; raises like `drift`, before anything is compared."""
    old, new = opened("old", config.old), opened("new", config.new)
    counts = shared(old, new, config.users).counts
    if config.labels:
        _labels(config.labels)
    return f"drift: {old.where} -> {new.where}; {counts['compared']:,} of {counts['both']:,} common users"


def _moved(config: DriftConfig, old: Side, new: Side, users: pa.Array) -> dict[str, Any]:
    (old_NA, old_made), (new_NB, new_made) = old.vectors(users), new.vectors(users)
    notes = [OTHER_WIDTH] if old_NA.shape[1] != new_NB.shape[1] else [OTHER_ENCODER] if old_made != new_made else []
    sides = {
        side.name: {**side.config.model_dump(), "table": side.table.location, "version": side.version,
                    "encoders": made, "width": vectors.shape[1]}
        for side, made, vectors in ((old, old_made, old_NA), (new, new_made, new_NB))
    }  # fmt: skip
    return {**sides, "moved": asdict(moved(old_NA, new_NB, config.neighbours, config.seed)), "notes": notes}


def _labels(tables: LabelTables) -> dict[str, pa.Table]:
    read = {FIT: read_labels(tables.fit, FIT), SCORE: read_labels(tables.score, SCORE)}
    names = {stage: set(table.column_names) - {*KEYS} for stage, table in read.items()}
    if odd := sorted(names[FIT] ^ names[SCORE]):
        raise InputError(
            f"labels: '{odd[0]}' is a label of only one of {tables.fit} and {tables.score}; both need the same labels"
        )
    return read


def _probed(config: DriftConfig, tables: LabelTables, old: Side, new: Side) -> dict[str, Any]:
    """AUCs of both sides on the same rows, and their paired differences."""
    aligned = {}
    for role, labels in _labels(tables).items():
        users = labels["user_id"].combine_chunks().unique()
        vectors = {s.name: (s.read(["user_id", "as_of", "embedding"], users), "embedding") for s in (new, old)}
        aligned[role] = align_all(labels, vectors, role, allow_missing=config.evaluation.allow_missing)
    data = {name: ProbeData(aligned[FIT][name], aligned[SCORE][name]) for name in ("new", "old")}
    check_disjoint(data["new"].fit, data["new"].score, FIT, SCORE)
    probed = probe_all(config.evaluation, config.seed, data)
    found = results(probed, {name: each.score for name, each in data.items()}, config.seed)  # new minus old
    auc = {
        kind: {
            label: {
                "old": found.auc["old"][kind][label].value,
                "new": found.auc["new"][kind][label].value,
                "difference": asdict(difference),
            }
            for label, difference in labels.items()
        }
        for kind, labels in found.differences["old"].items()
    }
    return {"auc": auc, "counts": count_rows({FIT: data["new"].fit, SCORE: data["new"].score})}


def _text(values: dict[str, Any]) -> str:
    """The numbers as lines for the terminal."""
    users, found = values["users"], values["moved"]
    lines = [
        f"{name}    {side['table']} version {side['version']}, '{side['instruction']}', width {side['width']}, "
        f"encoder {', '.join(side['encoders'])}"
        for name, side in (("old", values["old"]), ("new", values["new"]))
    ]
    lines += [
        f"users  {users['compared']:,} compared of {users['both']:,} in both; {users['old_only']:,} only in old, "
        f"{users['new_only']:,} only in new",
        "",
        f"{'':26}{'measured':>10}{'unrelated':>11}",
    ]
    if cosine := found["cosine"]:
        lines.append(f"{'cosine, mean':26}{cosine['mean']:>10.4f}{cosine['unrelated']:>11.4f}")
        lines.append(f"{'cosine, lowest twentieth':26}{cosine['p05']:>10.4f}")
    lines.append(f"{'Procrustes distance':26}{found['procrustes']:>10.4f}{found['procrustes_unrelated']:>11.4f}")
    nearest = f"{found['k']} nearest in common"
    lines.append(f"{nearest:26}{found['overlap']:>10.1%}{found['overlap_unrelated']:>11.1%}")
    for kind, labels in values.get("auc", {}).items():
        lines += ["", f"{'AUC, ' + TITLES.get(kind, kind):26}{'old':>8}{'new':>8}{'new - old':>11}  95 % interval"]
        for label in [MEAN, *(name for name in labels if name != MEAN)]:
            each = labels[label]
            gap = each["difference"]
            lines.append(
                f"{label:26}{each['old']:>8.3f}{each['new']:>8.3f}{gap['value']:>+11.3f}  "
                f"[{gap['low']:+.3f}, {gap['high']:+.3f}]"
            )
    said = [*values["notes"], *left_out(values.get("counts", {}))]
    return "\n".join([*lines, "", *said])
