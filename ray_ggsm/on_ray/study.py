"""A study: one experiment with several variants (recipes, or any settings) and seeds, compared with honest statistics.

Every stage of every run has a place of its own that follows from its settings, so a study that was interrupted, or got
more variants or seeds, does what is missing and nothing twice. The probes' scores of the test rows are kept as
`<output>/scores-<digest>.parquet`; the comparison as `<output>/study-<digest>/study.html`, `.md` and `.json`.
"""

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any, Literal

import ray
import yaml
from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, digest, load
from ray_ggsm.evaluation.config import Kind
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.mask_pictures import curve
from ray_ggsm.evaluation.study import Scores, check_labels_agree, headline, markdown, study_summary
from ray_ggsm.evaluation.study_report import StudyReport, render
from ray_ggsm.experiment import Experiment, stages
from ray_ggsm.on_ray.attention import attention, attention_picture, check_stage
from ray_ggsm.on_ray.cluster import connected
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.evaluate import SCORE, check_config, opening_of
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.scores import score_test_rows
from ray_ggsm.on_ray.train import train

Baseline = Literal["hand-crafted", "event mean"]
Run = tuple[str, int]
"""Variant and seed."""


class StudyConfig(Config):
    """Which runs, and how they are compared."""

    name: str
    """For people."""
    base: str
    """Config file of the experiment that all runs share."""
    output: str
    """Where all runs write."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """key.path -> value, in every run."""
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
    parallel: int = Field(1, ge=1)
    """Runs at a time. Each needs the cores or GPUs of its own training and embedding workers; what the cluster cannot
    give at once waits."""
    resamples: int = Field(2000, ge=100)
    """Of the test users."""

    def experiment(self, variant: str, seed: int) -> Experiment:
        """The experiment of one run."""
        changes = {**self.settings, **self.variants[variant], "seed": seed, "output": self.output}
        return load(Experiment, self.base, [f"{key}={json.dumps(value)}" for key, value in changes.items()])


def study(config: StudyConfig) -> dict[str, Any]:
    """Do what is missing, compare, write and print the summary.

    Raises:
        InputError: a name is unknown or taken, a setting is wrong, or there is nothing to evaluate on.
    """
    _check(config)
    runs = {
        (variant, seed): config.experiment(variant, seed) for seed in config.seeds for variant in config.variants
    }  # whole comparisons, seed by seed
    first = next(iter(runs.values()))
    found: dict[str, dict[int, Scores]] = {}
    with connected(first):
        prepared = {stages(e)["prepare"].location: e for e in runs.values()}
        for experiment in prepared.values():
            prepare(experiment)
        labels = [stages(e)["prepare"].path("labels", SCORE) for e in prepared.values()]
        check_labels_agree([read_labels(location) for location in labels])
        for name, seed, scores in _all_runs(config, runs):
            found.setdefault(name, {})[seed] = scores
        for baseline in config.baselines:
            found[baseline] = {0: score_test_rows(first, baseline, config.probe)}
        for variant in config.attention:
            attention(runs[variant, config.seeds[0]])
    summary = study_summary(
        found, config.reference, config.resamples, config.probe, config.questions, config.variants.keys()
    )
    place = storage.join(config.output, f"study-{digest(config)}")
    _write(config, summary, place)
    return summary


def _write(config: StudyConfig, summary: dict[str, Any], place: str) -> None:
    """study.json, study.md, config.yaml and study.html."""
    first = config.experiment(config.reference, config.seeds[0])
    groups = first.data.label_groups()
    values = config.model_dump(mode="json")
    storage.write_json(storage.join(place, "study.json"), {"config": values, **summary})
    text = f"# {config.name}\n\n{headline(summary)}\n\n{markdown(summary, groups)}"
    storage.write_text(storage.join(place, "study.md"), text)
    written = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    storage.write_text(storage.join(place, "config.yaml"), written)
    runs = {name: [config.experiment(name, seed) for seed in config.seeds] for name in config.variants}
    trained = {name: list(map(stages, each)) for name, each in runs.items() if each[0].embedding.checkpoint == "final"}
    logs = {name: [storage.read_json(s["train"].path("log.json")) for s in each] for name, each in trained.items()}
    report = StudyReport(
        title=config.name,
        summary=summary,
        groups=groups,
        command=f"python jobs/study.py --config {storage.join(place, 'config.yaml')}",
        config=written,
        loss={name: curves for name, each in logs.items() if all(curves := [curve(log, "loss") for log in each])},
        masks={name: opening_of(trained[name][0]["train"]) for name, each in logs.items() if each[0]},
        attention={name: figure for name in config.attention if (figure := attention_picture(runs[name][0]))},
        digests={
            f"{name}, seed {experiment.seed}": stages(experiment)["embed"].location.rsplit("/", 1)[-1]
            for name, each in runs.items()
            for experiment in each
        },
        notes=tuple(first.notes),
    )
    storage.write_text(storage.join(place, "study.html"), render(report))
    print(f"\n{text}\nstudy: {storage.join(place, 'study.html')}", flush=True)


def preview(config: StudyConfig) -> str:
    """Every run, and which stages of it are done."""
    _check(config)
    lines = []
    for variant, seed in itertools.product(config.variants, config.seeds):
        place = stages(config.experiment(variant, seed))
        done = [name for name in ("prepare", "train", "embed") if place[name].result()]
        lines.append(f"  {variant}, seed {seed}: {', '.join(done) or 'nothing'} done; {place['embed'].location}")
    return "\n".join([f"study: {len(lines)} runs", *lines])


def _check(config: StudyConfig) -> None:
    known = ", ".join(config.variants)
    for key, names in {"reference": [config.reference], "joined": config.joined, "attention": config.attention}.items():
        for name in names:
            if name not in config.variants:
                raise InputError(f"{key}: there is no variant '{name}'; the variants are {known}")
    for position, names in enumerate(config.questions):
        for name in names:
            if name not in _names(config):
                raise InputError(
                    f"questions[{position}]: '{name}' is not in the results, which are {', '.join(_names(config))}"
                )
    if len(_names(config)) < 2:
        raise InputError("variants: there is nothing to compare; name a second variant, or a baseline")
    others = {*config.baselines, *(f"{name} + hand-crafted" for name in config.joined)}
    if taken := others & config.variants.keys():
        raise InputError(f"variants: '{min(taken)}' is the name of other vectors in the results; give another")
    for variant, seed in itertools.product(config.variants, config.seeds):  # before anything trains
        experiment = config.experiment(variant, seed)
        check_config(experiment)
        if variant in config.attention:
            check_stage(experiment)


def _names(config: StudyConfig) -> list[str]:
    """Everything that is compared."""
    return [*config.variants, *(f"{name} + hand-crafted" for name in config.joined), *config.baselines]


def _all_runs(config: StudyConfig, runs: dict[Run, Experiment]) -> Iterator[tuple[str, int, Scores]]:
    """(name, seed, scores) of every run; runs that share an encoder are done one after the other."""
    groups: dict[str, dict[Run, Experiment]] = {}
    for run, experiment in runs.items():
        groups.setdefault(stages(experiment)["train"].location, {})[run] = experiment
    waiting = iter(groups.values())
    if config.parallel == 1:
        results: Iterator[list[tuple[str, int, Scores]]] = (_group(config, group) for group in waiting)
    else:
        results = _in_parallel(config, waiting)
    for number, scored in enumerate(results, 1):
        yield from scored
        print(f"study: {number} of {len(groups)} encoders done", flush=True)


def _in_parallel(
    config: StudyConfig, waiting: Iterator[dict[Run, Experiment]]
) -> Iterator[list[tuple[str, int, Scores]]]:
    there, needed = ray.cluster_resources().get("CPU", 0), config.parallel * _cpus(config)
    if there < needed:
        print(
            f"study: {config.parallel} runs at a time want {needed} CPUs, and the cluster has {there:.0f}: unless it "
            "grows, they wait for each other, in the worst case for ever; make `parallel` smaller then",
            flush=True,
        )
    task = ray.remote(num_cpus=0)(_group)  # it waits for its own workers, which ask for cores and GPUs themselves
    begun = [task.remote(config, group) for group in itertools.islice(waiting, config.parallel)]
    while begun:
        done, begun = ray.wait(begun)
        begun += [task.remote(config, group) for group in itertools.islice(waiting, 1)]
        yield ray.get(done[0])


def _cpus(config: StudyConfig) -> int:
    """What one run keeps busy: its workers, and two for what reads and writes beside them."""
    needs = config.experiment(config.reference, config.seeds[0]).ray
    training = needs.train_workers * needs.cpus_per_train_worker
    return max(training, needs.embed_workers * needs.cpus_per_embed_worker) + 2


def _group(config: StudyConfig, group: dict[Run, Experiment]) -> list[tuple[str, int, Scores]]:
    scored = []
    for (variant, seed), experiment in group.items():
        began = time.monotonic()
        scored += [(name, seed, scores) for name, scores in _run(experiment, config, variant).items()]
        print(f"study: {variant}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
    return scored


def _run(experiment: Experiment, config: StudyConfig, variant: str) -> dict[str, Scores]:
    train(experiment)
    embed(experiment)
    scored = {variant: score_test_rows(experiment, "encoder", config.probe)}
    if variant in config.joined:
        name = f"{variant} + hand-crafted"
        scored[name] = score_test_rows(experiment, "joined", config.probe)
    return scored
