"""An encoder's weights as an ONNX graph: the tensors of a batch in, vectors out.

The graph is checked where it is made: it must give the encoder's vectors of made-up rows to 1e-5, or nothing is
written. Rows become tensors by this package (`OnnxEncoder`); a graph cannot read them.
"""

import datetime as dt
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from ray_ggsm.config import InputError
from ray_ggsm.data.schema import feature_names
from ray_ggsm.exporting.manifest import Manifest, is_half_open
from ray_ggsm.exporting.rows import Row
from ray_ggsm.exporting.standalone import Standalone, write_standalone
from ray_ggsm.exporting.tensors import batch_of, tensors_of, varying_axes
from ray_ggsm.model.config import ModelConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.kinds import FoundConfig, TextConfig

GRAPH = "model.onnx"
TOLERANCE = 1e-5
"""Largest difference between a number of the graph's vectors and the encoder's."""


def check_onnx(encoder: SavedEncoder, finished_mask: bool) -> None:
    """Refuse an encoder whose vectors a graph cannot give exactly.

    Raises:
        InputError: with the reason.
    """
    described, config = encoder.description, encoder.description.model
    if isinstance(config, TextConfig):
        raise InputError(
            "target: onnx has no text models; export sentence_transformers, and let that library write its own graph"
        )
    if isinstance(config, FoundConfig):
        raise InputError("target: onnx has no encoders of the kind found, whose graph depends on what a batch holds")
    if isinstance(config, ModelConfig) and config.dtype != "float32":
        raise InputError(
            "target: the encoder computes in bfloat16, which a graph cannot repeat to 1e-5; set model.dtype: float32, "
            "train and embed with it, or export another target"
        )
    if isinstance(config, ModelConfig) and config.fusion is not None and config.fusion.bag is not None:
        raise InputError(
            "target: onnx has no bags of contents (model.fusion.bag), as graphs cannot look contents up; export "
            "sentence_transformers or mlflow"
        )
    if described.mask is not None and described.mask.build().global_query == "blocks":
        raise InputError("target: onnx has no masks whose query joins blocks of the history (hybrid_gq, joins: blocks)")
    if is_half_open(described, finished_mask):
        raise InputError(
            f"target: the encoder's mask is half-open (alpha {described.alpha:.2f}), and a graph has the last form "
            "only; set mask: inference for that, or export sentence_transformers or mlflow, which apply it as it is"
        )


class _Graph(nn.Module):
    """The vectors of a batch that is given as tensors."""

    def __init__(self, encoder: Any, example: Any) -> None:
        super().__init__()
        self.encoder, self.example = encoder, example
        self.model = encoder.model
        self.names = [name for name, _ in tensors_of(example)]

    def forward(self, *tensors: Tensor) -> Tensor:
        """(B, W) float32."""
        batch = batch_of(self.example, dict(zip(self.names, tensors, strict=True)))
        vectors: Tensor = self.encoder.vectors(batch, "user")
        return vectors


def write_onnx(encoder: SavedEncoder, manifest: Manifest, directory: str) -> None:
    """Write an exported directory with a graph beside it.

    Raises:
        InputError: the exporter cannot make a graph of the encoder, or its vectors are not the encoder's to 1e-5.
    """
    write_standalone(encoder, manifest, directory)
    standalone = Standalone(directory, torch.device("cpu"))
    example = standalone.batch(made_up_rows(standalone.schema, 13, 0))
    names = [name for name, _ in tensors_of(example)]
    axes = tuple(dict.fromkeys(varying_axes(name), torch.export.Dim.DYNAMIC) for name in names)
    try:
        program = torch.onnx.export(
            _Graph(standalone.encoder, example).eval(),
            tuple(tensor for _, tensor in tensors_of(example)),
            dynamo=True,
            dynamic_shapes=(axes,),
            input_names=names,
            output_names=["vectors"],
            verbose=False,
        )
    except Exception as error:  # of many kinds, from torch.export and onnxscript
        raise InputError(
            f"target: torch can make no graph of this encoder ({' '.join(str(error).split())[:200]}); export another "
            "target"
        ) from error
    assert program is not None
    program.save(os.path.join(directory, GRAPH))
    _check(standalone, OnnxEncoder(directory))


def _check(standalone: Standalone, graph: "OnnxEncoder") -> None:
    for seed, users in enumerate((13, 1, 5)):
        rows = made_up_rows(standalone.schema, users, seed)
        worst = float(np.abs(standalone.vectors(rows) - graph.vectors(rows)).max())
        if worst > TOLERANCE:
            raise InputError(
                f"target: the graph's vectors differ from the encoder's by {worst:.1e}, more than {TOLERANCE:.0e}; "
                "export another target"
            )


class OnnxEncoder:
    """The graph of an exported directory, with what makes tensors of rows."""

    def __init__(self, directory: str) -> None:
        """Load both; raises as `Standalone`."""
        import onnxruntime

        self.standalone = Standalone(directory, torch.device("cpu"))
        self.session = onnxruntime.InferenceSession(os.path.join(directory, GRAPH), providers=["CPUExecutionProvider"])
        self.names = [each.name for each in self.session.get_inputs()]

    def vectors(self, rows: Sequence[Row], rows_per_batch: int = 64) -> np.ndarray:
        """Published vectors of rows, (B, W) float32; raises as `ray_ggsm.exporting.rows.arrow_rows`."""
        parts = [self._batch(rows[n : n + rows_per_batch]) for n in range(0, len(rows), rows_per_batch)]
        return np.concatenate(parts) if parts else np.zeros((0, self.standalone.manifest.width), dtype=np.float32)

    def _batch(self, rows: Sequence[Row]) -> np.ndarray:
        given = {name: tensor.numpy() for name, tensor in tensors_of(self.standalone.batch(rows))}
        vectors: np.ndarray = self.session.run(None, {name: given[name] for name in self.names})[0]
        return vectors


def made_up_rows(schema: pa.Schema, users: int, seed: int) -> list[Row]:
    """Rows of up to twelve made-up events of the first modality, and none to twelve of the others."""
    rng, as_of = np.random.default_rng(seed), dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
    events = {f.name: f.type.value_type for f in schema if pa.types.is_list(f.type) and f.name != "tabular"}
    rows: list[Row] = []
    for _ in range(users):
        row: dict[str, object] = {"as_of": as_of, "tabular": rng.normal(size=len(feature_names(schema))).tolist()}
        for k, (name, kind) in enumerate(events.items()):
            ages = np.sort(rng.uniform(0.01, 80, int(rng.integers(int(k == 0), 13))))[::-1]
            row[name] = [_event(kind, as_of - dt.timedelta(days=float(age)), rng) for age in ages]
        rows.append(row)
    return rows


def _event(kind: pa.StructType, time: dt.datetime, rng: np.random.Generator) -> dict[str, object]:
    event: dict[str, object] = {
        "time": time,
        "text": f"item {rng.integers(17)}",
        "amount": float(rng.choice([1.5, 7.0])),
    }
    names = [each.name for each in kind]
    if "fields" in names:
        event["fields"] = {
            each.name: f"value {rng.integers(5)}" if pa.types.is_string(each.type) else float(rng.integers(9))
            for each in kind.field("fields").type
        }
    if "parts" in names:
        event["parts"] = [{"text": f"part {rng.integers(9)}", "weight": float(rng.integers(1, 9))} for _ in range(2)]
    return event
