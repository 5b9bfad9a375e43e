"""The evaluate job: probes on frozen vectors, paired intervals, report and summary.

Compared on the same rows: the trained encoder, the same encoder at step 0, the hand-crafted tabular features, and the
trained encoder's vectors joined with them.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace

import pyarrow as pa

from ray_ggsm import storage
from ray_ggsm.config import InputError, to_yaml
from ray_ggsm.data.held_out import check_held_out
from ray_ggsm.data.rows import tabular_rows
from ray_ggsm.data.summary import DataSummary
from ray_ggsm.evaluation.alignment import Aligned, ProbeData, align_all, check_disjoint, joined
from ray_ggsm.evaluation.counts import count_rows, left_out
from ray_ggsm.evaluation.dimensions import Stored, check_prefixes, stored_aucs
from ray_ggsm.evaluation.few_labels import check_draws, few_labels
from ray_ggsm.evaluation.health import vector_health
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.pages.mask_figures import curve, mask_history
from ray_ggsm.evaluation.pages.report import Report, write_report
from ray_ggsm.evaluation.pages.user_map import user_map
from ray_ggsm.evaluation.privacy import Privacy, membership
from ray_ggsm.evaluation.results import Results, by_label, results
from ray_ggsm.evaluation.summary import Summary, terminal_summary
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.attention import attention_picture
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.probing.membership import check_privacy, privacy_rows
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.on_ray.probing.stored import stored
from ray_ggsm.stage_results import EvaluateResult
from ray_ggsm.stages import Pipeline, timed
from ray_ggsm.tables import open_table


def evaluate(pipeline: Pipeline) -> Summary:
    """Compare encoder, untrained encoder, hand-crafted features and both joined; prints and returns the summary."""
    experiment = pipeline.experiment
    if experiment.embedding.checkpoint != "final":
        raise InputError("embedding.checkpoint: evaluation compares both encoders itself; leave it at 'final'")
    prepared = pipeline.prepare.require().summary
    if pipeline.evaluate.result() is None:
        check_evaluation(experiment)
        vectors = _vectors(pipeline, prepared.features)
        with connected(experiment), timed(pipeline.evaluate) as running:
            running.result = _compare(pipeline, prepared, vectors)
    evaluated = pipeline.evaluate.require()
    summary = Summary.of(
        rows=prepared.rows | {name: count.rows for name, count in evaluated.counts.items()},
        label_rates=prepared.label_rates,
        auc=evaluated.auc,
        seconds=_seconds(pipeline),
        table=pipeline.embed.table,
        report=pipeline.evaluate.report,
        scored=experiment.data.score_split or "",
    )
    storage.write_json(storage.join(experiment.output, "summary.json"), summary.model_dump(mode="json"))
    print("\n".join(["", terminal_summary(summary), *left_out(evaluated.counts)]), flush=True)
    return summary


def check_evaluation(experiment: Experiment) -> None:
    """Refuse an experiment without labels, without the splits that probes need, with splits that leak, or with several
    vectors per row."""
    if not experiment.data.labels:
        raise InputError("data.labels: there are no labels to evaluate on; add some, or stop after jobs/embed.py")
    if len(experiment.embedding.instructions) > 1:
        raise InputError(
            f"embedding.instructions: evaluation needs one vector per row, so one instruction; found "
            f"{', '.join(experiment.embedding.instructions)}"
        )
    fit, score = experiment.probe_splits
    check_held_out(experiment.data, fit, score, allow_same_period=experiment.evaluation.allow_same_period)
    if experiment.evaluation.privacy is not None:
        check_privacy(experiment, experiment.evaluation.privacy)


def _vectors(pipeline: Pipeline, features: tuple[str, ...]) -> dict[str, ProbeData]:
    """Per kind of vectors: rows to fit and to score on, all the same rows in the same order."""
    fit, score = splits = pipeline.experiment.probe_splits
    tables: dict[str, tuple[pa.Table, str]] = {}
    for name, variant in {"encoder": pipeline, "untrained": pipeline.untrained}.items():
        table = open_table(variant.embed.require().table)
        tables[name] = (table.read(columns=["user_id", "as_of", "embedding"]), "embedding")
    if features:
        rows = [tabular_rows(pipeline.prepare.rows(split)) for split in splits]
        tables["handcrafted"] = (pa.concat_tables(rows), "tabular")
    allowed = pipeline.experiment.evaluation.allow_missing
    aligned = {
        split: align_all(read_labels(pipeline.prepare.labels(split)), tables, split, allow_missing=allowed)
        for split in splits
    }
    data = {name: ProbeData(aligned[fit][name], aligned[score][name]) for name in tables}
    if features:  # all have the rows of the label tables, in their order
        encoder, handcrafted = data["encoder"], data["handcrafted"]
        data["joined"] = ProbeData(joined(encoder.fit, handcrafted.fit), joined(encoder.score, handcrafted.score))
    check_disjoint(data["encoder"].fit, data["encoder"].score, fit, score)
    return data


def _compare(pipeline: Pipeline, prepared: DataSummary, vectors: Mapping[str, ProbeData]) -> EvaluateResult:
    experiment = pipeline.experiment
    few, dimensions = experiment.evaluation.few_labels, experiment.evaluation.dimensions
    if few is not None:
        check_draws(experiment.evaluation, few, experiment.seed, vectors["encoder"].fit)
    if dimensions is not None:
        check_prefixes(dimensions, vectors["encoder"].fit.vectors.shape[1])
    probed = probe_all(experiment.evaluation, experiment.seed, vectors)
    scored = {name: data.score for name, data in vectors.items()}
    found = results(probed, scored, experiment.seed)
    values = by_label(found, probed)
    fit, score = experiment.probe_splits
    counts = count_rows({fit: vectors["encoder"].fit, score: vectors["encoder"].score})
    plain_counts = {name: count.model_dump() for name, count in counts.items()}
    found_few = few_labels(experiment.evaluation, few, experiment.seed, vectors, probe_all) if few else None
    found_stored = _stored(experiment, vectors["encoder"])
    found_privacy = _privacy(pipeline)
    parts = {"few_labels": found_few, "privacy": found_privacy}
    plain_more: dict[str, object] = {name: asdict(part) for name, part in parts.items() if part}
    if found_stored:
        plain_more["dimensions"] = [asdict(form) for form in found_stored]
    storage.write_json(pipeline.evaluate.results_file, values | {"counts": plain_counts} | plain_more)
    report = replace(
        _report(pipeline, prepared, found, scored), few_labels=found_few, stored=found_stored, privacy=found_privacy
    )
    write_report(report, pipeline.evaluate.report)
    auc = {n: {k: {label: r["auc"] for label, r in p.items()} for k, p in ks.items()} for n, ks in values.items()}
    return EvaluateResult(auc=auc, counts=counts)


def _stored(experiment: Experiment, encoder: ProbeData) -> tuple[Stored, ...]:
    """What fewer dimensions and bytes cost; nothing where nobody asks."""
    config = experiment.evaluation
    if config.dimensions is None:
        return ()
    return stored_aucs(config, config.dimensions, experiment.seed, encoder, stored, probe_all)


def _privacy(pipeline: Pipeline) -> Privacy | None:
    """Whether the vectors tell who was trained on; None where nobody asks."""
    config, seed = pipeline.experiment.evaluation, pipeline.experiment.seed
    if config.privacy is None:
        return None
    return membership(config, seed, *privacy_rows(pipeline, config.privacy), probe_all)


def _report(pipeline: Pipeline, prepared: DataSummary, found: Results, scored: Mapping[str, Aligned]) -> Report:
    experiment, log = pipeline.experiment, pipeline.train.log()
    config = to_yaml(experiment)
    storage.write_text(pipeline.evaluate.config_file, config)
    encoder = scored["encoder"]
    return Report(
        title=experiment.name,
        auc=found.auc,
        differences=found.differences,
        groups=experiment.data.label_groups(),
        rows=prepared.rows,
        label_rates=prepared.label_rates,
        scored=experiment.probe_splits[1],
        command=f"python jobs/quickstart.py --config {pipeline.evaluate.config_file}",
        delong=found.delong,
        measures=found.mean_measures(),
        calibration=found.calibration,
        user_map=user_map(encoder.vectors, encoder.labels, experiment.seed),
        training={
            panel: {"training": points}
            for panel, key in {"loss": "loss", "in-batch accuracy": "accuracy"}.items()
            if (points := curve(log, key))
        },
        attention=attention_picture(pipeline),
        mask=mask_history(log, pipeline.train.slot_weights()),
        health={name: vector_health(scored[name].vectors) for name in ("encoder", "untrained")},
        seconds=_seconds(pipeline),
        config=config,
        digests={stage.name: stage.location for stage in pipeline.stages},
        notes=experiment.notes,
    )


def _seconds(pipeline: Pipeline) -> dict[str, float]:
    """Wall time of the finished stages; embedding counts both encoders."""
    seconds = {stage.name: result.seconds for stage in pipeline.stages if (result := stage.result())}
    other = pipeline.embed_untrained.result()
    if other and "embed" in seconds:
        seconds["embed"] += other.seconds
    return seconds
