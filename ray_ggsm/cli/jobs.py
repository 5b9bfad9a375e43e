"""All jobs: the help of each, and the code that it runs, which is imported when the job starts: help is fast."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray_ggsm.config import Config, to_yaml


@dataclass(frozen=True)
class Steps:
    """The code of a job."""

    config: type[Config]
    """Schema of its config file."""
    run: Callable[..., object]
    """Function of the config and, where the job publishes, of the reason given with --publish-anyway."""
    preview: Callable[[Any], str]
    """Function of the config that checks what the job needs and returns what it would do (--dry-run)."""
    run_since: Callable[..., object] | None = None
    """Function of the config, the first day (--from), and the reason; None: the job has no days."""


@dataclass(frozen=True)
class Job:
    """One job."""

    help: str
    """Description: a sentence, then the inputs and outputs."""
    load: Callable[[], Steps]
    """Function that imports its code."""
    publishes: bool = False
    """Whether it has publish gates."""
    day: str | None = None
    """Config key of the day that --as-of sets; None: it has no such option."""
    makes_up: bool = False
    """Whether --from makes up all days from one on (`Steps.run_since`)."""


def _experiment_job(name: str) -> Steps:
    """The code of a job on the stages of an experiment: the function of its name in `ray_ggsm.on_ray.<name>`."""
    from ray_ggsm.experiment import Experiment
    from ray_ggsm.stages import Pipeline

    run = getattr(importlib.import_module(f"ray_ggsm.on_ray.{name}"), name)
    return Steps(Experiment, lambda config, *reason: run(Pipeline.of(config), *reason), _plan)


def _plan(experiment: Any) -> str:
    """The resolved config, and which stages are finished."""
    from ray_ggsm.data.prepare import check
    from ray_ggsm.stages import Pipeline

    check(experiment.data)
    lines = [
        f"  {stage.name:9} {'finished' if stage.result() else 'to do':9} {stage.location}"
        for stage in Pipeline.of(experiment).stages
    ]
    return "\n".join([to_yaml(experiment), "stages:", *lines])


def _config_job(name: str, config: str) -> Steps:
    """The code of a job with a config of its own: both, and `preview`, are names in `ray_ggsm.on_ray.<name>`."""
    code = importlib.import_module(f"ray_ggsm.on_ray.{name}")
    return Steps(getattr(code, config), getattr(code, name), _resolved(code.preview))


def _refresh() -> Steps:
    from ray_ggsm.on_ray.refresh import RefreshConfig, preview, refresh, refresh_since

    return Steps(RefreshConfig, refresh, _resolved(preview), refresh_since)


def _access() -> Steps:
    from ray_ggsm.cli.access import AccessConfig, access, preview

    return Steps(AccessConfig, access, _resolved(preview))


def _attach_definition() -> Steps:
    from ray_ggsm.cli.attach_definition import AttachDefinitionConfig, attach_definition, preview

    return Steps(AttachDefinitionConfig, attach_definition, _resolved(preview))


def _export() -> Steps:
    from ray_ggsm.cli.export import ExportConfig, export, preview

    return Steps(ExportConfig, export, _resolved(preview))


def _resolved(preview: Callable[[Any], str]) -> Callable[[Any], str]:
    """A preview that begins with the resolved config."""
    return lambda config: f"{to_yaml(config)}\n{preview(config)}"


JOBS = {
    "prepare": Job(
        """Turn event tables into user rows, features and labels.

