"""The evaluate job: probes on frozen vectors, paired intervals, report and summary.

Compared on the same rows: the trained encoder, the same encoder at step 0, the hand-crafted tabular features, and the
trained encoder's vectors joined with them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.config import InputError, to_yaml
from ray_ggsm.data.held_out import check_held_out
from ray_ggsm.data.rows import tabular_rows
from ray_ggsm.data.summary import DataSummary
from ray_ggsm.evaluation.alignment import Aligned, ProbeData, align_all, check_disjoint, joined, only
from ray_ggsm.evaluation.counts import count_rows, left_out
from ray_ggsm.evaluation.dimensions import Stored, check_prefixes, stored_aucs
from ray_ggsm.evaluation.few_labels import check_draws, few_labels
from ray_ggsm.evaluation.health import vector_health
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.pages.mask_figures import curve, mask_history
from ray_ggsm.evaluation.pages.report import Report, write_report
from ray_ggsm.evaluation.pages.user_map import user_map
from ray_ggsm.evaluation.privacy import Privacy, membership
from ray_ggsm.evaluation.results import Probed, Results, by_label, mean_aucs, results
from ray_ggsm.evaluation.saved_probes import ProbedVectors, save_probes
from ray_ggsm.evaluation.summary import Summary, terminal_summary
from ray_ggsm.experiment import Experiment
from ray_ggsm.masks.ggsm import HybridMaskConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.on_ray.attention import attention_picture
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.probing.membership import check_privacy, privacy_rows, share_read
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
    vectors per row and no word on which of them a label's probes read."""
    if not experiment.data.labels:
        raise InputError("data.labels: there are no labels to evaluate on; add some, or stop after jobs/embed.py")
    instructions, evaluation = experiment.embedding.instructions, experiment.evaluation
    evaluation.labels_of([*instructions], [*experiment.data.labels])
    for name in ("few_labels", "dimensions", "privacy"):
        if len(instructions) > 1 and getattr(evaluation, name) is not None:
            raise InputError(f"evaluation.{name}: it needs one vector per row, so one of embedding.instructions")
    if evaluation.dimensions is not None and experiment.publishing.files.dimensions is not None:
        check_prefixes(evaluation.dimensions, experiment.publishing.files.dimensions)
    fit, score = experiment.probe_splits
    check_held_out(experiment.data, fit, score, allow_same_period=experiment.evaluation.allow_same_period)
    if experiment.evaluation.privacy is not None:
        check_privacy(experiment, experiment.evaluation.privacy)


def check_one_instruction(experiment: Experiment) -> None:
    """Refuse several vectors per row, for a job that reads one."""
    if len(experiment.embedding.instructions) > 1:
        raise InputError(
            f"embedding.instructions: one vector per row is needed, so one instruction; found "
            f"{', '.join(experiment.embedding.instructions)}"
        )


Vectors = dict[str, ProbeData]
"""Kind of vectors -> rows to fit and to score on."""


def _vectors(pipeline: Pipeline, features: tuple[str, ...]) -> dict[str, Vectors]:
    """Instruction -> its vectors, for the instructions that labels read; all the same rows in the same order."""
    experiment = pipeline.experiment
    fit, score = splits = experiment.probe_splits
    labels_of = experiment.evaluation.labels_of([*experiment.embedding.instructions], [*experiment.data.labels])
    tables: dict[str, tuple[pa.Table, str]] = {}
    for name, variant in {"encoder": pipeline, "untrained": pipeline.untrained}.items():
        rows = open_table(variant.embed.require().table).read(columns=["user_id", "as_of", "instruction", "embedding"])
        for instruction in labels_of:
            tables[f"{name}/{instruction}"] = (rows.filter(pc.field("instruction") == instruction), "embedding")
    if features:
        tabular = [tabular_rows(pipeline.prepare.rows(split)) for split in splits]
        tables["handcrafted"] = (pa.concat_tables(tabular), "tabular")
    allowed = pipeline.experiment.evaluation.allow_missing
    aligned = {
        split: align_all(read_labels(pipeline.prepare.labels(split)), tables, split, allow_missing=allowed)
        for split in splits
    }
    data = {name: ProbeData(aligned[fit][name], aligned[score][name]) for name in tables}
    found: dict[str, Vectors] = {}
    for instruction in labels_of:
        found[instruction] = {name: data[f"{name}/{instruction}"] for name in ("encoder", "untrained")}
        if features:  # all have the rows of the label tables, in their order
            encoder, handcrafted = data[f"encoder/{instruction}"], data["handcrafted"]
            both = ProbeData(joined(encoder.fit, handcrafted.fit), joined(encoder.score, handcrafted.score))
            found[instruction] |= {"handcrafted": handcrafted, "joined": both}
        check_disjoint(data[f"encoder/{instruction}"].fit, data[f"encoder/{instruction}"].score, fit, score)
    return found


