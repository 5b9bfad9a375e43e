"""The tasks and actors of the synthesize job: the guide (steps 1 to 3), the pairs of a part of the rows, measures."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from ray_ggsm import storage
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.data.chunks import Chunk, chunk_of, read_chunk
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.on_ray.cluster.devices import device_of
from ray_ggsm.on_ray.synthesis.config import SynthesizeConfig
from ray_ggsm.synthesis.asking import Asker
from ray_ggsm.synthesis.author import Author, Guide
from ray_ggsm.synthesis.chat import Ask, BudgetSpentError
from ray_ggsm.synthesis.clients import chat_of
from ray_ggsm.synthesis.config import RulesConfig
from ray_ggsm.synthesis.counted import CountedPairs
from ray_ggsm.synthesis.difficulty import distances, hard, pair_texts, threshold
from ray_ggsm.synthesis.pairs import Pair, failed_table, main_reasons, pairs_table, training_rows
from ray_ggsm.synthesis.prompts import Prompts
from ray_ggsm.synthesis.quality import PartCounts, counts_of
from ray_ggsm.synthesis.questions import Difficulty, GuideResult
from ray_ggsm.synthesis.requests import Requests
from ray_ggsm.synthesis.written import WrittenPairs

BUDGET_SPENT = "the budget is spent"
"""What has stopped a part, if no tokens are left; else a sentence about what cannot be reached."""


@dataclass(frozen=True)
class Run:
    """What every worker gets."""

    config: SynthesizeConfig
    experiment: Experiment
    location: str
    """Directory of this run."""
    replies: str
    """Directory of all replies of a language model."""
    prompts: Prompts
    """As the driver read them: workers may see another directory."""

    def path(self, *parts: str) -> str:
        """A location below the run's own."""
        return storage.join(self.location, *parts)


class _Purse:
    """The budget, in the process of its actor."""

    def __init__(self, budget: Any) -> None:
        self.budget = budget

    def admit(self, ask: Ask) -> None:
        """As in `Purse`."""
        seconds = ray.get(self.budget.take.remote(ask.estimate))
        if seconds is None:
            raise BudgetSpentError
        time.sleep(seconds)

    def settle(self, ask: Ask, used: int) -> None:
        """As in `Purse`; it has been said when this returns."""
        ray.get(self.budget.settle.remote(ask.estimate, used))


def _author(run: Run, purse: Any) -> Author:
    c, e = run.config, run.experiment
    if isinstance(c.client, RulesConfig):
        future = [name for name, modality in e.data.modalities.items() if modality.future]
        return CountedPairs(c.client, c.pairs, e.modalities, future, e.data.snapshots.future_days, c.seed)
    asker = Asker(chat_of(c.client, c.ray.pool.max, device_of(c.ray)), run.replies, _Purse(purse))
    return WrittenPairs(asker, Requests(c.client, c.pairs, run.prompts, e.modalities, c.seed))


@ray.remote
def calibrate(run: Run, chunks: Sequence[Chunk], purse: Any) -> GuideResult | None:
    """Task: the pool, the calibration set D_c, its difficulty, and the rules of D_hard; None: the budget is spent.

    Raises:
        InputError: all that was written failed.
    """
    author, c = _author(run, purse), run.config
    try:
        guide = Guide(author.scenarios())
        read = (read_chunk(chunk, columns(run.experiment)) for chunk in chunks)
        written = [(rows, author.write(rows, guide)) for rows in read]
        pairs = [pair for _, each in written for pair in each.pairs][: c.pairs.calibration]
        if not pairs and any(each.failed for _, each in written):
            raise no_pairs(pa.concat_tables([failed_table(rows, each.failed) for rows, each in written]))
        measured, difficulty_N = None, np.zeros(len(pairs))
        if c.difficulty.embedding is not None and pairs:
            difficulty_N, cut_N = _difficulties(run, [(rows, each.pairs) for rows, each in written])
            difficulty_N, cut_N = difficulty_N[: len(pairs)], cut_N[: len(pairs)]
            limit = threshold(difficulty_N, c.difficulty)
            measured = Difficulty.of(difficulty_N, limit, float(cut_N.mean()))
            guide = Guide(guide.pool, author.induce(hard(pairs, difficulty_N, limit)))
    except BudgetSpentError:
        return None
    tables = [pairs_table(rows, each.pairs) for rows, each in written]
    if tables:
        table = pa.concat_tables(tables).slice(0, len(pairs))
        column = pa.array(difficulty_N if measured else [None] * len(pairs), pa.float64())
        storage.write_parquet(run.path("calibration", "pairs.parquet"), table.append_column("difficulty", column))
    counts = PartCounts(requests=dict(vars(author.spent)))
    return GuideResult(pool=guide.pool, rules=guide.rules, difficulty=measured, counts=counts)


