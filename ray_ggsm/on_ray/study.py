"""The study job: several variants of one experiment (recipes, or any settings) with several seeds, compared.

The place of every stage of every run follows from its settings. A study that was interrupted, or got more variants or
seeds, therefore does what is missing and nothing twice. `<output>/scores-<digest>.parquet` keeps the scores of the test
rows, and `<output>/study-<digest>/study.html`, `.md` and `.json` the comparison.
"""

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import ray

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.pages.mask_figures import curve, mask_history
from ray_ggsm.evaluation.pages.study_report import StudyReport, write_study
from ray_ggsm.evaluation.pages.study_text import Cost, markdown
from ray_ggsm.evaluation.study import Scores, StudySummary, check_labels_agree, study_summary
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.on_ray.attention import attention, attention_picture, attention_split
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.evaluate import check_evaluation, check_one_instruction
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.probing.scores import score_rows
from ray_ggsm.on_ray.study_config import StudyConfig, joined_name
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline, pipelines

NOT_TESTED = (
    "These are rows of the split that probes are fitted on, each scored by probes on other users; no test row was "
    "scored. Numbers are means over the folds. Intervals are a little too narrow, for folds share most of their rows."
)


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    variant: str
    seed: int
    pipeline: Pipeline


Runs = Mapping[tuple[str, int], Run]
"""(variant, seed) -> run; all variants of the first seed, then of the next."""


@dataclass(frozen=True)
class Scored:
    """Scores of one run, under the name that the results give its vectors."""

    name: str
    seed: int
    scores: Scores


def study(config: StudyConfig) -> StudySummary:
    """Run what is missing, compare, write and print the comparison.

    Raises:
        InputError: a name is unknown or taken, a setting is wrong, or the experiment has nothing to evaluate on.
    """
    runs = _check(config)
    first = next(iter(runs.values())).pipeline
    scores: dict[str, dict[int, Scores]] = {}
    with connected(first.experiment):
        _prepare_all(config, runs)
        for scored in _score_all(config, runs):
            scores.setdefault(scored.name, {})[scored.seed] = scored.scores
        for baseline in config.baselines:
            scores[baseline] = {0: score_rows(first, baseline, config.probe, config.scored)}
        for variant in config.attention:
            attention(runs[variant, config.seeds[0]].pipeline)
    summary = study_summary(
        scores, config.reference, config.resamples, config.probe, config.questions, config.variants.keys()
    ).model_copy(update={"resolution": config.resolution, "test_rows": _test_rows(config, first)})
    place = storage.join(config.output, f"study-{digest(config)}")
    report = _report(config, runs, summary, place)
    write_study(report, place)
    print(
        f"\n{markdown(config.name, summary, report.groups, report.costs, report.notes)}\nstudy: "
        f"{storage.join(place, 'study.html')}",
        flush=True,
    )
    return summary


def _test_rows(config: StudyConfig, first: Pipeline) -> int | None:
    """Number of test rows; None where these are the rows that were scored."""
    _, score = first.experiment.probe_splits
    return None if config.scored == "score" else first.prepare.require().summary.rows[score]


def preview(config: StudyConfig) -> str:
    """All runs, and which of their stages are finished."""
    lines = []
    for run in _check(config).values():
        p = run.pipeline
        done = [stage.name for stage in (p.prepare, p.train, p.embed) if stage.result()]
        lines.append(f"  {run.variant}, seed {run.seed}: {', '.join(done) or 'nothing'} done; {p.embed.location}")
    return "\n".join([f"study: {len(lines)} runs", *lines])


def _check(config: StudyConfig) -> Runs:
    """The runs of a study; a wrong study is refused before anything trains."""
    _check_names(config)
    keys = list(itertools.product(config.seeds, config.variants))
    name = next(iter(config.variants))
    if "event mean" in config.baselines and config.variant(name, config.seeds[0]).model.event_encoder is None:
        raise InputError(
            f"baselines: 'event mean' needs the event vectors of the first variant, and '{name}' reads none; put "
            "another variant first, or leave this baseline out"
        )
    experiments = [config.variant(variant, seed) for seed, variant in keys]
    _check_features(config, dict(zip(keys, experiments, strict=True)))
    for (_, variant), experiment in zip(keys, experiments, strict=True):
        check_evaluation(experiment)
        check_one_instruction(experiment)
        if variant in config.attention:
            attention_split(experiment)
    resolved = zip(keys, pipelines(experiments), strict=True)
    return {(variant, seed): Run(variant, seed, pipeline) for (seed, variant), pipeline in resolved}


def _check_names(config: StudyConfig) -> None:
    known = ", ".join(config.variants)
    for key, names in {"reference": [config.reference], "joined": config.joined, "attention": config.attention}.items():
        for name in names:
            if name not in config.variants:
                raise InputError(f"{key}: there is no variant '{name}'; the variants are {known}")
    for position, names in enumerate(config.questions):
        for name in names:
            if name not in config.result_names:
                results = ", ".join(config.result_names)
                raise InputError(f"questions[{position}]: '{name}' is not in the results, which are {results}")
    for key, settings in {"settings": config.settings, **config.variants}.items():
        for name, own in {"seed": "seeds", "output": "output"}.items():
            if name in settings:
                raise InputError(f"{key}: a study sets '{name}' of all its runs; use the study's own `{own}`")
    if len(config.seeds) > len(set(config.seeds)):
        raise InputError(f"seeds: each seed once; found {', '.join(map(str, config.seeds))}")
    if len(config.result_names) < 2:
        raise InputError("variants: there is nothing to compare; name a second variant, or a baseline")
    others = {*config.baselines, *(joined_name(name) for name in config.joined)}
    if taken := others & config.variants.keys():
        raise InputError(f"variants: '{min(taken)}' is the name of other vectors in the results; choose another")


