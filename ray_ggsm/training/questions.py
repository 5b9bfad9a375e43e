"""Query-answer pairs to train on: how many, and where the newest run of jobs/synthesize.py has put them."""

import numpy as np
import pyarrow as pa
from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Config, Record, Runtime
from ray_ggsm.hashing import hash64

POINTER = "questions.json"


class QuestionsConfig(Config):
    """Query-answer pairs (D_qa) in each batch. Paper, 3.2."""

    output: Runtime[str]
    """`output` of jobs/synthesize.py; its newest run counts, and results depend on what that is, not on where."""
    share: float = Field(0.5, gt=0, le=1)
    """Share of a batch; 1: no behaviour pairs."""
    without_query: float = Field(0.0, ge=0, le=1)
    """Share of these pairs, drawn anew at each step, whose query is left out: vectors without an instruction then
    learn the answers, too, and can be compared with a sentence."""


class QuestionRows(Record):
    """The newest finished run in an output of the synthesize job."""

    rows: str
    """Directory of user rows with `query` and `answer`, once per pair."""
    digest: str
    """Identifies the run."""
    pairs: int
    """Rows: a run that is run again asks anew what was refused, and then has more."""


def newest_questions(config: QuestionsConfig) -> QuestionRows | None:
    """The newest finished run; None: there is none yet, which keeps training alone from its work."""
    file = storage.join(config.output, POINTER)
    return QuestionRows.model_validate_json(storage.read_text(file)) if storage.exists(file) else None


def without_some_queries(rows: pa.Table, share: float, seed: int) -> pa.Table:
    """The rows, a share of them without their query; a row's draw depends on what it holds and the seed alone."""
    if not share or "query" not in rows.column_names:
        return rows
    keys = zip(*(rows[name].to_pylist() for name in ("user_id", "as_of", "query")), strict=True)
    drawn_b = hash64(f"{seed} {key}" for key in keys) < np.uint64(min(share * 2.0**64, 2**64 - 1))
    query = pa.array(rows["query"].to_pylist(), pa.string(), mask=drawn_b | rows["query"].is_null().to_numpy())
    return rows.set_column(rows.column_names.index("query"), "query", query)
