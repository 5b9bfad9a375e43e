"""An MLflow model of an encoder: rows in, vectors out.

MLflow stores its code as a file (models from code) and its weights as the safetensors of an exported directory; nothing
is pickled. Importing this file does not load MLflow: the stored file does.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from ray_ggsm.data import definition
from ray_ggsm.data.schema import feature_names
from ray_ggsm.exporting.manifest import Manifest
from ray_ggsm.exporting.rows import row_schema
from ray_ggsm.exporting.standalone import write_standalone
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.kinds import TextConfig

ARTIFACT = "encoder"
CODE = f'''"""Rows of users in, vectors out, by the installed package ray_ggsm."""

import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from ray_ggsm.exporting.mlflow_model import rows_of
from ray_ggsm.exporting.standalone import Standalone


class UserVectors(PythonModel):
    def load_context(self, context):
        self.encoder = Standalone(context.artifacts["{ARTIFACT}"], torch.device("cpu"))

    def predict(self, context, model_input, params=None):
        return self.encoder.vectors(rows_of(model_input))


set_model(UserVectors())
'''
"""What MLflow stores and runs."""


def write_mlflow(encoder: SavedEncoder, manifest: Manifest, directory: str) -> None:
    """Write the MLflow model into a local directory that does not exist yet.

    Raises:
        InputError: a pretrained part cannot be loaded.
    """
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Array

    schema = row_schema(encoder.description, definition.read(encoder.location))
    kinds: dict[str, object] = {"tabular": Array(DataType.double), "query": DataType.string}
    inputs = [
        ColSpec(kinds.get(name) or (AnyType() if name == "as_of" else Array(AnyType())), name, name != "query")
        for name in columns_read(encoder, schema)
    ]
    vectors = TensorSpec(np.dtype(np.float32), (-1, manifest.width), "vectors")
    with tempfile.TemporaryDirectory() as place:
        code, parts = os.path.join(place, "model.py"), os.path.join(place, ARTIFACT)
        with open(code, "w", encoding="utf-8") as file:
            file.write(CODE)
        write_standalone(encoder, manifest, parts)
        mlflow.pyfunc.save_model(
            directory,
            python_model=code,
            artifacts={ARTIFACT: parts},
            signature=ModelSignature(Schema(inputs), Schema([vectors])),
            pip_requirements=requirements(encoder),
            metadata={
                "ray_ggsm": manifest.model_dump(mode="json"),
                "columns": {n: str(schema.field(n).type) for n in schema.names},
            },
        )


def columns_read(encoder: SavedEncoder, schema: pa.Schema) -> list[str]:
    """The columns of rows that vectors depend on."""
    unread = {"user_id"}
    if not feature_names(schema):
        unread.add("tabular")
    if encoder.description.model.kind != "llm":
        unread.add("query")
    return [name for name in schema.names if name not in unread]


def requirements(encoder: SavedEncoder) -> list[str]:
    """The packages that the model needs, with the versions that are installed here."""
    names = ["ray-ggsm", "torch", "transformers", "safetensors", "pyarrow", "numpy"]
    if isinstance(encoder.description.model, TextConfig):
        names.append("sentence-transformers")
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def rows_of(given: Any) -> list[dict[str, object]]:
    """Rows as `ray_ggsm.exporting.rows` takes them, from a data frame or a list of mappings."""
    rows: Sequence[Mapping[str, Any]] = given if isinstance(given, list) else given.to_dict("records")
    return [{key: _plain(value) for key, value in row.items() if not _is_missing(value)} for row in rows]


def _plain(value: Any) -> Any:
    """Without NumPy's arrays and numbers."""
    if isinstance(value, np.ndarray | np.generic) and not isinstance(value, np.datetime64):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _is_missing(value: Any) -> bool:
    """Whether a cell of a data frame is empty."""
    return value is None or (isinstance(value, float) and np.isnan(value))
