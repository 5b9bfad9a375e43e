"""Saves and loads the probes of an evaluation, so that what was scored with can score again.

    <label>/linear.json   which label, which vectors, how good     <label>/linear.safetensors
    <label>/lightgbm.json                                          <label>/lightgbm.txt, in LightGBM's own format

The networks of `mlp_probe` are not kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from safetensors import SafetensorError
from safetensors.numpy import load, save

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record
from ray_ggsm.evaluation.config import Kind
from ray_ggsm.evaluation.lightgbm_probe import LightGBMProbe
from ray_ggsm.evaluation.linear_probe import LinearProbe
from ray_ggsm.evaluation.probes import ProbeResult
from ray_ggsm.hashing import content_digest

AGAIN = "remove the evaluation's stage.json and run jobs/evaluate.py again"
"""How an evaluation makes its probes anew."""
SUFFIX: dict[str, str] = {"linear": "safetensors", "lightgbm": "txt"}
"""Kind of probe -> how its file's name ends."""


class ProbedVectors(Record):
    """The vectors that probes were fitted on."""

    encoder: str
    """Digest of the encoder."""
    instruction: str
    """Text of the instruction."""
    mask: Literal["trained", "inference"]
    """As in `EncodingConfig`."""


class ProbeDescription(Record):
    """The content of a probe's JSON file."""

    label: str
    kind: Kind
    vectors: ProbedVectors
    width: int
    """Width of the vectors."""
    auc: float
    """AUC on the rows that the evaluation scored."""
    cv_auc: float
    hyperparameters: dict[str, float]
    digest: str
    """Digest of the bytes of the probe's file."""


@dataclass(frozen=True)
class SavedProbe:
    """A probe that was saved."""

    description: ProbeDescription
    probe: LinearProbe | LightGBMProbe


def save_probes(
    found: Mapping[Kind, Mapping[str, ProbeResult]], vectors: ProbedVectors, width: int, location: str
) -> None:
    """Write the probes below a location, local or s3://; `found` is kind -> label -> result."""
    for kind, labels in found.items():
        for label, result in labels.items():
            if result.probe is None:
                continue
            data = _bytes(result.probe)
            description = ProbeDescription(
                label=label, kind=kind, vectors=vectors, width=width, auc=result.auc, cv_auc=result.cv_auc,
                hyperparameters=result.hyperparameters, digest=content_digest(data),
            )  # fmt: skip
            place = storage.join(location, label)
            storage.write_bytes(storage.join(place, f"{kind}.{SUFFIX[kind]}"), data)
            storage.write_json(storage.join(place, f"{kind}.json"), description.model_dump(mode="json"))


def load_probe(location: str, label: str, kind: Kind) -> SavedProbe:
    """The probe of a label below a location.

    Raises:
        InputError: there is none, or its file was changed.
    """
    file = storage.join(location, label, f"{kind}.json")
    if kind not in SUFFIX or not storage.exists(file):
        raise InputError(
            f"{location}: there is no {kind} probe of '{label}' here ({label}/{kind}.json is missing); an evaluation "
            f"keeps its linear and LightGBM probes in `probes`; where it was made by an earlier version, {AGAIN}"
        )
    place = storage.join(location, label, f"{kind}.{SUFFIX[kind]}")
    try:
        description, data = ProbeDescription.model_validate_json(storage.read_text(file)), storage.read_bytes(place)
    except (FileNotFoundError, ValueError) as error:  # pydantic's errors are ValueErrors
        raise InputError(f"{file} is damaged, or {place} is missing; restore them, or {AGAIN}") from error
    if content_digest(data) != description.digest:
        raise InputError(f"{place} was changed since it was saved; restore it, or {AGAIN}")
    return SavedProbe(description, _probe(kind, data, place))


def _bytes(probe: object) -> bytes:
    if isinstance(probe, LightGBMProbe):
        return probe.text.encode()
    assert isinstance(probe, LinearProbe), "only these two kinds are kept"
    return save(vars(probe))


def _probe(kind: Kind, data: bytes, place: str) -> LinearProbe | LightGBMProbe:
    if kind == "lightgbm":
        return LightGBMProbe(data.decode())
    try:
        return LinearProbe(**load(data))
    except (SafetensorError, TypeError) as error:
        raise InputError(f"{place}: this is no linear probe ({error}); {AGAIN}") from error
