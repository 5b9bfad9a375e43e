"""The `data` section of a config: event tables, modalities, features, snapshots, splits and labels.

SQL expressions are DuckDB expressions over the columns of one table, times in the snapshot time zone. Two names are
added to the columns: `as_of`, and `days_away`, the calendar days between the event and `as_of` (positive on both
sides).
"""

from datetime import date, timedelta
from itertools import product
from typing import Annotated

from pydantic import Field, model_validator

from ray_ggsm.config import Config, Runtime
from ray_ggsm.data.modality_config import ModalityConfig
from ray_ggsm.data.names import EARLIEST_YEAR, Days, Name, Quantile, TimeZone
from ray_ggsm.data.source_config import FilesSource, JourneySource, StoreSource
from ray_ggsm.data.splits_config import SplitConfig, UsersConfig


class FeatureConfig(Config):
    """One aggregate over the history: a number, or one number per window and per frequent value of an expression."""

    name: Name
    """Prefix of the feature names."""
    table: str
    """Table that is aggregated."""
    sql: str
    """Aggregate expression, a number or a boolean."""
    windows: tuple[Days, ...] | None = Field(None, min_length=1)
    """Days before as_of, one feature each; null: the whole history (for a static table: all rows)."""
    per: str | None = None
    """Row expression: one feature per frequent value of it."""
    top: int | None = Field(None, ge=1)
    """With `per`: how many values, those that occur in most rows of the train split."""
    empty: float = Field(0.0, allow_inf_nan=False)
    """The feature where the aggregate is NULL or the user has no such row."""

    @model_validator(mode="after")
    def _per_needs_top(self) -> "FeatureConfig":
        if (self.per is None) != (self.top is None):
            raise ValueError("'per' and 'top' belong together: give both or none")
        return self

    def number_name(self, days: int | None, value: str | None) -> str:
        """The name of one of its numbers: for example `spend_30d`, `spend:GROCERY` or `spend_30d:GROCERY`.

        `days` is the length of the window, with `windows`; `value` the value of `per`, with `per`.
        """
        return self.name + ("" if days is None else f"_{days}d") + ("" if value is None else f":{value}")


class LabelConfig(Config):
    """A yes/no question about the future window, as an aggregate over it; or about a user, if the table is static."""

    group: str
    """Heading under which reports show the label."""
    table: str
    """Table that is aggregated; users without rows in the window are aggregated over nothing, not left out."""
    sql: str
    """Boolean aggregate expression (NULL is no), or a number when a quantile is given."""
    at_least_quantile: Quantile | None = None
    """Positive: the number is at least this quantile over the rows of the train split."""
    above_quantile: Quantile | None = None
    """Positive: the number is above this quantile over the rows of the train split."""
    defined_if: str | None = None
    """Boolean aggregate: where it is not true, the row has no such label; null: every row has one."""

    @model_validator(mode="after")
    def _one_quantile(self) -> "LabelConfig":
        if self.at_least_quantile is not None and self.above_quantile is not None:
            raise ValueError("give 'at_least_quantile' or 'above_quantile', not both")
        return self

    @property
    def quantile(self) -> float | None:
        """The quantile that gives the threshold, if there is one."""
        return self.above_quantile if self.at_least_quantile is None else self.at_least_quantile


class RollingCutoffs(Config):
    """Equally spaced cutoffs."""

    first: date
    every_days: Days
    count: int = Field(ge=1, le=1000)

    @property
    def dates(self) -> tuple[date, ...]:
        """The cutoffs, in the order of their index."""
        return tuple(self.first + timedelta(days=k * self.every_days) for k in range(self.count))

    @model_validator(mode="after")
    def _dates_exist(self) -> "RollingCutoffs":
        if (date.max - self.first).days < (self.count - 1) * self.every_days:
            raise ValueError(f"the last of {self.count} cutoffs is after {date.max}; make count or every_days smaller")
        return self


class MinimumEvents(Config):
    """How active a user must be to get a row."""

    table: str
    """Table whose rows in the history window are counted."""
    count: int = Field(ge=1)


