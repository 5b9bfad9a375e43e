"""Query-answer pairs to train on: how many, and where the newest run of jobs/synthesize.py has put them."""

import datetime as dt

import numpy as np
import pyarrow as pa
from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Record, Runtime
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


class Asked(Record):
    """Whom the questions are about, and until when their answers look."""

    users: str
    """Digest of `data.users`: who is a test user."""
    who: str
    """`users` of the training split."""
    newest: dt.date
    """Its newest cutoff."""
    future_days: int


class QuestionRows(Record):
    """The newest finished run in an output of the synthesize job."""

    rows: str
    """Directory of user rows with `query` and `answer`, once per pair."""
    digest: str
    """Identifies the run."""
    pairs: int
    """Rows: a run that is run again asks anew what was refused, and then has more."""
    asked: Asked | None = None
    """None: an earlier version wrote them, which did not say."""

    def check(self, own: Asked) -> None:
        """Refuse questions about other rows than `own`, those that are trained on: answers may be test users' futures.

        Raises:
            InputError: some are, or nobody knows.
        """
        again = "run jobs/synthesize.py on this experiment; what a language model has answered is not asked twice"
        if self.asked is None:
            raise InputError(f"training.questions: {self.rows} does not say whom its questions are about; {again}")
        theirs = self.asked
        differs = {
            "other users are test users (data.users)": own.users != theirs.users,
            f"its rows are of {theirs.who} users, the training rows of {own.who} users": theirs.who
            not in ("train", own.who),
            f"it has rows of {theirs.newest}, the newest training rows are of {own.newest}": theirs.newest > own.newest,
            f"its answers look {theirs.future_days} days ahead, data.snapshots.future_days is {own.future_days}": (
                theirs.future_days != own.future_days
            ),
        }
        if wrong := [why for why, is_so in differs.items() if is_so]:
            raise InputError(f"training.questions: {self.rows}: {'; '.join(wrong)}; {again}")


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
