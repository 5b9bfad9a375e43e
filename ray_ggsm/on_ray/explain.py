"""The explain job: which events moved a probe's score, for some users, and is that true of the encoder?

Encoder actors explain a few rows at a time. `<output>/` gets `events.parquet`, `explain.json` and `explain.html`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import ray.data
from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Location, Runtime, to_yaml
from ray_ggsm.data.chunks import Chunk, plan_chunks, read_chunk
from ray_ggsm.embedding.embedder import Embedder, asked
from ray_ggsm.encoders.kinds import load
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.evaluation.linear_probe import LinearProbe
from ray_ggsm.evaluation.saved_probes import SavedProbe, load_probe
from ray_ggsm.experiment import RayConfig
from ray_ggsm.explaining.config import DeletionConfig, GradientsConfig
from ray_ggsm.explaining.events import choose_rows
from ray_ggsm.explaining.explainer import ExplainedRow, Explainer
from ray_ggsm.explaining.faithfulness import completeness, faithfulness
from ray_ggsm.explaining.gradients import IntegratedGradients
from ray_ggsm.explaining.page import write_page
from ray_ggsm.explaining.results import ExplainReport, by_modality, events_table
from ray_ggsm.log import say
from ray_ggsm.model.config import ModelConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.model.soft_prompt import prompts_of
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.devices import actor_options, actor_pool, device_of
from ray_ggsm.on_ray.cluster.places import check_kept
from ray_ggsm.on_ray.event_texts import EventEncoding, encode_events

ROWS_AT_ONCE = 8
"""Rows that an actor explains before it hands them over."""
LINES = 10
"""Lines about progress."""


class ExplainConfig(Config):
    """Whose score, and by which probe."""

    encoder: str
    """Directory of a saved encoder (`encoder` of a train stage), or a pattern that matches exactly one."""
    probes: str
    """`probes` of an evaluate stage that used this encoder, or a pattern that matches exactly one."""
    label: str
    """One of its labels."""
    probe: Literal["linear", "lightgbm"] = "linear"
    """Kind of probe; integrated gradients need the linear one."""
    rows: str
    """Parquet files of user rows, local or s3://; a pattern (`*` within a name) may name several."""
    users: tuple[str, ...] | None = Field(None, min_length=1)
    """Users to explain, each by the newest row; null: as many as `sample`, drawn by a hash."""
    sample: int = Field(500, ge=1)
    """Number of users that are drawn."""
    seed: int = Field(0, ge=0)
    """Seeds that draw, and the random events of the deletion test."""
    gradients: GradientsConfig | None = GradientsConfig()
    """Integrated gradients, beside leaving each event out; null: none. Only the language model with a linear probe has
    them."""
    deletion: DeletionConfig = DeletionConfig()
    """The deletion test."""
    texts: bool = False
    """Write the texts of events into the table and the page; they are as sensitive as the events themselves."""
    event_vectors: Runtime[Location | None] = None
    """Location of the vectors of event texts; null: `event_vectors` beside the encoder's train stage."""
    tokens_per_batch: Runtime[int] = Field(8192, ge=1)
    """Padded tokens in one forward pass."""
    output: Runtime[Location]
    """Directory to write, local or s3://."""
    ray: Runtime[RayConfig] = RayConfig()
    """Resources."""


@dataclass(frozen=True)
class _Task:
    """What the actors get."""

    config: ExplainConfig
    encoder: SavedEncoder
    probe: SavedProbe
    vectors: VectorStore


def explain(config: ExplainConfig) -> ExplainReport:
    """Explain, write table, numbers and page, and return the numbers.

    Raises:
        InputError: encoder, probe and rows do not fit each other, or there is no such user.
    """
    encoder, probe, chunks = _inputs(config)
    with started(config.ray):
        check_kept("output", config.output)
        vectors = encode_events(_encoding(config, encoder), chunks, encoder.description.modality_names).vectors
        rows = _rows(config, encoder, probe, chunks)
        found = list(_explained(_Task(config, encoder, probe, vectors), rows))
    return _write(config, encoder, found)


def preview(config: ExplainConfig) -> str:
    """What would be explained; raises like `explain`, before anything is computed."""
    encoder, probe, chunks = _inputs(config)
    who = f"{len(config.users):,} users" if config.users else f"{config.sample:,} users"
    quality = f"{config.probe} probe of '{config.label}', AUC {probe.description.auc:.4f}"
    return f"explain: {who} of {sum(chunk.rows for chunk in chunks):,} rows; {encoder.location}; {quality}"


def _inputs(config: ExplainConfig) -> tuple[SavedEncoder, SavedProbe, list[Chunk]]:
    encoder = SavedEncoder.find(config.encoder)
    probe = load_probe(_one(config.probes), config.label, config.probe)
    if probe.description.vectors.encoder != encoder.digest:
        raise InputError(
            f"{config.probes}: this probe was fitted on vectors of the encoder {probe.description.vectors.encoder}, "
            f"and {encoder.location} is {encoder.digest}; give that one"
        )
    if probe.description.width != encoder.description.width:
        raise InputError(
            f"{config.probes}: this probe reads {probe.description.width} dimensions of the encoder's "
            f"{encoder.description.width}; give one that was fitted on whole vectors"
        )
    model = encoder.description.model
    kind = model.kind
    if config.gradients and isinstance(model, ModelConfig) and model.summary_tokens:
        raise InputError(
            "gradients: summary tokens (model.summary_tokens) read the same events a second time; set gradients to"
            " null, and each event is left out"
        )
    if config.gradients and (kind != "llm" or config.probe != "linear"):
        raise InputError(
            f"gradients: integrated gradients need a language model and a linear probe, found {kind} and "
            f"{config.probe}; set gradients to null, and each event is left out"
        )
    files = storage.glob(config.rows)
    chunks = plan_chunks(files, 4096, encoder.description.modality_names, len(encoder.description.feature_names))
    if not chunks:
        raise InputError(f"rows: {config.rows}: there is no row here")
    return encoder, probe, chunks


