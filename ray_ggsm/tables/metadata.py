"""What the versions of an embedding table record about themselves.

Each key of a version's metadata stands in its Delta commit as JSON. Every field is optional, because older code and
other publishers record less; keys that this code does not know stay in the object, so that rolling back or forgetting
users carries them on.
"""

import datetime as dt
from dataclasses import dataclass

from pydantic import ConfigDict, Field, JsonValue

from ray_ggsm.config import Record


class _Recorded(Record):
    """Part of a version's metadata; keeps unknown keys."""

    model_config = ConfigDict(extra="allow")


class VersionCounts(_Recorded):
    """Rows by what became of them."""

    expected: int = 0
    """Rows that the input asked for, dead letters included."""
    written: int = 0
    """Rows of the published version."""
    dead_letters: int = 0
    """Rows that got no vector."""
    encoded: int = 0
    """Rows whose vectors this run computed; the others were carried forward."""
    departed: int = 0
    """Rows of the version before whose users have no vector now."""
    new: int = 0
    """Rows of users who had no vector in the version before."""


class RecordedConfig(_Recorded):
    """How user rows were embedded (`EncodingConfig`)."""

    instructions: dict[str, str] | None = None
    """Name -> text."""
    mask: str | None = None
    """`trained` or `inference`."""


class RecordedEncoder(_Recorded):
    """The encoder behind a version."""

    mask: dict[str, JsonValue] | None = None
    """Config of the mask recipe."""
    step: int | None = None
    """Optimiser steps that the encoder was trained for."""
    alpha: float | None = None
    """Progress of the mask at that step, 0 to 1."""
    template_digest: str | None = None
    """Digest of the layout of tokens."""


class RecordedInput(_Recorded):
    """What a refresh read."""

    rows: str | None = None
    """Files of user rows as the config names them, or the events that rows were made of."""
    digest: str | None = None
    """Digest of the files' names, sizes and times, or of what else the rows depend on."""
    events: str | None = None
    """Digest that two nights share when later events tell all that is new to the second; None: rows were given."""
    manifest: int | None = None
    """Newest change of the event store that the night knew; None: the events are in no store."""


class RecordedMap(_Recorded):
    """A map from the vectors of a version into the space of an older encoder (`ray_ggsm.tables.compatible`)."""

    instruction: str
    """Whose vectors it maps."""
    source: str
    """Space of the vectors that it takes."""
    target: str
    """Space that it leads to."""
    file: str
    """Name of its file in `_maps`, which is the digest of its content."""
    kind: str
    """Kind of map."""
    anchors: int
    """Rows that it was fitted on."""
    held_out: int
    """Further rows, which `agreement` and `raw` were measured on."""
    same_moment: bool
    """Whether the vectors of all these rows are of equal moments."""
    agreement: dict[str, float]
    """Kind -> mean cosine of mapped and old vectors."""
    raw: float | None = None
    """Mean cosine of vectors that are not mapped; None: the widths differ."""


class ForgottenRows(_Recorded):
    """What `forget` removed, or `rollback` left out."""

    users: int = 0
    """Number of users."""
    rows: int = 0
    """Number of their rows."""


class VersionMetadata(_Recorded):
    """What a version records about itself."""

    operation: str | None = None
    """`publish`, `rollback` or `forget`."""
    run: str | None = None
    """Run that published the version."""
    rows: int | None = None
    """Number of rows."""
    encoder: str | None = None
    """Digest of the encoder."""
    width: int | None = None
    """Width of the vectors; 0 when there are none."""
    normalised: bool | None = None
    """Whether vectors have length 1."""
    counts: VersionCounts | None = None
    """Rows by what became of them."""
    events: dict[str, int] = Field({})
    """Texts of events in the rows, by what became of them (`EventCounts`)."""
    seconds: dict[str, float] = Field({})
    """Step -> wall time of the run that published the version, in its last attempt, without the step `publish`, whose
    commit holds this."""
    rates: dict[str, float] = Field({})
    """Users and tokens per second of the step `encode`."""
    ages: dict[str, int] = Field({})
    """Moment (ISO, UTC) -> rows whose vectors are of it."""
    without_vector: dict[str, int] = Field({})
    """Reason -> rows of the input that got no vector: dead letters, and of events, users without a row."""
    gates: dict[str, str] = Field({})
    """Gate -> its sentence."""
    failed_gates: tuple[str, ...] = ()
    """Gates that failed; the version was published all the same."""
    published_anyway: str | None = None
    """Reason for publishing although gates failed."""
    config: RecordedConfig | None = None
    """How user rows were embedded."""
    encoder_description: RecordedEncoder | None = None
    """The encoder."""
    timezone: str | None = None
    """Time zone whose midnight a date means; None: UTC."""
    row_definition: str | None = None
    """Digest of the definition of its user rows."""
    input: RecordedInput | None = None
    """The user rows that a refresh read."""
    maps: tuple[RecordedMap, ...] = ()
    """Maps that were fitted with the version, from its vectors into the spaces of older encoders."""
    forgotten: ForgottenRows | None = None
    """Users that a `forget` removed, or a `rollback` left out."""
    suppressed: int | None = None
    """Entries of the list of forgotten users that the version honours: none of these users is in it; None: nobody
    looked."""
    rolled_back_to: int | None = None
    """Version whose rows a `rollback` brought back."""

    def values(self) -> dict[str, JsonValue]:
        """Everything that was recorded, and nothing else, as plain JSON values."""
        values: dict[str, JsonValue] = self.model_dump(mode="json", exclude_unset=True)
        return values


@dataclass(frozen=True)
class Commit:
    """One commit of a table's log. Vacuums change no rows: they show run, encoder and rows of the version before."""

    version: int
    """Number of the version; 0 is the first."""
    timestamp: dt.datetime
    """Time of the commit, UTC."""
    operation: str
    """`publish`, `rollback`, `forget`, or Delta's own name (`vacuum start`, `vacuum end`)."""
    run: str | None
    """Run that published the version."""
    encoder: str | None
    """Digest of the encoder."""
    rows: int | None
    """Number of rows."""
    metadata: VersionMetadata
    """What the version records about itself; empty for a vacuum."""
