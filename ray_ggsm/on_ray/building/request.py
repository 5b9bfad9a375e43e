"""What a version is made of, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ray_ggsm.building.build import Build
from ray_ggsm.building.layout import Layout
from ray_ggsm.data.definition import RowDefinition
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.experiment import RayConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.on_ray.event_texts import EventEncoding
from ray_ggsm.stage_results import EventCounts
from ray_ggsm.tables.config import PublishingConfig
from ray_ggsm.tables.metadata import RecordedInput, VersionCounts

SMALL_BUCKET, SMALL_TABLE = 256, 64
"""Rows per bucket, and buckets, of a small table: so several encoders share its work."""


class Rows(Protocol):
    """Where tonight's users come from."""

    @property
    def name(self) -> str:
        """As the table's history tells it."""

    def lay_out(self, build: Build, previous: Mapping[int, Sequence[str]], version: int) -> Layout:
        """Lay them out by bucket; `previous` has the files of each bucket whose vectors, of `version`, may be kept."""

    def check_unchanged(self) -> None:
        """Raise NotNow where the input changed while it was read."""


@dataclass(frozen=True)
class VersionRequest:
    """What a version is made of, and where it goes."""

    job: str
    """Name of the job, at the beginning of its lines."""
    table: str
    """Location of the table."""
    run: str
    """Name of the run: everything that its vectors depend on, and not the version before."""
    staging: str
    """Directory of rows by bucket, and of dead letters."""
    rows: Rows
    """Tonight's users."""
    encoder: SavedEncoder
    """The encoder of user rows."""
    definition: RowDefinition | None
    """What user rows are to the encoder; None: it does not say."""
    events: EventEncoding
    """The encoder of event texts, and the place of their vectors."""
    embedding: EncodingConfig
    """How rows become vectors."""
    publishing: PublishingConfig
    """How vectors are stored, and the limits of the gates."""
    max_text_length: int
    """Longest event text, in characters; rows with a longer one are rejected."""
    ray: RayConfig
    """Resources."""
    buckets: int
    """Number of buckets of a new table."""
    incremental: bool = False
    """Whether the version continues from the one before; a user then has one row per instruction."""
    key: bytes | None = None
    """Key of the table's list of forgotten users."""
    max_age_days: int | None = None
    """With `incremental`: as in `Build`."""
    publish_anyway: str | None = None
    """Reason for publishing whatever the gates say; None: publish only if all pass."""
    input: RecordedInput | None = None
    """What was read, recorded with the version."""


@dataclass(frozen=True)
class BuiltVersion:
    """A new version, or the previous one where nothing changed."""

    version: int
    """Number of the version."""
    counts: VersionCounts
    """Its rows by what became of them."""
    events: EventCounts
    """Events of the rows."""
    files: int = 0
    """Number of buckets that have or had a file."""
    kept: int = 0
    """Number of these that keep the file of the version before."""
    changed: bool = True
    """Whether the version is new."""


def print_half_open_mask(job: str, encoder: SavedEncoder, config: EncodingConfig) -> None:
    """Print how far the mask is open and what embedding makes of it, if training stopped before it was fully open."""
    description = encoder.description
    if description.alpha >= 1 or description.step == 0:  # the untrained encoder is embedded under the final mask
        return
    at = f"the encoder's mask stands at alpha {description.alpha:.2f} (step {description.step})"
    if config.mask == "trained":
        text = f"{at}, and it is used as it is; embedding.mask: inference would use the recipe's final mask"
    else:
        text = f"{at}; embedding.mask: inference opens it all the same"
    print(f"{job}: {text}", flush=True)


def buckets_for(rows: int, publishing: PublishingConfig) -> int:
    """The number of buckets of a new table for so many rows."""
    small = min(-(-rows // min(SMALL_BUCKET, publishing.rows_per_bucket)), SMALL_TABLE)
    return max(1, small, -(-rows // publishing.rows_per_bucket))
