"""Query-answer pairs to train on: how many, and where the newest run of jobs/synthesize.py has put them."""

from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Record, Runtime

POINTER = "questions.json"


class QuestionsConfig(Config):
    """Query-answer pairs (D_qa) in each batch. Paper, 3.2."""

    output: Runtime[str]
    """`output` of jobs/synthesize.py; its newest run counts, and results depend on what that is, not on where."""
    share: float = Field(0.5, gt=0, le=1)
    """Share of a batch; 1: no behaviour pairs."""


class QuestionRows(Record):
    """The newest finished run in an output of the synthesize job."""

    rows: str
    """Directory of user rows with `query` and `answer`, once per pair."""
    digest: str
    """Identifies the run."""


def newest_questions(config: QuestionsConfig) -> str | None:
    """The digest of the newest finished run; None: there is none yet, which keeps training alone from its work."""
    there = storage.exists(storage.join(config.output, POINTER))
    return read_questions(config.output).digest if there else None


def read_questions(output: str) -> QuestionRows:
    """The newest finished run of the synthesize job in its `output`.

    Raises:
        InputError: there is none.
    """
    file = storage.join(output, POINTER)
    if not storage.exists(file):
        raise InputError(
            f"training.questions: {output} has no {POINTER}; run jobs/synthesize.py with this output first"
        )
    return QuestionRows.model_validate_json(storage.read_text(file))
