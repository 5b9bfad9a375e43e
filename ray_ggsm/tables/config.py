"""Settings of what is published."""

from pydantic import Field

from ray_ggsm.config import Config, Runtime
from ray_ggsm.tables.files import DataFileConfig
from ray_ggsm.tables.gates import GatesConfig


class PublishingConfig(Config):
    """The embedding table, and what must hold before a version is published."""

    rows_per_bucket: Runtime[int] = Field(16_384, ge=1)
    """Rows per bucket that the number of buckets is chosen for, with the first version. A bucket is one file, and what
    is done, or done again after a failure, as one."""
    files: DataFileConfig = DataFileConfig()
    """How vectors are stored."""
    gates: Runtime[GatesConfig] = GatesConfig()
    """Limits of the gates."""
