"""The study job: variants of one experiment (recipes, or any settings) and seeds, compared with honest statistics.

Every stage of every run has a place of its own that follows from its settings, so a study that was interrupted, or got
more variants or seeds, does what is missing and nothing twice. The probes' scores of the test rows are kept as
`<output>/scores-<digest>.parquet`; the comparison as `<output>/study-<digest>/study.html`, `.md` and `.json`.
"""

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ray
from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Runtime, digest, load, to_yaml
from ray_ggsm.evaluation.config import Kind
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.pages.mask_figures import curve, mask_history
from ray_ggsm.evaluation.pages.study_report import StudyReport, render
from ray_ggsm.evaluation.study import Scores, check_labels_agree, headline, markdown, study_summary
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.attention import attention, attention_picture, attention_split
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.evaluate import check_evaluation, probe_splits
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.probing.scores import score_test_rows
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline, pipelines

Baseline = Literal["hand-crafted", "event mean"]


class StudyConfig(Config):
    """Which variants are run, and how they are compared."""

    name: Runtime[str]
    """For people."""
    experiment: str
    """Config file of the experiment that all variants share."""
    output: Runtime[str]
    """Where all of them write."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """key.path -> value, in every variant."""
    variants: dict[str, dict[str, Any]] = Field(min_length=1)
    """Name -> key.path -> value."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Every variant runs once per seed."""
    reference: str
    """The variant that the others are compared with."""
    baselines: tuple[Baseline, ...] = ("hand-crafted", "event mean")
    """Vectors that nobody trains: the tabular features; the mean of the event vectors of a user's history."""
    joined: tuple[str, ...] = ()
    """Variants that are also scored together with the hand-crafted features, as `<name> + hand-crafted`."""
    questions: tuple[tuple[str, str], ...] = ()
    """Pairs (first, second) of names in the results whose difference was in question before the first result. Their p
    values are corrected for each other alone, which finds smaller differences than the matrix of all pairs can."""
    probe: Kind = "linear"
    """The probe of the comparison."""
    attention: tuple[str, ...] = ()
    """Variants whose attention the page shows, before and after training with the first seed."""
    parallel: Runtime[int] = Field(1, ge=1)
    """Runs at a time. Each needs the cores or GPUs of its own training and embedding workers; what the cluster cannot
    give at once waits."""
    resamples: int = Field(2000, ge=100)
    """Resamples of the test users."""

    def variant(self, name: str, seed: int) -> Experiment:
        """The experiment of one variant and seed."""
        changes = {**self.settings, **self.variants[name], "seed": seed, "output": self.output}
        return load(Experiment, self.experiment, [f"{key}={json.dumps(value)}" for key, value in changes.items()])

    @property
    def result_names(self) -> list[str]:
        """Everything that is compared."""
        return [*self.variants, *(joined_name(name) for name in self.joined), *self.baselines]


def joined_name(variant: str) -> str:
    """How results call a variant's vectors with the hand-crafted features beside them."""
    return f"{variant} + hand-crafted"


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    variant: str
    seed: int
    pipeline: Pipeline


Runs = Mapping[tuple[str, int], Run]
"""(variant, seed) -> its run, whole comparisons, seed by seed."""


def study(config: StudyConfig) -> Any:
    """Do what is missing, compare, write and print the summary.

    Raises:
        InputError: a name is unknown or taken, a setting is wrong, or there is nothing to evaluate on.
    """
    runs = _check(config)
    first = next(iter(runs.values())).pipeline
    scores: dict[str, dict[int, Scores]] = {}
    with connected(first.experiment):
        _prepare_all(runs)
        for name, seed, of_run in _score_all(config, runs):
            scores.setdefault(name, {})[seed] = of_run
        for baseline in config.baselines:
            scores[baseline] = {0: score_test_rows(first, baseline, config.probe)}
        for variant in config.attention:
            attention(runs[variant, config.seeds[0]].pipeline)
    summary = study_summary(
        scores, config.reference, config.resamples, config.probe, config.questions, config.variants.keys()
    )
    _write(config, runs, summary, storage.join(config.output, f"study-{digest(config)}"))
    return summary


def preview(config: StudyConfig) -> str:
    """Every run, and which stages of it are done."""
    lines = []
    for run in _check(config).values():
        p = run.pipeline
        done = [stage.name for stage in (p.prepare, p.train, p.embed) if stage.result()]
        lines.append(f"  {run.variant}, seed {run.seed}: {', '.join(done) or 'nothing'} done; {p.embed.location}")
    return "\n".join([f"study: {len(lines)} runs", *lines])


