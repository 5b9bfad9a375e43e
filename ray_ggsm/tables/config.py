"""Settings of what is published."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ray_ggsm.config import Config, Runtime
from ray_ggsm.tables.files import DataFileConfig
from ray_ggsm.tables.gates import GatesConfig

MapKind = Literal["rotation", "linear", "residual"]
"""Kind of map (`ray_ggsm.tables.fit_map`)."""


class MapConfig(Config):
    """How maps between the spaces of two encoders are fitted."""

    kinds: tuple[MapKind, ...] = Field(("rotation", "linear"), min_length=1)
    """Kinds to fit; the one with the best agreement on held-out anchors is kept."""
    anchors: int = Field(20_000, ge=100)
    """Largest number of anchor rows per instruction."""
    per_dimension: int = Field(2, ge=1)
    """Smallest number of anchor rows, as a multiple of the wider vectors' width: with fewer a map fits by chance."""
    hidden: int = Field(128, ge=1)
    """Hidden units of `residual`."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds: each once; found {', '.join(self.kinds)}")
        return self

    def needed(self, old_width: int, new_width: int) -> int:
        """The smallest number of anchor rows."""
        return self.per_dimension * max(old_width, new_width)


class TargetConfig(Config):
    """A version into whose space new vectors are mapped."""

    table: str | None = None
    """Location of its table, local or s3://; null: the one that is published to."""
    version: int | str | None = None
    """Its number, or the name of a tag; null: the newest."""


class CompatibleConfig(MapConfig):
    """Maps that are fitted when a version is published with another encoder than the one before."""

    to: tuple[TargetConfig, ...] = ()
    """Further versions that get a map of their own, beside the version before and those that have a tag; into the
    spaces of others maps are composed."""
    min_agreement: float | None = Field(None, ge=-1, le=1)
    """Gate: smallest mean cosine of mapped and old vectors of held-out anchors; null: any."""


class PublishingConfig(Config):
    """The embedding table, and what must hold before a version is published."""

    rows_per_bucket: Runtime[int] = Field(16_384, ge=1)
    """Rows per bucket that the number of buckets is chosen for, with the first version. A bucket is one file, and what
    is done, or done again after a failure, as one."""
    files: DataFileConfig = DataFileConfig()
    """How vectors are stored."""
    gates: Runtime[GatesConfig] = GatesConfig()
    """Limits of the gates."""
    compatible: Runtime[CompatibleConfig | None] = None
    """Fit maps into the spaces of older encoders, for `read(compatible_with=)`; null: none."""
