"""The evaluate stage: probes on frozen vectors as Ray tasks, paired intervals, report and summary.

Compared on the same rows: the trained encoder, the same encoder at step 0, the hand-crafted tabular features, and the
trained encoder's vectors joined with them.
"""

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import yaml

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.held_out import check_held_out
from ray_ggsm.data.summary import DataSummary
from ray_ggsm.evaluation.config import Kind, ProbeConfig
from ray_ggsm.evaluation.counts import count_rows, left_out
from ray_ggsm.evaluation.health import vector_health
from ray_ggsm.evaluation.labels import Aligned, align_all, check_disjoint, read_labels
from ray_ggsm.evaluation.mask_pictures import Opening, curve, opening
from ray_ggsm.evaluation.probes import ProbeResult, fit_and_score
from ray_ggsm.evaluation.report import Report, write_report
from ray_ggsm.evaluation.results import Results, by_label, results
from ray_ggsm.evaluation.summary import summary, terminal_summary
from ray_ggsm.evaluation.user_map import user_map
from ray_ggsm.experiment import Experiment, Stage, StageName, stages, untrained
from ray_ggsm.on_ray.attention import attention_picture
from ray_ggsm.on_ray.cluster import connected
from ray_ggsm.on_ray.stages import timed
from ray_ggsm.tables import open_table
from ray_ggsm.training.progress import bar

FIT, SCORE = "probe", "test"
"""Stages whose rows the probes are fitted on, and scored on."""

Places = dict[StageName, Stage]


def evaluate(experiment: Experiment) -> dict[str, Any]:
    """Compare encoder, untrained encoder, hand-crafted features and both joined; prints and returns the summary."""
    if experiment.embedding.checkpoint != "final":
        raise InputError("embedding.checkpoint: evaluation compares both encoders itself; leave it at 'final'")
    place = stages(experiment)
    stage = place["evaluate"]
    prepared = DataSummary.from_json(place["prepare"].require("jobs/prepare.py")["summary"])
    if stage.result() is None:
        check_config(experiment)
        vectors = _vectors(experiment, place, prepared.features)
        with connected(experiment), timed(stage) as recorded:
            recorded.update(_compare(experiment, place, prepared, vectors))
    seconds, evaluated = _seconds(experiment, place), stage.require("jobs/evaluate.py")
    values = summary(
        rows=prepared.rows | {name: count["rows"] for name, count in evaluated["counts"].items()},
        label_rates=prepared.label_rates,
        auc=evaluated["auc"],
        seconds=seconds,
        table=place["embed"].path("table"),
        report=stage.path("report.html"),
    )
    storage.write_json(storage.join(experiment.output, "summary.json"), values)
    print("\n".join(["", terminal_summary(values), *left_out(evaluated["counts"])]), flush=True)
    return values


def check_config(experiment: Experiment) -> None:
    """Refuse an experiment without labels, without the stages that probes need, or with stages that leak."""
    if not experiment.data.labels:
        raise InputError("data.labels: there are no labels to evaluate on; add some, or stop after jobs/embed.py")
    for name in (FIT, SCORE):
        if name not in experiment.data.stages:
            raise InputError(f"data.stages: evaluation needs a stage '{name}' (fit on '{FIT}', score on '{SCORE}')")
    check_held_out(experiment.data, FIT, SCORE, allow_same_period=experiment.evaluation.allow_same_period)


def _vectors(experiment: Experiment, place: Places, features: Sequence[str]) -> dict[str, dict[str, Aligned]]:
    """Per table to compare and stage: vectors with labels."""
    tables = {}
    for name, variant in {"encoder": experiment, "untrained": untrained(experiment)}.items():
        result = stages(variant)["embed"].require(
            "jobs/embed.py" + (" (with --set embedding.checkpoint=untrained)" if name == "untrained" else "")
        )
        tables[name] = (open_table(result["table"]).read(columns=["user_id", "as_of", "embedding"]), "embedding")
    if features:
        rows = [tabular_rows(place["prepare"].path("rows", s)) for s in (FIT, SCORE)]
        tables["handcrafted"] = (pa.concat_tables(rows), "tabular")
    labels = {s: read_labels(place["prepare"].path("labels", s)) for s in (FIT, SCORE)}
    allowed = experiment.evaluation.allow_missing
    of_stage = {s: align_all(labels[s], tables, s, allow_missing=allowed) for s in (FIT, SCORE)}
    aligned = {name: {s: of_stage[s][name] for s in (FIT, SCORE)} for name in tables}
    if features:  # all have the rows of the label tables, in their order
        aligned["joined"] = {s: joined(rows, aligned["handcrafted"][s]) for s, rows in aligned["encoder"].items()}
    check_disjoint(aligned["encoder"][FIT], aligned["encoder"][SCORE], FIT, SCORE)
    return aligned


def joined(first: Aligned, second: Aligned) -> Aligned:
    """Both vectors side by side; the rows are those of the same label table."""
    return replace(first, vectors=np.hstack([first.vectors, second.vectors]))


def tabular_rows(location: str) -> pa.Table:
    """Keys and hand-crafted features of prepared rows."""
    fs, path = storage.arrow_filesystem(location)
    return pq.read_table(path, columns=["user_id", "as_of", "tabular"], filesystem=fs)