def _probed(experiment: Experiment, of_instruction: Mapping[str, Vectors]) -> Probed:
    """The results of all probes, each on the vectors of its label's instruction."""
    labels = [*experiment.data.labels]
    labels_of = experiment.evaluation.labels_of([*experiment.embedding.instructions], labels)
    parts = [
        probe_all(
            experiment.evaluation, experiment.seed,
            {name: only(data, labels_of[instruction]) for name, data in vectors.items()},
        )
        for instruction, vectors in of_instruction.items()
    ]  # fmt: skip
    found = {key: {label: r for part in parts for label, r in part[key].items()} for key in parts[0]}
    return {key: {label: results[label] for label in labels} for key, results in found.items()}


def _compare(pipeline: Pipeline, prepared: DataSummary, of_instruction: Mapping[str, Vectors]) -> EvaluateResult:
    experiment, vectors = pipeline.experiment, next(iter(of_instruction.values()))
    few, dimensions = experiment.evaluation.few_labels, experiment.evaluation.dimensions
    if few is not None:
        check_draws(experiment.evaluation, few, experiment.seed, vectors["encoder"].fit)
    if dimensions is not None:
        check_prefixes(dimensions, vectors["encoder"].fit.vectors.shape[1])
    probed = _probed(experiment, of_instruction)
    _save_probes(pipeline, probed, vectors["encoder"].fit.vectors.shape[1])
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
    storage.write_json(
        pipeline.evaluate.results_file, values | {"mean_auc": mean_aucs(found), "counts": plain_counts} | plain_more
    )
    report = replace(
        _report(pipeline, prepared, found, scored), few_labels=found_few, stored=found_stored, privacy=found_privacy
    )
    write_report(report, pipeline.evaluate.report)
    auc = {n: {k: {label: r["auc"] for label, r in p.items()} for k, p in ks.items()} for n, ks in values.items()}
    return EvaluateResult(auc=auc, counts=counts)


def _save_probes(pipeline: Pipeline, probed: Probed, width: int) -> None:
    """Keep the probes on the trained encoder's vectors."""
    e = pipeline.experiment
    encoder = SavedEncoder.read(pipeline.train.encoder).digest
    kinds = {kind: labels for (name, kind), labels in probed.items() if name == "encoder"}
    for name, own in e.evaluation.labels_of([*e.embedding.instructions], [*e.data.labels]).items():
        vectors = ProbedVectors(encoder=encoder, instruction=e.embedding.instructions[name], mask=e.embedding.mask)
        of_own = {kind: {label: labels[label] for label in own} for kind, labels in kinds.items()}
        save_probes(of_own, vectors, width, pipeline.evaluate.probes)


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
    rows = privacy_rows(pipeline, config.privacy)
    return membership(config, seed, *rows, probe_all, share_read(pipeline))


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
        notes=(*experiment.notes, *_mask_of_step_0(pipeline)),
    )


def _mask_of_step_0(pipeline: Pipeline) -> Iterator[str]:
    """A note where the encoder at step 0 sees otherwise than the trained one."""
    encoder, mask = SavedEncoder.read(pipeline.train.encoder).description, pipeline.experiment.mask
    half_way = encoder.alpha < 1 and pipeline.experiment.embedding.mask == "trained"
    if half_way or isinstance(mask, HybridMaskConfig):
        why = f"training stopped with alpha {encoder.alpha:.2f}" if half_way else "hybrid_mask learns its mask"
        yield (
            f"The encoder at step 0 is embedded under another mask than the trained one ({why}), so differences from "
            "the untrained encoder are of training and mask together."
        )


def _seconds(pipeline: Pipeline) -> dict[str, float]:
    """Wall time of the finished stages; embedding counts both encoders."""
    seconds = {stage.name: result.seconds for stage in pipeline.stages if (result := stage.result())}
    other = pipeline.embed_untrained.result()
    if other and "embed" in seconds:
        seconds["embed"] += other.seconds
    return seconds
