"""The stages of a pipeline: where each writes, what it recorded when it finished.

    prepare -> train -> embed -> evaluate

Every stage writes to `<output>/<stage>-<digest>`; the digest covers the settings that its results depend on, those of
the stages before it, and the state of the input files. So a finished stage is reused as long as nothing it depends on
changed, and a changed setting never overwrites or mixes with older results. `stage.json` is written last: without it a
stage is not finished.

A run resolves its pipeline once (`Pipeline.of`) and passes it on: input that lands in between cannot split it in two.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, TypeVar

from ray_ggsm import storage
from ray_ggsm.changes import changes_of_training
from ray_ggsm.config import InputError, digest
from ray_ggsm.data.prepare import ROWS_FORMAT, input_state
from ray_ggsm.data.source_choice import pinned
from ray_ggsm.experiment import Experiment
from ray_ggsm.lineage import Dataset, reads, writes
from ray_ggsm.log import about, say
from ray_ggsm.masks.slot_weights import SlotWeights
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.stage_results import EmbedResult, EvaluateResult, PrepareResult, StageResult, TrainResult
from ray_ggsm.training.questions import QuestionRows, newest_questions

Result = TypeVar("Result", bound=StageResult)
SAME = "the same config"


@dataclass(frozen=True)
class Stage(Generic[Result]):
    """The place of one stage."""

    location: str
    run_with: str = field(default=SAME, compare=False)
    """What its job has to be run with."""
    name: ClassVar[str]
    results: ClassVar[type[StageResult]]

    @property
    def directory(self) -> str:
        """The stage's name with its digest."""
        return self.location.rsplit("/", 1)[-1]

    def path(self, *parts: str) -> str:
        """A location below the stage's own."""
        return storage.join(self.location, *parts)

    def result(self) -> Result | None:
        """What the finished stage recorded; None while it is not finished."""
        marker = self.path("stage.json")
        if not storage.exists(marker):
            return None
        recorded: Result = self.results.model_validate_json(storage.read_text(marker))  # type: ignore[assignment]
        return recorded

    def require(self) -> Result:
        """What the finished stage recorded.

        Raises:
            InputError: it is not finished; the sentence tells what to run.
        """
        result = self.result()
        if result is None:
            raise InputError(
                f"{self.location} is not there yet (with these settings); run jobs/{self.name}.py (or ray-ggsm "
                f"{self.name}) with {self.run_with} first"
            )
        reads(self.location, self.directory)
        return result


class PrepareStage(Stage[PrepareResult]):
    """User rows, labels and dead letters (`ray_ggsm.data.prepare`)."""

    name = "prepare"
    results = PrepareResult

    @property
    def definition(self) -> str:
        """What a user row is (`ray_ggsm.data.definition`)."""
        return self.path("rows.json")

    def rows(self, split: str) -> str:
        """Directory of a split's user rows."""
        return self.path("rows", split)

    def labels(self, split: str) -> str:
        """Directory of a split's labels."""
        return self.path("labels", split)


class TrainStage(Stage[TrainResult]):
    """The encoder, and how it was trained."""

    name = "train"
    results = TrainResult

    @property
    def encoder(self) -> str:
        """The trained encoder."""
        return self.path("encoder")

    @property
    def untrained(self) -> str:
        """The same encoder at step 0."""
        return self.path("untrained")

    @property
    def checkpoints(self) -> str:
        """Ray Train's directory."""
        return self.path("runs")

    def slot_weights(self) -> SlotWeights | None:
        """The mask slot by slot, at some steps; None where nothing was recorded."""
        file = self.path("mask.json")
        return SlotWeights.model_validate_json(storage.read_text(file)) if storage.exists(file) else None

    def log(self) -> list[dict[str, float]]:
        """One entry per step."""
        entries: list[dict[str, float]] = storage.read_json(self.path("log.json"))
        return entries


class EmbedStage(Stage[EmbedResult]):
    """One version of an embedding table."""

    name = "embed"
    results = EmbedResult

    @property
    def table(self) -> str:
        """The embedding table."""
        return self.path("table")

    @property
    def staging(self) -> str:
        """Vectors that are not published yet, and dead letters."""
        return self.path("staging")


class EvaluateStage(Stage[EvaluateResult]):
    """Probes on the vectors."""

    name = "evaluate"
    results = EvaluateResult

    @property
    def report(self) -> str:
        """The HTML page."""
        return self.path("report.html")

    @property
    def results_file(self) -> str:
        """All numbers as JSON."""
        return self.path("results.json")

    @property
    def probes(self) -> str:
        """The fitted probes on the encoder's vectors (`ray_ggsm.evaluation.saved_probes`)."""
        return self.path("probes")

    @property
    def config_file(self) -> str:
        """The resolved config."""
        return self.path("config.yaml")