def _one(pattern: str) -> str:
    """The only directory that a pattern matches."""
    if "*" not in pattern:
        return storage.absolute(pattern)
    found = storage.glob(pattern)
    if len(found) != 1:
        raise InputError(f"probes: '{pattern}' must match one directory, and matches {', '.join(found) or 'nothing'}")
    return found[0]


def _encoding(config: ExplainConfig, encoder: SavedEncoder) -> EventEncoding:
    """What encodes event texts that the store lacks; by default the store of the experiments that trained beside it."""
    described, output = encoder.description, encoder.location.rstrip("/").rsplit("/", 2)[0]
    store = storage.absolute(config.event_vectors or storage.join(output, "event_vectors"))
    digest = described.event_encoder_digest
    return EventEncoding(described.model.event_encoder, digest, store, config.ray, packed_in=encoder.location)


def _rows(config: ExplainConfig, encoder: SavedEncoder, probe: SavedProbe, chunks: Sequence[Chunk]) -> pa.Table:
    """The rows to explain, with the instruction that the probe's vectors were made with."""
    columns = ["user_id", "as_of", *encoder.description.modality_names, "tabular", "query"]
    rows = choose_rows((read_chunk(chunk, columns) for chunk in chunks), config.users, config.sample, config.seed)
    if not len(rows):
        raise InputError(f"users: none of the {len(config.users or ())} users has a row in {config.rows}")
    if config.users and len(rows) < len(set(config.users)):
        say(f"explain: {len(set(config.users)) - len(rows):,} of the users have no row")
    instruction = probe.description.vectors.instruction
    return asked(rows, instruction) if instruction else rows


def _explained(task: _Task, rows: pa.Table) -> Iterator[ExplainedRow]:
    parts = [rows.slice(start, ROWS_AT_ONCE) for start in range(0, len(rows), ROWS_AT_ONCE)]
    found = ray.data.from_arrow(parts).map_batches(
        _Explain,
        fn_constructor_args=[task],
        batch_format="pyarrow",
        batch_size=None,
        compute=actor_pool(task.config.ray, len(parts)),
        **actor_options(task.config.ray),
    )
    for number, row in enumerate(found.iter_rows(), 1):
        if number % max(1, len(rows) // LINES) == 0:
            say(f"explain: {number:,} of {len(rows):,} users")
        yield row["explained"]


class _Explain:
    """Actor: user rows -> explained rows."""

    def __init__(self, task: _Task) -> None:
        config, trained_on = task.config, task.probe.description.vectors
        device = device_of(config.ray)
        encoder = load(task.encoder.location, task.vectors.open(), device, trained_on.mask == "inference")
        gradients = None
        if isinstance(encoder, LanguageModel):
            encoder.use_prompts(prompts_of([trained_on.instruction], task.encoder))
            if config.gradients and isinstance(task.probe.probe, LinearProbe):
                gradients = IntegratedGradients(encoder, task.probe.probe, config.gradients, config.tokens_per_batch)
        embedder = Embedder(encoder, config.tokens_per_batch)
        self.explainer = Explainer(embedder, task.probe.probe, gradients, config.deletion, config.seed)

    def __call__(self, rows: pa.Table) -> dict[str, np.ndarray]:
        found = np.empty(len(rows), dtype=object)
        for n in range(len(rows)):
            found[n] = self.explainer(rows.slice(n, 1))
        return {"explained": found}


def _write(config: ExplainConfig, encoder: SavedEncoder, found: list[ExplainedRow]) -> ExplainReport:
    found = sorted(found, key=lambda row: str(row.rows["user_id"][0]))
    events = events_table(found, encoder.description.modalities, config.label, config.texts)
    report = ExplainReport(
        label=config.label, probe=config.probe, encoder=encoder.digest, users=len(found), events=len(events),
        too_few_events=sum(row.moves is None for row in found), deleted=config.deletion.events,
        deletion=faithfulness(found, config.seed),
        completeness=completeness(found, config.gradients.steps) if config.gradients else None,
        by_modality=by_modality(events),
    )  # fmt: skip
    place = storage.absolute(config.output)
    storage.write_parquet(storage.join(place, "events.parquet"), events)
    storage.write_json(storage.join(place, "explain.json"), report.model_dump(mode="json"))
    write_page(report, events, to_yaml(config), storage.join(place, "explain.html"))
    for method, test in report.deletion.items():
        ratio = test.ratio
        say(
            f"explain: {method}: without its {report.deleted} first events the score moves {ratio.value:.2f} times "
            f"({ratio.low:.2f} to {ratio.high:.2f}) as far as without {report.deleted} random ones; median of "
            f"{test.users:,} users"
        )
    say(f"explain: {report.events:,} events of {report.users:,} users in {place}")
    return report
