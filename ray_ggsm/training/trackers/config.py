"""Settings of `training.trackers`. Passwords and keys come from the environment (MLFLOW_TRACKING_*, WANDB_API_KEY)."""

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError


class RegisterConfig(Config):
    """What all registers have."""

    closing_seconds: float = Field(30.0, ge=0)
    """How long the end of a run waits for what is not sent yet."""


class MlflowConfig(RegisterConfig):
    """A tracking server of MLflow, or its local files."""

    kind: Literal["mlflow"]
    uri: str
    """Tracking server (https://...), or a store without one that the first training worker can write: sqlite:///runs.db
    (needs the whole of mlflow), or a directory (which MLflow asks to be allowed: MLFLOW_ALLOW_FILE_STORE=true)."""
    experiment: str = Field("ray_ggsm", min_length=1)
    """Experiment that the run belongs to; it is made if there is none."""

    @field_validator("uri")
    @classmethod
    def _no_credentials(cls, uri: str) -> str:
        if storage.without_credentials(uri) != uri:
            raise ValueError(
                "no user or password in a config; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return uri


class WandbConfig(RegisterConfig):
    """Weights & Biases."""

    kind: Literal["wandb"]
    project: str = Field("ray_ggsm", min_length=1)
    """Project that the run belongs to."""
    entity: str | None = None
    """User or team; null: that of the key."""
    mode: Literal["online", "offline"] = "online"
    """offline: into files, which `wandb sync` sends later."""
    directory: str = "wandb"
    """Local directory of its files, on the node of the first training worker."""


TrackerConfig = Annotated[MlflowConfig | WandbConfig, Field(discriminator="kind")]


def check_installed(trackers: tuple[TrackerConfig, ...]) -> None:
    """Refuse trackers whose package is not here.

    Raises:
        InputError: naming the extra that has it.
    """
    for tracker in trackers:
        if find_spec(tracker.kind) is None:
            raise InputError(
                f"training.trackers: {tracker.kind} is not installed; pip install 'ray-ggsm[{tracker.kind}]'"
            )