@dataclass(frozen=True)
class Pipeline:
    """An experiment with the places of its stages."""

    experiment: Experiment
    prepare: PrepareStage
    train: TrainStage
    embed: EmbedStage
    embed_untrained: EmbedStage
    """The table of the encoder at step 0."""
    evaluate: EvaluateStage
    questions: QuestionRows | None = None
    """The query-answer pairs that training takes; None: there are none yet, or it takes none."""

    @classmethod
    def of(cls, experiment: Experiment, run_with: str = SAME) -> "Pipeline":
        """Resolve the places; `run_with` says what the experiment's jobs have to be run with.

        Raises:
            InputError: the input files are not there.
        """
        return pipelines([experiment], run_with)[0]

    @property
    def stages(self) -> Sequence[Stage[StageResult]]:
        """All stages in their order, with one table."""
        return self.prepare, self.train, self.embed, self.evaluate  # type: ignore[return-value]

    @property
    def event_vectors(self) -> str:
        """Where the experiments below one `output` share the vectors of event texts."""
        return storage.join(storage.absolute(self.experiment.output), "event_vectors")

    @property
    def untrained(self) -> "Pipeline":
        """The same pipeline, embedding with the encoder at step 0."""
        experiment = self.experiment.model_copy(update={"embedding": self.experiment.embedding.of("untrained")})
        return replace(self, experiment=experiment, embed=self.embed_untrained)


def pipelines(experiments: Sequence[Experiment], run_with: str = SAME) -> list[Pipeline]:
    """The pipelines of several experiments; the files of a source are looked at once, and so is a store's manifest."""
    states: dict[str, object] = {}
    found = []
    for e in experiments:
        e = e.model_copy(update={"data": pinned(e.data)})
        source = digest(e.data.source, e.data.definition)
        if source not in states:
            states[source] = input_state(e.data)
        found.append(_resolve(e, states[source], run_with))
    return found


def _resolve(e: Experiment, input_files: object, run_with: str) -> Pipeline:
    prepare = digest(e.data, input_files, ROWS_FORMAT)
    questions = newest_questions(e.training.questions) if e.training.questions else None
    train = digest(prepare, e.model, e.mask, e.training, e.seed, *_more_of_training(e, questions))
    place = storage.absolute(e.output)
    embed = {
        checkpoint: digest(train, e.embedding.of(checkpoint), e.publishing) for checkpoint in ("final", "untrained")
    }
    untrained = f"{run_with} and --set embedding.checkpoint=untrained"
    embeds = {
        key: EmbedStage(storage.join(place, f"embed-{embed[key]}"), untrained if key == "untrained" else run_with)
        for key in embed
    }
    evaluate = digest(embed["final"], e.evaluation, e.seed)
    return Pipeline(
        experiment=e.model_copy(update={"embedding": e.embedding.of(e.embedding.checkpoint)}),
        prepare=PrepareStage(storage.join(place, f"prepare-{prepare}"), run_with),
        train=TrainStage(storage.join(place, f"train-{train}"), run_with),
        embed=embeds[e.embedding.checkpoint],
        embed_untrained=embeds["untrained"],
        evaluate=EvaluateStage(storage.join(place, f"evaluate-{evaluate}"), run_with),
        questions=questions,
    )


def _more_of_training(e: Experiment, questions: QuestionRows | None) -> Iterator[object]:
    """What results of training depend on beside the settings; nothing where there is nothing, so that digests stay."""
    if detailed := [str(m) for m in e.modalities if m.text_fields or m.number_fields or m.parts]:
        yield detailed
    yield from changes_of_training(e)
    if e.training.questions:
        yield [questions.digest, questions.pairs] if questions else None
    if e.training.old_space:
        yield {"older encoder": SavedEncoder.read(e.training.old_space.encoder).digest}


@dataclass
class Running(Generic[Result]):
    """A stage at work."""

    result: Result | None = field(default=None)
    """Set it before the block ends."""


@contextmanager
def timed(stage: Stage[Result]) -> Iterator[Running[Result]]:
    """Announce a stage, time it, and record its result when the block ends without an error."""
    started = time.monotonic()
    running: Running[Result] = Running()
    with about(run=stage.directory):
        say(f"{stage.name}: writing {stage.location}")
        yield running
        assert running.result is not None, "a stage that ends has a result"
        result = running.result.model_copy(update={"seconds": round(time.monotonic() - started, 1)})
        storage.write_json(stage.path("stage.json"), result.model_dump(mode="json"))
        writes(Dataset(stage.location, stage.directory))
        say(f"{stage.name}: done in {result.seconds:.0f} s", seconds=result.seconds)
