"""Who is a test user, and which users and cutoffs a split has."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ray_ggsm.config import Config, Runtime
from ray_ggsm.data.names import Name


class UsersConfig(Config):
    """A stable split of users: test are those with int(md5(salt + user), 16) % 100 >= 100 - test_percent, or those of a
    table."""

    salt: str = ""
    test_percent: int = Field(30, ge=0, le=100)
    test_table: Name | None = None
    """Table whose users are the test users, instead: for data with a split of their own. null: the hash says."""
    key_file: Runtime[str | None] = None
    """File with a secret key, on every node or on s3://: rows, labels and dead letters then name users by keyed hashes.
    What they are depends on the key, not on the place of its file. null: users are named as in the source."""

    @model_validator(mode="after")
    def _one_split(self) -> "UsersConfig":
        if self.test_table is not None and (self.salt, self.test_percent) != ("", 30):
            raise ValueError("test_table: it takes the place of salt and test_percent; leave them out")
        return self


class SplitConfig(Config):
    """The rows of one split: some users at some cutoffs."""

    role: Literal["train", "fit", "score"] | None = None
    """train: encoders are trained on its pairs of history and future, and vocabularies and thresholds are learned from
    its rows. fit: probes are fitted on it. score: probes are scored on it. null: its rows are only prepared."""
    users: Literal["train", "test", "all"]
    cutoffs: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Positions in the list of cutoffs, from 0."""
    learn_from: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(None, min_length=1)
    """With `role: train`: those of its cutoffs that vocabularies and thresholds are learned from; null: all of them."""
    learn_from_users: Literal["train"] | None = None
    """train: with `role: train` and `users: all`, vocabularies and thresholds are learned from train users alone, while
    test users' early windows are trained on, too; null: from all its users."""
    future: bool = False
    """Write what comes next, too, for held-out pairs; with `role: train` it is always written."""