def _check_features(config: StudyConfig, experiments: Mapping[tuple[int, str], Experiment]) -> None:
    """Refuse vectors of features where there are none, before anything trains."""
    needed = {"baselines": [next(iter(config.variants))] if "hand-crafted" in config.baselines else []}
    for key, variants in (needed | {"joined": list(config.joined)}).items():
        for variant in variants:
            if not experiments[config.seeds[0], variant].data.features:
                raise InputError(
                    f"{key}: hand-crafted features are needed, and '{variant}' has none (data.features); name some, or "
                    f"leave them out of `{key}`"
                )


def _prepare_all(config: StudyConfig, runs: Runs) -> None:
    """Prepare the data of all runs, and refuse labels of the scored rows that differ."""
    by_location = {run.pipeline.prepare.location: run.pipeline for run in runs.values()}
    labels = []
    for pipeline in by_location.values():
        prepare(pipeline)
        fit, score = pipeline.experiment.probe_splits
        labels.append(read_labels(pipeline.prepare.labels(score if config.scored == "score" else fit)))
    check_labels_agree(labels)


def _score_all(config: StudyConfig, runs: Runs) -> Iterator[Scored]:
    """Scores of all runs; runs that share an encoder are done one after the other."""
    groups: dict[str, list[Run]] = {}
    for run in runs.values():
        groups.setdefault(run.pipeline.train.location, []).append(run)
    waiting = iter(groups.values())
    if config.parallel == 1:
        results: Iterator[list[Scored]] = (_score_group(config, group) for group in waiting)
    else:
        results = _in_parallel(config, runs, waiting)
    for number, scored in enumerate(results, 1):
        yield from scored
        print(f"study: {number} of {len(groups)} encoders done", flush=True)


def _in_parallel(config: StudyConfig, runs: Runs, waiting: Iterator[list[Run]]) -> Iterator[list[Scored]]:
    """Scores of the groups, `config.parallel` groups at a time."""
    resources = runs[config.reference, config.seeds[0]].pipeline.experiment.ray
    available, needed = ray.cluster_resources().get("CPU", 0), config.parallel * (resources.busy_cpus + 2)
    if available < needed:
        print(
            f"study: {config.parallel} runs at a time need {needed} CPUs, and the cluster has {available:.0f}. Unless "
            "it grows, runs wait for each other, in the worst case forever; make `parallel` smaller then",
            flush=True,
        )
    task = ray.remote(num_cpus=0)(_score_group)  # its own workers request the cores and GPUs
    running = [task.remote(config, group) for group in itertools.islice(waiting, config.parallel)]
    while running:
        done, running = ray.wait(running)
        running += [task.remote(config, group) for group in itertools.islice(waiting, 1)]
        yield ray.get(done[0])


def _score_group(config: StudyConfig, group: list[Run]) -> list[Scored]:
    """Train, embed and score the runs of one encoder."""
    results = []
    for run in group:
        started = time.monotonic()
        train(run.pipeline)
        embed(run.pipeline)
        results.append(Scored(run.variant, run.seed, score_rows(run.pipeline, "encoder", config.probe, config.scored)))
        if run.variant in config.joined:
            scores = score_rows(run.pipeline, "joined", config.probe, config.scored)
            results.append(Scored(joined_name(run.variant), run.seed, scores))
        print(f"study: {run.variant}, seed {run.seed}: {time.monotonic() - started:.0f} s", flush=True)
    return results


def _report(config: StudyConfig, runs: Runs, summary: StudySummary, place: str) -> StudyReport:
    """Everything that the study's page shows; `place` is the directory that it is written to."""
    first = runs[config.reference, config.seeds[0]].pipeline.experiment
    by_variant = {name: [runs[name, seed].pipeline for seed in config.seeds] for name in config.variants}
    trained = {name: each for name, each in by_variant.items() if each[0].experiment.embedding.checkpoint == "final"}
    logs = {name: [pipeline.train.log() for pipeline in each] for name, each in trained.items()}
    return StudyReport(
        title=config.name,
        summary=summary,
        groups=first.data.label_groups(),
        command=f"python jobs/study.py --config {storage.join(place, 'config.yaml')}",
        config=config,
        loss={name: curves for name, each in logs.items() if all(curves := [curve(log, "loss") for log in each])},
        masks={
            name: mask_history(each[0], trained[name][0].train.slot_weights()) for name, each in logs.items() if each[0]
        },
        attention={name: figure for name in config.attention if (figure := attention_picture(by_variant[name][0]))},
        digests={f"{run.variant}, seed {run.seed}": run.pipeline.embed.directory for run in runs.values()},
        notes=first.notes if config.scored == "score" else (*first.notes, NOT_TESTED),
        costs={name: _cost(each[0], logs.get(name, [[]])) for name, each in by_variant.items()},
    )


def _cost(pipeline: Pipeline, logs: Sequence[Sequence[Mapping[str, float]]]) -> Cost:
    """What a variant's training took, means over the logs of its seeds."""
    return Cost(
        parameters=SavedEncoder.read(pipeline.train.encoder).parameters,
        rows=statistics.fmean(len(log) * pipeline.experiment.training.batch_size for log in logs),
        seconds=statistics.fmean(sum(entry["seconds"] for entry in log) for log in logs),
    )
