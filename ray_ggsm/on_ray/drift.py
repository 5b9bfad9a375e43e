"""The drift job: what changed between two encoders, or two versions or moments of a table, for the same users.

Cosines compare vectors where they stand; Procrustes distance and neighbours compare them whatever the coordinate
system is (`ray_ggsm.tables.drift`). Probes show whether the new vectors say more or less about labels: differences of
AUCs on the same test rows, with intervals over users. `ray_ggsm.on_ray.probing.map_cost` says what a map between both
spaces costs.
"""

from typing import Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Location, Record, Runtime
from ray_ggsm.evaluation.alignment import ProbeData, align_all, check_disjoint
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.counts import SplitCounts, count_rows, left_out
from ray_ggsm.evaluation.keys import KEYS
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.metrics import MEAN, Estimate
from ray_ggsm.evaluation.results import Probed, Results, results
from ray_ggsm.evaluation.summary import title_of
from ray_ggsm.experiment import RayConfig
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.places import check_kept
from ray_ggsm.on_ray.probing.map_cost import MapReport, map_report
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.tables.compare import Shared, Side, SideConfig, UserCounts, opened, shared
from ray_ggsm.tables.config import MapConfig
from ray_ggsm.tables.drift import Moved, moved

FIT, SCORE = "fit", "score"
"""Roles of label tables."""
OTHER_ENCODER = "the encoders differ, so cosines compare coordinates that need not mean the same"
OTHER_WIDTH = "the widths differ, so there are no cosines"


class LabelTables(Config):
    """Label tables: user_id, as_of, boolean labels; one table can hold both with a column `role` (fit, score)."""

    fit: str
    """Rows to fit probes on."""
    score: str
    """Rows of other users, which the probes score."""


class DriftConfig(Config):
    """What is compared, and how."""

    old: SideConfig
    """Earlier vectors."""
    new: SideConfig
    """Later vectors."""
    output: Runtime[Location]
    """JSON file to write, local or s3://."""
    users: int = Field(2000, ge=2)
    """Largest number of users whose vectors are compared. They are the same people every time; the neighbours' cost
    grows with the square of their number."""
    neighbours: int = Field(10, ge=1)
    """Number of nearest users whose overlap is measured."""
    labels: LabelTables | None = None
    """Label tables; null: no probes."""
    mapped: Literal["stored"] | MapConfig | None = None
    """Also score the old side's probes on new vectors that are mapped into its space. stored: by the maps of the new
    table, as `read(compatible_with=)` does; or settings of a map that is fitted here, on users who are not scored."""
    max_loss: Runtime[float | None] = Field(None, ge=0, lt=0.5)
    """Gate: mean AUC that these probes may lose against retrained ones, by the end of the 95 % interval; the job then
    ends with exit code 3. null: any."""
    evaluation: ProbeConfig = ProbeConfig()
    """Settings of the probes. `instructions`, `few_labels`, `dimensions` and `privacy` have no effect; nor has
    `allow_same_period`, because label tables do not say how far their futures reach."""
    seed: int = Field(0, ge=0)
    """Seed of probes and resampling."""
    ray: Runtime[RayConfig] = RayConfig()
    """Resources of the probes."""

    @model_validator(mode="after")
    def _maps_need_labels(self) -> Self:
        if self.mapped is not None and self.labels is None:
            raise ValueError("mapped: what a map costs is measured on labels; give them")
        if self.max_loss is not None and self.mapped is None:
            raise ValueError("max_loss: only mapped vectors lose something; give mapped")
        return self


class SideSummary(Record):
    """Vectors of one side."""

    table: str
    """Location of the table."""
    version: int
    instruction: str
    as_of: str | None
    """As in the config."""
    encoders: tuple[str, ...]
    """Digests of the encoders that made the vectors."""
    width: int


class AucChange(Record):
    """AUCs of both sides on the same test rows."""

    old: float
    new: float
    difference: Estimate
    """`new - old`, paired."""


class DriftResult(Record):
    """The content of the file that the job writes."""

    users: UserCounts
    old: SideSummary
    new: SideSummary
    moved: Moved
    notes: tuple[str, ...]
    """Sentences about what the numbers cannot show."""
    auc: dict[str, dict[str, AucChange]] | None = None
    """Probe -> label, and "mean"; None without labels."""
    counts: dict[str, SplitCounts] | None = None
    """Role -> rows used and left out; None without labels."""
    compatible: MapReport | None = None
    """What a map costs; None without `mapped`."""


def drift(config: DriftConfig) -> DriftResult:
    """Compare, print a table, write and return the numbers.

    Raises:
        InputError: a table, version, instruction or label is missing, or no user is on both sides.
        GateError: the map costs more than `max_loss`; everything is written.
    """
    with started(config.ray):
        check_kept("output", config.output)
        old, new = opened("old", config.old), opened("new", config.new)
        labels = _labels(config.labels) if config.labels else None
        found = shared(old, new, config.users)
        result = _compared(config, old, new, found)
        if labels:
            data, probed = _probed(config, labels, old, new)
            result = result.model_copy(update=_of_labels(config, data, probed))
            if config.mapped is not None:
                report = map_report(old, new, config.mapped, data, probed, config.evaluation, config.seed)
                result = result.model_copy(update={"compatible": report})
    file = storage.absolute(config.output)
    absent = {name for name in ("auc", "counts", "compatible") if getattr(result, name) is None}
    storage.write_json(file, result.model_dump(mode="json", exclude=absent))
    print(f"{_text(result)}\ndrift: wrote {file}", flush=True)
    if result.compatible is not None and config.max_loss is not None:
        result.compatible.enforce(config.max_loss)
    return result