@ray.remote
def measure(run: Run, chunks: Sequence[Chunk]) -> Difficulty | None:
    """Task: how hard the final pairs of the same rows are; None where nothing is measured."""
    guide, found = GuideResult.model_validate_json(storage.read_text(run.path("guide.json"))), []
    if guide.difficulty is None:
        return None
    for chunk in chunks:
        rows = storage.read_parquet(run.path("rows", file_of(chunk)))
        texts = zip(*(rows[name].to_pylist() for name in ("scenario", "query", "answer")), strict=True)
        found.append((rows, [Pair(n, *each) for n, each in enumerate(texts)]))
    difficulty_N, cut_N = _difficulties(run, found)
    if not len(difficulty_N):
        return None
    return Difficulty.of(difficulty_N, guide.difficulty.threshold, float(cut_N.mean()))


def _difficulties(run: Run, pairs: Sequence[tuple[pa.Table, Sequence[Pair]]]) -> tuple[np.ndarray, np.ndarray]:
    """S_d of the pairs, float64 (N,), and whether Emb reads the beginning only of one of their texts, bool (N,)."""
    c = run.config.difficulty
    assert c.embedding is not None
    encoder, longest = EventEncoder(c.embedding, device_of(run.config.ray)), c.max_word_pieces
    encoder.check_length(longest)
    found, cut = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for rows, some in pairs:
        if some:
            sides = pair_texts(rows, some, run.experiment.modalities)
            found.append(distances(*(encoder.encode(side, longest=longest) for side in sides)))
            cut.append(encoder.is_longer(sides[0], longest) | encoder.is_longer(sides[1], longest))
    return np.concatenate(found), np.concatenate(cut)


class WritePairs:
    """Actor: a part of the rows -> its pairs."""

    def __init__(self, run: Run, guide: Guide, purse: Any) -> None:
        self.run, self.guide = run, guide
        self.author = _author(run, purse)
        self.stopped, self.wrong = "", ""

    def __call__(self, described: pa.Table) -> pa.Table:
        """Write the pairs of a part (`chunk_of`): rows done, what has stopped it, and what is wrong ("": nothing).

        An error would end the other actors, too, and what was asked there. After one, this actor asks nothing more.
        """
        chunk = chunk_of(described)
        try:
            if not self.stopped and not self.wrong:
                self._write(chunk)
        except InputError as error:
            self.wrong = str(error)
        except (BudgetSpentError, NotNow) as error:
            self.stopped = str(error) if isinstance(error, NotNow) else BUDGET_SPENT
        rows = 0 if self.stopped or self.wrong else chunk.rows
        return pa.table({"rows": [rows], "stopped": [self.stopped], "wrong": [self.wrong]})

    def _write(self, chunk: Chunk) -> None:
        before = replace(self.author.spent)
        rows = read_chunk(chunk, columns(self.run.experiment))
        written = self.author.write(rows, self.guide)
        if self.run.config.pairs.rewriting:
            written = self.author.revise(rows, written)
        counts = counts_of(rows, written, self.run.experiment.modalities, self.author.spent.since(before))
        storage.write_parquet(self.run.path("failed", file_of(chunk)), failed_table(rows, written.failed))
        storage.write_parquet(self.run.path("pairs", file_of(chunk)), pairs_table(rows, written.pairs))
        storage.write_parquet(self.run.path("rows", file_of(chunk)), training_rows(rows, written.pairs))
        storage.write_json(self.run.path("counts", f"{name_of(chunk)}.json"), counts.model_dump(mode="json"))


def no_pairs(failed: pa.Table) -> InputError:
    """The error of a run without any pair."""
    return InputError(
        f"synthesize: no pair was written; {main_reasons(failed)}; mend that and run the same command: what was"
        " answered is kept"
    )


def name_of(chunk: Chunk) -> str:
    """Name of a part."""
    return f"part-{chunk.number:06d}"


def file_of(chunk: Chunk) -> str:
    """Name of a part's files."""
    return f"{name_of(chunk)}.parquet"


def columns(experiment: Experiment) -> list[str]:
    """Columns of prepared rows that are read."""
    return ["user_id", "as_of", *experiment.data.modalities, "tabular", "future"]
