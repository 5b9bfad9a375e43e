"""The job `export`: an encoder as other libraries load it, or the model card of a run."""

import importlib.util
import os
import tempfile
from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Location, Runtime
from ray_ggsm.data import definition
from ray_ggsm.experiment import arguments, loaded
from ray_ggsm.exporting.manifest import Manifest
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.stages import Pipeline

Target = Literal["sentence_transformers", "mlflow", "onnx", "card"]
NEEDS: dict[Target, dict[str, str]] = {
    "sentence_transformers": {"sentence_transformers": "text"},
    "mlflow": {"mlflow": "mlflow"},
    "onnx": {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx"},
    "card": {},
}
"""Target -> library -> the extra of ray-ggsm that brings it."""
CARD = "README.md"


class ExportConfig(Config):
    """What is exported, and for which library."""

    target: Target
    """sentence_transformers: a directory whose `encode` takes rows (or texts, for the kind `text`). mlflow: a pyfunc
    model, rows in and vectors out. onnx: a graph of the weights beside it. card: the model card of a run, README.md."""
    output: Runtime[Location]
    """Directory that is written, local or s3://."""
    encoder: str | None = None
    """Directory of the saved encoder, or a pattern that matches exactly one; not with `card`."""
    mask: Literal["trained", "inference"] = "trained"
    """As `embedding.mask`: the mask at the end of training, or the recipe's inference mask in any case."""
    instruction: str = ""
    """What every row is asked, as in `embedding.instructions`; empty: what its `query` says, if anything."""
    experiment: str | None = None
    """With `card`: config file of the run."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Changes to it: key.path -> value."""
    licence: str | None = None
    """With `card`: the licence, by the Hub's name (apache-2.0, other, ...); null: the card says that it is unknown."""

    @model_validator(mode="after")
    def _names_its_source(self) -> Self:
        wanted, other = ("experiment", "encoder") if self.target == "card" else ("encoder", "experiment")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"target: {self.target} needs {wanted}, and takes no {other}")
        if self.target != "card" and (self.settings or self.licence is not None):
            raise ValueError("target: settings and licence belong to a card; leave them out")
        if self.target == "card" and (self.instruction or self.mask != "trained"):
            raise ValueError("target: the experiment says mask and instruction of its card; leave them out")
        return self


def export(config: ExportConfig) -> None:
    """Write what is exported.

    Raises:
        InputError: the target cannot give the encoder's vectors exactly, a library is missing, or the output exists.
    """
    if config.target == "card":
        _write_card(config)
        return
    encoder, manifest = _checked(config)
    with tempfile.TemporaryDirectory() as place:
        directory = os.path.join(place, "export")
        _write(config.target, encoder, manifest, directory)
        storage.upload(directory, config.output)
    print(f"export: {config.output}: encoder {encoder.digest}, mask {manifest.mask}, {config.target}", flush=True)


def preview(config: ExportConfig) -> str:
    """What would be written; raises like `export`, but for what shows only when weights are loaded."""
    if config.target == "card":
        Pipeline.of(loaded(config.experiment or "", config.settings))
        return f"would write {storage.join(config.output, CARD)}"
    encoder, manifest = _checked(config)
    return f"would write {config.output} from {encoder.location}:\n{manifest.model_dump_json(indent=2)}"


def _checked(config: ExportConfig) -> tuple[SavedEncoder, Manifest]:
    """The encoder and the manifest of an export that is possible."""
    for library, extra in NEEDS[config.target].items():
        if importlib.util.find_spec(library) is None:
            raise InputError(f"target: {config.target} needs {library}; pip install 'ray-ggsm[{extra}]'")
    encoder, finished = SavedEncoder.find(config.encoder or ""), config.mask == "inference"
    manifest = Manifest.of(config.target, encoder, definition.read(encoder.location), finished, config.instruction)
    if config.target == "onnx":
        from ray_ggsm.exporting.onnx_graph import check_onnx

        check_onnx(encoder, finished)
    elif config.target == "sentence_transformers" and encoder.description.model.kind == "text":
        from ray_ggsm.exporting.standard_modules import check_standard

        check_standard(encoder)
    if storage.exists(config.output):
        raise InputError(f"output: {config.output} is there already; name another directory, or remove it")
    return encoder, manifest


def _write(target: Target, encoder: SavedEncoder, manifest: Manifest, directory: str) -> None:
    if target == "mlflow":
        from ray_ggsm.exporting.mlflow_model import write_mlflow

        write_mlflow(encoder, manifest, directory)
    elif target == "onnx":
        from ray_ggsm.exporting.onnx_graph import write_onnx

        write_onnx(encoder, manifest, directory)
    elif encoder.description.model.kind == "text":
        from ray_ggsm.exporting.standard_modules import write_standard

        write_standard(encoder, manifest, directory)
    else:
        from ray_ggsm.exporting.standalone import write_standalone
        from ray_ggsm.exporting.user_rows import write_modules

        write_standalone(encoder, manifest, directory)
        write_modules(directory)


def _write_card(config: ExportConfig) -> None:
    from ray_ggsm.exporting.card import model_card
    from ray_ggsm.exporting.facts import facts_of

    file = storage.join(config.output, CARD)
    if storage.exists(file):
        raise InputError(f"output: {file} is there already; name another directory, or remove it")
    experiment = config.experiment or ""
    facts = facts_of(Pipeline.of(loaded(experiment, config.settings), arguments(experiment, config.settings)))
    is_model = storage.exists(storage.join(config.output, "modules.json"))
    storage.write_text(file, model_card(facts, config.licence, "sentence-transformers" if is_model else "ray-ggsm"))
    print(f"export: {file}", flush=True)