class SnapshotsConfig(Config):
    """When users are looked at, how far back and how far ahead."""

    timezone: TimeZone = "UTC"
    """Cutoffs are midnights, and days are calendar days, of this zone."""
    cutoffs: RollingCutoffs | Annotated[tuple[date, ...], Field(min_length=1)]
    """Rolling (first, every_days, count) or a list of dates."""
    history_days: Days = 90
    future_days: Days = 30
    minimum_events: MinimumEvents

    @model_validator(mode="after")
    def _dates_differ(self) -> "SnapshotsConfig":
        if repeated := [day for day in self.dates if self.dates.count(day) > 1]:
            raise ValueError(f"cutoffs: {repeated[0]} is given twice; give it once")
        return self

    @model_validator(mode="after")
    def _dates_have_events(self) -> "SnapshotsConfig":
        if wrong := [day for day in self.dates if day.year < EARLIEST_YEAR]:
            raise ValueError(f"cutoffs: {wrong[0]} is before {EARLIEST_YEAR}, where no event can be; use later cutoffs")
        return self

    @property
    def dates(self) -> tuple[date, ...]:
        """The cutoffs, in the order of their index."""
        return self.cutoffs.dates if isinstance(self.cutoffs, RollingCutoffs) else self.cutoffs


class DataConfig(Config):
    """Everything `prepare` needs."""

    source: Annotated[FilesSource | StoreSource | JourneySource, Field(discriminator="kind")]
    modalities: dict[Name, ModalityConfig] = Field(min_length=1)
    """By name, in the order in which they stand in the template."""
    features: tuple[FeatureConfig, ...] = ()
    """The tabular vector, in this order."""
    definition: str | None = None
    """File rows.json of an encoder: rows are made as for its training, with its vocabularies and types of columns,
    whatever today's data would give; null: both are learned."""
    snapshots: SnapshotsConfig
    users: UsersConfig = UsersConfig()
    splits: dict[Name, SplitConfig]
    """By name; at most one of each role, and for training exactly one with `role: train`."""
    labels: dict[Name, LabelConfig] = Field({})
    shards: int = Field(1, ge=1)
    """Parts that users are prepared in, independently of each other; more need less memory each. With own event files
    and several shards, the events are first laid out by user below `output` (not with `users.key_file`: they would name
    users there); an event store has its own number."""
    memory_gb: Runtime[float | None] = Field(None, gt=0)
    """Memory that the tables and queries of a shard may take, beside some 0.7 GB of its process; what needs more goes
    to the system's temporary directory. null: 80 % of the machine's, in equal parts for shards that are prepared side
    by side."""
    spill_gb: Runtime[float | None] = Field(None, gt=0)
    """Disk that a shard may take in the system's temporary directory; null: 90 % of what is free there."""
    max_bad_share: Runtime[float] = Field(0.01, ge=0, le=1)
    """The run stops when a larger share of a table's rows, or of the user rows, is rejected."""
    max_text_length: int = Field(2000, ge=1)
    """Longest event text in characters; events with a longer one are rejected."""

    @property
    def snapshot_tables(self) -> set[str]:
        """Tables that say which users are looked at."""
        named = (self.snapshots.minimum_events.table, self.users.test_table)
        return {table for table in named if table is not None}

    @property
    def train_split(self) -> str:
        """The split whose pairs encoders are trained on."""
        return next(name for name, split in self.splits.items() if split.role == "train")

    @property
    def fit_split(self) -> str | None:
        """The split that probes are fitted on."""
        return next((name for name, split in self.splits.items() if split.role == "fit"), None)

    @property
    def score_split(self) -> str | None:
        """The split that probes are scored on."""
        return next((name for name, split in self.splits.items() if split.role == "score"), None)

    @property
    def splits_with_future(self) -> list[str]:
        """Splits whose rows are pairs of history and future."""
        return [name for name, split in self.splits.items() if split.role == "train" or split.future]

    @property
    def future_modalities(self) -> dict[str, ModalityConfig]:
        """Modalities whose events belong to the future."""
        return {name: modality for name, modality in self.modalities.items() if modality.future}

    @model_validator(mode="after")
    def _feature_names_differ(self) -> "DataConfig":
        names = [feature.name for feature in self.features]
        numbers = [feature.number_name(days, None) for feature in self.features for days in feature.windows or (None,)]
        repeated = [name for names in (names, numbers) for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"features: the name '{repeated[0]}' is given twice; use another one")
        return self

    @model_validator(mode="after")
    def _no_file_names_a_user(self) -> "DataConfig":
        tables = self.source.tables if isinstance(self.source, FilesSource) else {}
        for name, table in tables.items():
            if self.users.key_file is not None and table.user in table.partitions:
                raise ValueError(
                    f"users.key_file: folders of source.tables.{name} name users, and dead letters name folders; write "
                    "the users into the files"
                )
        return self

    @model_validator(mode="after")
    def _fields_have_one_kind(self) -> "DataConfig":
        kinds: dict[str, tuple[str, bool]] = {}
        for name, modality in self.modalities.items():
            for field, config in modality.fields.items():
                first, is_number = kinds.setdefault(field, (name, config.text is None))
                if is_number != (config.text is None):
                    raise ValueError(
                        f"modalities.{name}.fields.{field}: it is a {'number' if is_number else 'text'} in '{first}'; "
                        "fields of one name must be of one kind, so give one of them another name"
                    )
        return self

    @model_validator(mode="after")
    def _splits_fit(self) -> "DataConfig":
        roles = [split.role for split in self.splits.values() if split.role is not None]
        if "train" not in roles and self.definition is None:
            raise ValueError("splits: one split needs `role: train`; encoders are trained on its rows")
        if repeated := [role for role in roles if roles.count(role) > 1]:
            raise ValueError(f"splits: the role '{repeated[0]}' is given to two splits; give it to one")
        dates = self.snapshots.dates
        for name, split in self.splits.items():
            if max(split.cutoffs) >= len(dates):
                raise ValueError(
                    f"splits.{name}.cutoffs: there are {len(dates)} cutoffs, so the last position is {len(dates) - 1}"
                )
            if split.learn_from_users is not None and (split.role, split.users) != ("train", "all"):
                raise ValueError(f"splits.{name}.learn_from_users: only with `role: train` and `users: all`")
            if split.learn_from is not None and (split.role != "train" or set(split.learn_from) - set(split.cutoffs)):
                raise ValueError(
                    f"splits.{name}.learn_from: only with `role: train`, and only positions in its cutoffs"
                )
        names = list(self.splits)
        for position, first in enumerate(names):
            for second in names[position + 1 :]:
                self._refuse_shared_future(first, second)
        return self

    def _refuse_shared_future(self, first: str, second: str) -> None:
        gap = self.gap_days(first, second)
        if self.share_users(first, second) and gap < self.snapshots.future_days:
            raise ValueError(
                f"splits.{second}.cutoffs: users of '{first}' would be seen in '{second}' with the same future "
                f"(cutoffs {gap} days apart, future_days {self.snapshots.future_days}); use other cutoffs, "
                "or train users in one split and test users in the other"
            )

    def label_groups(self) -> dict[str, tuple[str, ...]]:
        """Label group -> its labels, as they stand in the config."""
        groups = dict.fromkeys(label.group for label in self.labels.values())
        return {g: tuple(name for name, label in self.labels.items() if label.group == g) for g in groups}

    def share_users(self, first: str, second: str) -> bool:
        """Whether a user can have rows in both splits."""
        return {self.splits[first].users, self.splits[second].users} != {"train", "test"}

    def gap_days(self, first: str, second: str) -> int:
        """Calendar days between the nearest cutoffs of two splits."""
        dates = self.snapshots.dates
        pairs = product(self.splits[first].cutoffs, self.splits[second].cutoffs)
        return min(abs(dates[i] - dates[j]).days for i, j in pairs)