def preview(config: DriftConfig) -> str:
    """Both sides and how many users they share; raises what `drift` raises, before anything is compared."""
    old, new = opened("old", config.old), opened("new", config.new)
    if config.labels:
        _labels(config.labels)
    counts = shared(old, new, config.users).counts
    return f"drift: {old.where} -> {new.where}; {counts.compared:,} of {counts.both:,} common users"


def _compared(config: DriftConfig, old: Side, new: Side, found: Shared) -> DriftResult:
    """How far the vectors of these users moved."""
    (old_NA, old_encoders), (new_NB, new_encoders) = old.vectors(found.users), new.vectors(found.users)
    if old_NA.shape[1] != new_NB.shape[1]:
        notes = [OTHER_WIDTH]
    else:
        notes = [OTHER_ENCODER] if old_encoders != new_encoders else []
    return DriftResult(
        users=found.counts,
        old=_side(old, old_encoders, old_NA.shape[1]),
        new=_side(new, new_encoders, new_NB.shape[1]),
        moved=moved(old_NA, new_NB, config.neighbours, config.seed),
        notes=tuple(notes),
    )


def _side(side: Side, encoders: list[str], width: int) -> SideSummary:
    return SideSummary(
        table=side.table.location,
        version=side.version,
        instruction=side.config.instruction,
        as_of=side.config.as_of,
        encoders=tuple(encoders),
        width=width,
    )


def _labels(tables: LabelTables) -> dict[str, pa.Table]:
    """Role -> its label table; both have the same labels."""
    by_role = {FIT: read_labels(tables.fit, FIT), SCORE: read_labels(tables.score, SCORE)}
    names = {role: set(table.column_names) - {*KEYS} for role, table in by_role.items()}
    if odd := sorted(names[FIT] ^ names[SCORE]):
        raise InputError(
            f"labels: '{odd[0]}' is a label of only one of {tables.fit} and {tables.score}; both need the same labels"
        )
    return by_role


def _probed(
    config: DriftConfig, labels_by_role: dict[str, pa.Table], old: Side, new: Side
) -> tuple[dict[str, ProbeData], Probed]:
    """The rows of both sides, which are the same, and the probes on them."""
    aligned = {}
    for role, labels in labels_by_role.items():
        users = labels["user_id"].combine_chunks().unique()
        vectors = {s.name: (s.read(["user_id", "as_of", "embedding"], users), "embedding") for s in (new, old)}
        aligned[role] = align_all(labels, vectors, role, allow_missing=config.evaluation.allow_missing)
    data = {name: ProbeData(aligned[FIT][name], aligned[SCORE][name]) for name in ("new", "old")}
    check_disjoint(data["new"].fit, data["new"].score, FIT, SCORE)
    return data, probe_all(config.evaluation, config.seed, data)


def _of_labels(config: DriftConfig, data: dict[str, ProbeData], probed: Probed) -> dict[str, object]:
    """AUCs of both sides on the same rows, and the number of these rows."""
    found = results(probed, {name: each.score for name, each in data.items()}, config.seed)  # new minus old
    return {"auc": _changes(found), "counts": count_rows({FIT: data["new"].fit, SCORE: data["new"].score})}


def _changes(found: Results) -> dict[str, dict[str, AucChange]]:
    """Probe -> label, and "mean" -> AUCs."""
    old, new = found.auc["old"], found.auc["new"]
    return {
        kind: {
            label: AucChange(old=old[kind][label].value, new=new[kind][label].value, difference=difference)
            for label, difference in labels.items()
        }
        for kind, labels in found.differences["old"].items()
    }


def _text(result: DriftResult) -> str:
    """The numbers as lines for the terminal."""
    users = result.users
    lines = [
        f"{name}    {side.table} version {side.version}, '{side.instruction}', width {side.width}, "
        f"encoder {', '.join(side.encoders)}"
        for name, side in (("old", result.old), ("new", result.new))
    ]
    lines += [
        f"users  {users.compared:,} compared of {users.both:,} in both; {users.old_only:,} only in old, "
        f"{users.new_only:,} only in new",
        "",
        *_moved_table(result.moved),
    ]
    for kind, labels in (result.auc or {}).items():
        lines += ["", *_auc_table(kind, labels)]
    lines += ["", *result.compatible.lines()] if result.compatible else []
    return "\n".join([*lines, "", *result.notes, *left_out(result.counts or {})])


def _moved_table(found: Moved) -> list[str]:
    lines = [f"{'':26}{'measured':>10}{'unrelated':>11}"]
    if cosine := found.cosine:
        lines.append(f"{'cosine, mean':26}{cosine['mean']:>10.4f}{cosine['unrelated']:>11.4f}")
        lines.append(f"{'cosine, lowest twentieth':26}{cosine['p05']:>10.4f}")
    lines.append(f"{'Procrustes distance':26}{found.procrustes:>10.4f}{found.procrustes_unrelated:>11.4f}")
    nearest = f"{found.k} nearest in common"
    lines.append(f"{nearest:26}{found.overlap:>10.1%}{found.overlap_unrelated:>11.1%}")
    return lines


def _auc_table(kind: str, labels: dict[str, AucChange]) -> list[str]:
    """One line per label, the mean first."""
    lines = [f"{'AUC, ' + title_of(kind):26}{'old':>8}{'new':>8}{'new - old':>11}  95 % interval"]
    for label in [MEAN, *(name for name in labels if name != MEAN)]:
        auc = labels[label]
        gap = auc.difference
        lines.append(f"{label:26}{auc.old:>8.3f}{auc.new:>8.3f}{gap.value:>+11.3f}  [{gap.low:+.3f}, {gap.high:+.3f}]")
    return lines