Reads   the tables that `data.source` names (CSV, JSON lines, Parquet, local or s3://; or the Complete Journey package)
Writes  <output>/prepare-<digest>/: rows/<split>/, labels/<split>/, dead_letters/, data.json
""",
        partial(_experiment_job, "prepare"),
    ),
    "synthesize": Job(
        """Write questions about users and their answers, with a language model or by counting: more pairs to train on.

Reads   the rows of the experiment that the config names (configs/journey/questions.yaml); they are prepared if need be
Writes  <output>/<digest>/: rows/ (user rows with query and answer: training.questions), pairs/, failed/, quality.html;
        <output>/replies/ (what a language model replied: no request is made twice), questions.json (the newest run)
Start it again after any interruption, or with a larger budget: it goes on.
""",
        partial(_config_job, "synthesize", "SynthesizeConfig"),
    ),
    "train": Job(
        """Fine-tune the decoder into a user encoder with the configured mask recipe.

Reads   the rows of the split with `role: train` that jobs/prepare.py wrote, and the models that `model` names
Writes  <output>/train-<digest>/: encoder/, untrained/ (the same encoder at step 0), log.json, runs/ (checkpoints);
        <output>/event_vectors/ (one vector per distinct event text, shared by all runs)
An interrupted run continues from its last checkpoint.
""",
        partial(_experiment_job, "train"),
    ),
    "embed": Job(
        """Embed user rows with a trained encoder and publish an embedding table.

Reads   the rows of `embedding.splits`, and the encoder that jobs/train.py wrote
        (--set embedding.checkpoint=untrained: the same encoder at step 0)
Writes  <output>/embed-<digest>/table/ (a Delta table; docs/tables.md), staging/dead_letters/ (rejected rows, with
        reasons), report.json|html (what the run did). Exit code 3: a publish gate failed and nothing was published.
""",
        partial(_experiment_job, "embed"),
        publishes=True,
    ),
    "evaluate": Job(
        """Fit probes on frozen vectors and compare encoder, untrained encoder and hand-crafted features.

Reads   labels and tabular features that jobs/prepare.py wrote, and the tables of jobs/embed.py (trained and untrained)
Writes  <output>/evaluate-<digest>/: report.html, results.json; and <output>/summary.json
""",
        partial(_experiment_job, "evaluate"),
    ),
    "attention": Job(
        """Measure the attention of the encoder before and after training: to past or future, how far, how spread.

Reads   rows that jobs/prepare.py wrote (those that probes are scored on, or attention.split), and the encoders of
        jobs/train.py
Writes  <output>/attention-<digest>/attention.json, and prints it as a table; event vectors that are missing are added
""",
        partial(_experiment_job, "attention"),
    ),
    "quickstart": Job(
        """All stages in a row: prepare, train, embed, evaluate. Finished stages are reused.

Reads   what the four jobs read; jobs/quickstart.py without --config: the Complete Journey data, models from PyPI
Writes  what the four jobs write, below the config's `output`, and prints the summary
""",
        partial(_experiment_job, "quickstart"),
    ),
    "refresh": Job(
        """Refresh a long-lived table: encode the users who need a new vector, carry the others, publish one version.

Reads   the user rows (configs/refresh.yaml), or the events that tonight's rows are made of (configs/night.yaml), the
        encoder and the newest version of the table that the config names
Writes  a new version of the table (none when nothing changed), and below it staging/<run>/dead_letters/ (rejected
        rows, with reasons) and runs/<run>/report.json|html (what the run did).
Start it again after any failure: it continues where it stopped.
Exit code 3: a publish gate failed and nothing was published.
""",
        _refresh,
        publishes=True,
        day="events.as_of",
        makes_up=True,
    ),
    "replay": Job(
        """Play the nights of an experiment's events, one version each: what do vectors of earlier nights save and cost?

Reads   a config (configs/journey/replay.yaml) and the finished experiment that it names
Writes  below its `output` a table with a version per night, and replay.md|json|svg: share encoded, seconds, AUC of
        probes on carried against exact vectors, overall and by days since the last event
Start it again after any interruption: nights that were played are not played again.
""",
        partial(_config_job, "replay", "ReplayConfig"),
    ),
    "study": Job(
        """Compare recipes (or any settings) over seeds: train, embed and score every run, then test all differences.

Reads   a study config (configs/journey/study.yaml) and the experiment config that it names
Writes  below the study's `output` the stages of every run, scores-<digest>.parquet, and study-<digest>/study.json|md
Start it again after any interruption: finished work is not repeated.
""",
        partial(_config_job, "study", "StudyConfig"),
    ),
    "drift": Job(
        """Measure what changed for the same users between two encoders, or two versions, tags or moments of a table.

Reads   the two tables that the config names (configs/drift.yaml) and, for probes, two label tables
Writes  one JSON file: users in common, cosines, Procrustes distance, common neighbours, AUCs and their differences, and
        what a map into the old space costs. Exit code 3: it costs more than `max_loss`.
""",
        partial(_config_job, "drift", "DriftConfig"),
    ),
    "monitor": Job(
        """Follow a table on labels that have matured: is it time to fit models anew, or to train the encoder anew?

Reads   all versions of the table that the config names (configs/monitor.yaml), and label tables, or the events that an
        experiment's labels are made of
Writes  <output>/monitor.json|html (AUCs and verdict by period) and metrics.prom (gauges of the verdict); exit code 0
        whatever the verdict is, 4 as long as no label has matured
""",
        partial(_config_job, "monitor", "MonitorConfig"),
        day="as_of",
    ),
    "tune-prompt": Job(
        """Fit a soft prompt to one label, while the encoder stays as it is; an instruction then takes it by its place.

Reads   the config (configs/journey/prompt.yaml), and the finished experiment that it names
Writes  <output>/prompt-<digest>/: prompt.json (with its AUC on the rows that are scored), prompt.safetensors
""",
        partial(_config_job, "tune_prompt", "TunePromptConfig"),
    ),
    "lookalike": Job(
        """Find the users of an embedding table who are most like some seed users, or like one sentence.

Reads   the version, or the tag, of the table that the config names (configs/lookalike.yaml; the newest), and the seed
        users' file or the encoder
Writes  one Parquet file: user_id, as_of, score (cosine), best first
""",
        partial(_config_job, "lookalike", "LookalikeConfig"),
    ),
    "explain": Job(
        """Say which events moved the score of a fitted probe, for some users and a label, and test whether it is true.

Reads   the encoder, the evaluation's probes and the user rows that the config names (configs/explain.yaml)
Writes  <output>/: events.parquet (an effect per event and method), explain.json (with the deletion test), explain.html
""",
        partial(_config_job, "explain", "ExplainConfig"),
    ),
    "attach-definition": Job(
        """Give an encoder of an earlier version the definition of its user rows, so that rows can be made for it.

Reads   the experiment config and the encoder that the config names (configs/attach_definition.yaml), and the columns of
        the experiment's source
Writes  rows.json beside the encoder; encoders that are trained today have it
""",
        _attach_definition,
    ),
    "export": Job(
        """Write an encoder as sentence-transformers, MLflow or ONNX load it, or the model card of a run.

Reads   the encoder that the config names (configs/export.yaml) with the pretrained models that it names; for a card,
        what the stages of an experiment have recorded
Writes  a directory that has all it needs, with digests of encoder, mask and row definition; or README.md
""",
        _export,
    ),
    "simulate": Job(
        """Write the events of a made-up population, day by day: for load tests, and for trials whose best AUC is known.

Reads   a config (configs/simulate.yaml)
Writes  <output>/<table>/day=.../part-*.parquet, users/ (static facts), ready/<day>.json (written last: the day is
        complete); prints the best AUC that any model can have
Start it again after any failure, or for more days: finished days are not written again.
""",
        partial(_config_job, "simulate", "SimulateConfig"),
    ),
    "access": Job(
        """Write what each role may do in the object store, as policies: reader, ingest, trainer, refresh, forget,
vacuum.

Reads   the places that the config names (configs/access.yaml); nothing in them
Writes  <policies>/<role>.json (docs/security.md); --dry-run says the same in words
""",
        _access,
    ),
    "ingest": Job(
        """Take event files into the event store, a day or all of time at once; later jobs read it bucket by bucket.

Reads   the files of `tables` (configs/ingest.yaml), and the producer's sign that the day is complete (`ready`)
Writes  <store>/: a Delta table per source table, laid out by user, and one manifest per change; docs/store.md
Start it again after any failure: files that the store has are not taken twice. Exit code 4: the day is not complete, or
another change of the store is running; try again later.
""",
        partial(_config_job, "ingest", "IngestConfig"),
    ),
}
"""Name -> job."""
COMMANDS = {
    "tables": "Look after an embedding table: versions, tags, files, forgotten users, metrics, an index.",
    "store": "Look after an event store: history, compact, expire, forget, audit, vacuum.",
    "rayjob": "Run a RayJob on Kubernetes, wait for it, and end with its driver's exit code.",
}
"""Jobs with commands instead of a config, each in `ray_ggsm.cli.<name>` -> title."""
