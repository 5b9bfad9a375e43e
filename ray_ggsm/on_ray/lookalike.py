"""The lookalike job: the users of a table whose vectors are nearest to some seed users, or to one sentence.

The search is exact. Every data file is scored by the task that reads it, which returns its k best rows, and the best of
all are kept as they come; so memory holds 2 k rows, however large the table is. The score is the cosine to the mean of
the seeds' directions, or to the sentence's vector from the encoder's answer tower.

Legend: S seed rows, N rows of a file, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray.data
import torch
from pydantic import Field, model_validator

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Location, Runtime
from ray_ggsm.data.pseudonyms import read_key
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.kinds import load
from ray_ggsm.experiment import RayConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.numerics import prefix, unit
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.places import check_kept
from ray_ggsm.tables import open_table
from ray_ggsm.tables.nearest import AUDIENCE, best_of_files, best_rows
from ray_ggsm.tables.reader import EmbeddingTable, Version
from ray_ggsm.tables.rewrite import forgotten_in
from ray_ggsm.tables.user_lists import read_users


class LookalikeConfig(Config):
    """The users to look for."""

    table: str
    """Location of the table, local or s3://."""
    version: int | str | None = None
    """Version to search, by its number or the name of a tag; null: the newest."""
    forgotten_key_file: Runtime[str | None] = None
    """Key of the table's list of forgotten users, who are neither seeds nor found; needed for a version (not a tag) of
    before somebody was forgotten."""
    users_file: str | None = None
    """Text file with one seed user_id per line; either this or `text`."""
    text: str | None = None
    """One sentence; needs `encoder`."""
    encoder: str | None = None
    """Saved encoder that made the table."""
    instruction: str = "default"
    """Instruction whose rows are searched."""
    k: int = Field(1000, ge=1)
    """Number of users to find."""
    output: Runtime[Location]
    """Parquet file to write, local or s3://."""
    ray: Runtime[RayConfig] = RayConfig()
    """Resources."""

    @model_validator(mode="after")
    def _one_target(self) -> "LookalikeConfig":
        if (self.users_file is None) == (self.text is None):
            raise ValueError("give either users_file or text")
        return self


def lookalike(config: LookalikeConfig) -> pa.Table:
    """Search, write the audience, and return it (AUDIENCE), best first.

    Raises:
        InputError: there is no table, seed user, encoder, or row of the instruction.
    """
    table = _opened(config)
    target = _target(config, table)
    with started(config.ray):
        check_kept("output", config.output)
        without = [*target.users, *forgotten_in(table, config.version).to_pylist()]
        files = table.files(config.version)
        audience = nearest(files, target.direction_D, config.k, without, config.instruction)
    if not len(audience):
        raise InputError(
            f"{config.table}: no row of the instruction '{config.instruction}'"
            + (" but those of the seed users" if target.users else "")
        )
    storage.write_parquet(storage.absolute(config.output), audience)
    print(f"lookalike: {len(audience):,} users of version {table.number_of(config.version)} in {config.output}")
    return audience


def preview(config: LookalikeConfig) -> str:
    """What would be searched; raises like `lookalike`, before anything is searched."""
    table = _opened(config)
    target = _target(config, table)
    version = table.number_of(config.version)
    return f"lookalike: {config.k:,} users of {table.location} version {version}; {target.source}"


def _opened(config: LookalikeConfig) -> EmbeddingTable:
    """The table, with the key of its list of forgotten users if there is one."""
    key = None if config.forgotten_key_file is None else read_key(config.forgotten_key_file)
    table = open_table(config.table, key)
    if isinstance(config.version, int) and not table.honours_list(config.version):
        table.suppression.suppressed.check_key(key)
    return table


@dataclass(frozen=True)
class Target:
    """The direction to search in."""

    direction_D: np.ndarray
    """The direction, of any length."""
    users: list[str]
    """Seed users, who are left out of the audience."""
    source: str
    """Where the direction comes from, for people."""


def _target(config: LookalikeConfig, table: EmbeddingTable) -> Target:
    if config.users_file is not None:
        users = read_users(config.users_file)
        direction_D = seed_direction(table, config.version, users, config.instruction)
        return Target(direction_D, users, f"{len(users):,} seed users")
    direction_D = sentence_direction(table, config.version, config.text or "", config.encoder)
    return Target(direction_D, [], f"the sentence '{config.text}'")


def seed_direction(table: EmbeddingTable, version: Version, users: Sequence[str], instruction: str) -> np.ndarray:
    """The mean of the seeds' unit vectors, (D,).

    Raises:
        InputError: none of the users is in the table.
    """
    found, vector_SD = table.matrix(version=version, user_ids=users, instruction=instruction)
    missing = len(set(users)) - len(set(found.tolist()))
    if not len(found):
        raise InputError(f"{table.location}: none of the {len(users)} seed users has a row of '{instruction}'")
    if missing:
        print(f"lookalike: {missing:,} of {len(set(users)):,} seed users are not in the table", flush=True)
    direction_D: np.ndarray = unit(vector_SD).mean(axis=0)
    return direction_D


def sentence_direction(table: EmbeddingTable, version: Version, text: str, encoder: str | None) -> np.ndarray:
    """The vector of a sentence, (D,).

    Raises:
        InputError: there is no encoder, it is not the one that made the table, or it never learned from texts.
    """
    if not encoder:
        raise InputError("encoder: `text` needs the saved encoder that made the table")
    made_by, saved = table.metadata(version).encoder, SavedEncoder.read(encoder)
    if made_by != saved.digest:
        raise InputError(f"{encoder}: this encoder is {saved.digest}, the table was made by {made_by}; give that one")
    if saved.description.model.kind == "llm" and saved.description.text_answers is None:
        print(f"lookalike: {encoder} does not say whether it learned from texts; if not, the result means nothing")
    if saved.description.text_answers is False:
        raise InputError(
            f"{encoder}: no text was an answer when this encoder was trained, so a sentence's vector means nothing; "
            "give seed users (users_file), or train with training.answer.form: text"
        )
    no_events = np.zeros((0, saved.description.event_width), np.float32)
    loaded = load(encoder, lambda texts: no_events, torch.device("cpu"))
    vector_1D = Embedder(loaded, 16_384).texts([text]).vectors
    direction_D: np.ndarray = prefix(vector_1D, table.metadata(version).width or vector_1D.shape[1])[0]
    return direction_D


def nearest(files: Sequence[str], target_D: np.ndarray, k: int, without: Sequence[str], instruction: str) -> pa.Table:
    """The k best users (AUDIENCE) of some data files, best first, without some; a user's best row counts."""
    items = [{"file": file} for file in files]
    scored = ray.data.from_items(items, override_num_blocks=max(len(items), 1)).map_batches(
        best_of_files,
        fn_args=[target_D / np.linalg.norm(target_D), k, pa.array(without, pa.string()), instruction],
        batch_format="pyarrow",
        batch_size=1,
    )
    best = AUDIENCE.empty_table()
    for of_file in scored.iter_batches(batch_format="pyarrow", batch_size=None):
        best = best_rows(pa.concat_tables([best, of_file.cast(AUDIENCE)]), k)
    return best
