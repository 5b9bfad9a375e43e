"""What a finished run has recorded, in one place: what a model card is filled from."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from ray_ggsm import storage
from ray_ggsm.config import Record
from ray_ggsm.data import definition
from ray_ggsm.data.summary import DataSummary
from ray_ggsm.evaluation.privacy import Privacy
from ray_ggsm.experiment import Experiment
from ray_ggsm.exporting.manifest import Manifest
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.stages import Pipeline


class Interval(Record):
    """An AUC with its 95 % interval, as `results.json` has it."""

    auc: float
    auc_low: float | None = None
    """None: the run was evaluated before intervals were written down."""
    auc_high: float | None = None


Aucs = dict[str, dict[str, dict[str, Interval]]]
"""Name of vectors -> probe -> label -> AUC."""


@dataclass(frozen=True)
class RunFacts:
    """A run, as its files tell it."""

    experiment: Experiment
    """Resolved config."""
    summary: DataSummary
    """Of the rows."""
    encoder: SavedEncoder
    manifest: Manifest
    """Digests of encoder, mask and rows."""
    best_step: int | None
    """Step of the published encoder where the best one is published."""
    aucs: Aucs
    """Empty: the run was not evaluated."""
    mean_aucs: dict[str, dict[str, Interval]]
    """Name of vectors -> probe -> mean over the labels; empty: not written down."""
    fitted: str
    """Split of the probes."""
    scored: str
    """Split of the test rows."""
    scored_rows: int
    """Test rows with a vector."""
    privacy: str | None
    """Whether vectors tell who was trained on, in a sentence; None: not measured (`evaluation.privacy`)."""


def facts_of(pipeline: Pipeline) -> RunFacts:
    """The facts of a run whose rows are prepared and whose encoder is trained; it may be evaluated.

    Raises:
        InputError: it is not prepared, or not trained.
    """
    summary = pipeline.prepare.require().summary
    trained = pipeline.train.require()
    encoder = SavedEncoder.read(pipeline.train.encoder)
    experiment = pipeline.experiment
    rows = definition.read(encoder.location)
    manifest = Manifest.of("card", encoder, rows, experiment.embedding.mask == "inference", "")
    evaluated = pipeline.evaluate.result()
    found = storage.read_json(pipeline.evaluate.results_file) if evaluated else {}
    vectors = list(evaluated.auc) if evaluated else []
    scored = experiment.data.score_split or ""
    return RunFacts(
        experiment=experiment,
        summary=summary,
        encoder=encoder,
        manifest=manifest,
        best_step=trained.best_step,
        aucs={
            name: {
                probe: {label: Interval.model_validate(value) for label, value in labels.items()}
                for probe, labels in found[name].items()
            }
            for name in vectors
        },
        mean_aucs={
            name: {probe: Interval.model_validate(value) for probe, value in probes.items()}
            for name, probes in found.get("mean_auc", {}).items()
        },
        fitted=experiment.data.fit_split or "",
        scored=scored,
        scored_rows=evaluated.counts[scored].rows if evaluated else 0,
        privacy=TypeAdapter(Privacy).validate_python(found["privacy"]).verdict if "privacy" in found else None,
    )