def _check(config: StudyConfig) -> Runs:
    """Refuse a wrong study before anything trains; returns its runs."""
    _check_names(config)
    keys = list(itertools.product(config.seeds, config.variants))
    experiments = [config.variant(variant, seed) for seed, variant in keys]
    for (_, variant), experiment in zip(keys, experiments, strict=True):
        check_evaluation(experiment)
        if variant in config.attention:
            attention_split(experiment)
    found = zip(keys, pipelines(experiments), strict=True)
    return {(variant, seed): Run(variant, seed, pipeline) for (seed, variant), pipeline in found}


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
    if len(config.result_names) < 2:
        raise InputError("variants: there is nothing to compare; name a second variant, or a baseline")
    others = {*config.baselines, *(joined_name(name) for name in config.joined)}
    if taken := others & config.variants.keys():
        raise InputError(f"variants: '{min(taken)}' is the name of other vectors in the results; give another")


def _prepare_all(runs: Runs) -> None:
    """Prepare every data that the runs need, and refuse test labels that differ."""
    prepared = {run.pipeline.prepare.location: run.pipeline for run in runs.values()}
    labels = []
    for pipeline in prepared.values():
        prepare(pipeline)
        _, score = probe_splits(pipeline.experiment)
        labels.append(read_labels(pipeline.prepare.labels(score)))
    check_labels_agree(labels)


def _write(config: StudyConfig, runs: Runs, summary: Any, place: str) -> None:
    """Write study.json, study.md, config.yaml and study.html."""
    first = runs[config.reference, config.seeds[0]].pipeline.experiment
    groups = first.data.label_groups()
    storage.write_json(storage.join(place, "study.json"), {"config": config.model_dump(mode="json"), **summary})
    text = f"# {config.name}\n\n{headline(summary)}\n\n{markdown(summary, groups)}"
    storage.write_text(storage.join(place, "study.md"), text)
    written = to_yaml(config)
    storage.write_text(storage.join(place, "config.yaml"), written)
    of_variant = {name: [runs[name, seed].pipeline for seed in config.seeds] for name in config.variants}
    trained = {name: p for name, p in of_variant.items() if p[0].experiment.embedding.checkpoint == "final"}
    logs = {name: [pipeline.train.log() for pipeline in each] for name, each in trained.items()}
    report = StudyReport(
        title=config.name,
        summary=summary,
        groups=groups,
        command=f"python jobs/study.py --config {storage.join(place, 'config.yaml')}",
        config=written,
        loss={name: curves for name, each in logs.items() if all(curves := [curve(log, "loss") for log in each])},
        masks={
            name: mask_history(each[0], trained[name][0].train.slot_weights()) for name, each in logs.items() if each[0]
        },
        attention={name: figure for name in config.attention if (figure := attention_picture(of_variant[name][0]))},
        digests={f"{run.variant}, seed {run.seed}": run.pipeline.embed.directory for run in runs.values()},
        notes=first.notes,
    )
    storage.write_text(storage.join(place, "study.html"), render(report))
    print(f"\n{text}\nstudy: {storage.join(place, 'study.html')}", flush=True)


def _score_all(config: StudyConfig, runs: Runs) -> Iterator[tuple[str, int, Scores]]:
    """(name, seed, scores) of every run; runs that share an encoder are done one after the other."""
    groups: dict[str, list[Run]] = {}
    for run in runs.values():
        groups.setdefault(run.pipeline.train.location, []).append(run)
    waiting = iter(groups.values())
    if config.parallel == 1:
        results: Iterator[list[tuple[str, int, Scores]]] = (_score_group(config, group) for group in waiting)
    else:
        results = _in_parallel(config, runs, waiting)
    for number, scored in enumerate(results, 1):
        yield from scored
        print(f"study: {number} of {len(groups)} encoders done", flush=True)


def _in_parallel(
    config: StudyConfig, runs: Runs, waiting: Iterator[list[Run]]
) -> Iterator[list[tuple[str, int, Scores]]]:
    resources = runs[config.reference, config.seeds[0]].pipeline.experiment.ray
    available, needed = ray.cluster_resources().get("CPU", 0), config.parallel * (resources.busy_cpus + 2)
    if available < needed:
        print(
            f"study: {config.parallel} runs at a time want {needed} CPUs, and the cluster has {available:.0f}: unless "
            "it grows, they wait for each other, in the worst case for ever; make `parallel` smaller then",
            flush=True,
        )
    task = ray.remote(num_cpus=0)(_score_group)  # it waits for its own workers, which ask for cores and GPUs themselves
    running = [task.remote(config, group) for group in itertools.islice(waiting, config.parallel)]
    while running:
        done, running = ray.wait(running)
        running += [task.remote(config, group) for group in itertools.islice(waiting, 1)]
        yield ray.get(done[0])


def _score_group(config: StudyConfig, group: list[Run]) -> list[tuple[str, int, Scores]]:
    scored = []
    for run in group:
        started = time.monotonic()
        train(run.pipeline)
        embed(run.pipeline)
        scored.append((run.variant, run.seed, score_test_rows(run.pipeline, "encoder", config.probe)))
        if run.variant in config.joined:
            scores = score_test_rows(run.pipeline, "joined", config.probe)
            scored.append((joined_name(run.variant), run.seed, scores))
        print(f"study: {run.variant}, seed {run.seed}: {time.monotonic() - started:.0f} s", flush=True)
    return scored