def _compare(
    experiment: Experiment, place: Places, prepared: DataSummary, vectors: dict[str, dict[str, Aligned]]
) -> dict[str, Any]:
    probed = probe_all(experiment.evaluation, experiment.seed, vectors)
    test = {name: stages_of[SCORE] for name, stages_of in vectors.items()}
    found = results(probed, test, experiment.seed)
    values = by_label(found, probed)
    counts = count_rows(vectors["encoder"])
    storage.write_json(place["evaluate"].path("results.json"), values | {"counts": counts})
    write_report(_report(experiment, place, prepared, found, test), place["evaluate"].path("report.html"))
    auc = {n: {k: {la: r["auc"] for la, r in p.items()} for k, p in ks.items()} for n, ks in values.items()}
    return {"auc": auc, "counts": counts}


def _report(
    experiment: Experiment, place: Places, prepared: DataSummary, found: Results, test: dict[str, Aligned]
) -> Report:
    log = storage.read_json(place["train"].path("log.json"))
    config_file = place["evaluate"].path("config.yaml")
    config = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    storage.write_text(config_file, config)
    return Report(
        title=experiment.name,
        auc=found.auc,
        differences=found.differences,
        groups=experiment.data.label_groups(),
        rows=prepared.rows,
        label_rates=prepared.label_rates,
        command=f"python jobs/quickstart.py --config {config_file}",
        delong=found.delong,
        measures=found.mean_measures(),
        calibration=found.calibration,
        user_map=user_map(test["encoder"].vectors, test["encoder"].labels, experiment.seed),
        training={
            panel: {"training": points}
            for panel, key in {"loss": "loss", "in-batch accuracy": "accuracy"}.items()
            if (points := curve(log, key))
        },
        attention=attention_picture(experiment),
        mask=opening_of(place["train"]),
        health={name: vector_health(test[name].vectors) for name in ("encoder", "untrained")},
        seconds=_seconds(experiment, place),
        config=config,
        digests={s.name: s.location for s in place.values()},
        notes=tuple(experiment.notes),
    )


def opening_of(train: Stage) -> Opening:
    """How the mask opened in a finished train stage."""
    slots = train.path("mask.json")
    return opening(
        storage.read_json(train.path("log.json")), storage.read_json(slots) if storage.exists(slots) else None
    )


def _seconds(experiment: Experiment, place: Places) -> dict[str, float]:
    """Wall time of the finished stages; embedding counts both encoders."""
    done = {name: s.result() for name, s in place.items()}
    seconds: dict[str, float] = {name: result["seconds"] for name, result in done.items() if result}
    other = stages(untrained(experiment))["embed"].result()
    if other and "embed" in seconds:
        seconds["embed"] += other["seconds"]
    return seconds


def probe_all(
    config: ProbeConfig, seed: int, vectors: dict[str, dict[str, Aligned]]
) -> dict[tuple[str, Kind], dict[str, ProbeResult]]:
    """All probes of all tables, one task each over shared matrices: (table, kind) -> label -> result.

    Args:
        config: probe settings.
        seed: of folds and LightGBM.
        vectors: table -> FIT and SCORE -> rows; all with the same labels.
    """
    names = list(next(iter(vectors.values()))[FIT].labels)
    probe = _probe.options(num_cpus=_cpus_per_core())  # each has its own copy of the rows: no more at once than cores
    tasks: dict[tuple[str, str, str], Any] = {}
    for name, each in vectors.items():
        fit, score = each[FIT], each[SCORE]
        _, user_N = np.unique(fit.users, return_inverse=True)  # numbers are shared too; strings each task would copy
        shared = [ray.put(x) for x in (fit.vectors, user_N, score.vectors)]
        slow_first = sorted(config.kinds)  # LightGBM before linear, so that no core waits long at the end
        for kind, label in itertools.product(slow_first, names):
            labels = (fit.labels[label], score.labels[label])
            tasks[name, kind, label] = probe.remote(kind, label, *shared, *labels, config, seed)
    waiting = list(tasks.values())
    for done in range(1, len(tasks) + 1):
        _, waiting = ray.wait(waiting)
        if done % 9 == 0 or not waiting:
            print(f"{bar(done / len(tasks))} {done}/{len(tasks)} probes", flush=True)
    return {
        (name, kind): {label: ray.get(tasks[name, kind, label]) for label in names}
        for name, kind in itertools.product(vectors, config.kinds)
    }


def _cpus_per_core() -> int:
    """Logical CPUs that stand for one core here: more than one on a laptop whose cluster claims more than it has."""
    here = ray.get_runtime_context().get_node_id()
    (claimed,) = (node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, int(claimed / (os.cpu_count() or 1)))


@ray.remote
def _probe(
    kind: Kind,
    label: str,
    train_ND: np.ndarray,
    users_N: np.ndarray,
    test_MD: np.ndarray,
    labels_N: np.ndarray,
    labels_M: np.ndarray,
    config: ProbeConfig,
    seed: int,
) -> ProbeResult:
    return fit_and_score(kind, train_ND, labels_N, users_N, test_MD, labels_M, config, seed, 1, label=label)
