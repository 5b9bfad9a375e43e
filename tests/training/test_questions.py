"""Which questions an experiment may train on."""

import datetime as dt

import pytest

from ray_ggsm.config import InputError
from ray_ggsm.training.questions import Asked, QuestionRows

OWN = Asked(users="u", who="train", newest=dt.date(2024, 3, 1), future_days=30)


def questions(asked: Asked | None) -> QuestionRows:
    return QuestionRows(rows="/questions/rows", digest="d", pairs=1, asked=asked)


def test_questions_about_the_training_rows_or_older_ones_are_taken() -> None:
    questions(OWN).check(OWN)
    questions(OWN.model_copy(update={"newest": dt.date(2024, 2, 1)})).check(OWN)
    questions(OWN).check(OWN.model_copy(update={"who": "all"}))


@pytest.mark.parametrize(("change", "why"), [
    ({"users": "v"}, "other users are test users"),
    ({"who": "all"}, "its rows are of all users, the training rows of train users"),
    ({"newest": dt.date(2024, 3, 2)}, "it has rows of 2024-03-02, the newest training rows are of 2024-03-01"),
    ({"future_days": 31}, "its answers look 31 days ahead"),
])  # fmt: skip
def test_questions_that_may_tell_the_future_of_test_users_are_refused(change: dict[str, object], why: str) -> None:
    with pytest.raises(InputError, match=f"training.questions: /questions/rows: {why}.*run jobs/synthesize.py"):
        questions(OWN.model_copy(update=change)).check(OWN)


def test_questions_of_an_earlier_version_do_not_say() -> None:
    with pytest.raises(InputError, match="does not say whom its questions are about; run jobs/synthesize"):
        questions(None).check(OWN)
