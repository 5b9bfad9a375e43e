"""MLflow models and ONNX graphs give the embed job's vectors; where these libraries are not installed, this is skipped
(benchmarks/export_parity.py runs them in environments of their own)."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.cli.export import ExportConfig, export
from ray_ggsm.masks.fixed import BidirectionalConfig
from ray_ggsm.masks.ggsm import GGSMConfig
from ray_ggsm.model.description import SavedEncoder
from tests.exporting.conftest import DETAILED, Place

OPEN = BidirectionalConfig(recipe="bidirectional")


@pytest.mark.filterwarnings("ignore")  # of MLflow
def test_an_mlflow_model(place: Place, tmp_path: Path, detailed_rows: Callable[..., pa.Table]) -> None:
    mlflow = pytest.importorskip("mlflow.pyfunc", reason="MLflow is not installed")
    rows = detailed_rows(24).drop_columns(["future", "user_id"])
    encoder = place.language_model(GGSMConfig(recipe="ggsm", total_steps=10), 6, DETAILED, fusion={})
    wanted, digest = place.embedded(encoder, detailed_rows(24)), SavedEncoder.read(encoder).digest
    export(ExportConfig(target="mlflow", encoder=encoder, output=str(tmp_path / "out")))
    place.remove_models()
    model = mlflow.load_model(str(tmp_path / "out"))
    np.testing.assert_allclose(model.predict(rows.to_pandas()), wanted, atol=1e-5)
    facts = model.metadata.metadata["ray_ggsm"]
    assert (facts["encoder"], facts["alpha"]) == (digest, 0.5)
    assert facts["mask"] == json.loads(next(tmp_path.glob("out/**/export.json")).read_text())["mask"]
    assert [column.name for column in model.metadata.signature.inputs] == ["as_of", "bill", "app", "tabular", "query"]
    assert model.metadata.signature.outputs.inputs[0].shape == (-1, wanted.shape[1])
    assert not [file for file in tmp_path.glob("out/**/*") if file.suffix in (".pkl", ".pt", ".bin")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_an_onnx_graph(place: Place, tmp_path: Path, detailed_rows: Callable[..., pa.Table]) -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    from ray_ggsm.exporting.onnx_graph import OnnxEncoder

    rows = detailed_rows(24)
    encoder = place.language_model(OPEN, 6, DETAILED, pooling="mean", fusion={"width": 5, "hidden": 6})
    wanted = place.embedded(encoder, rows)
    export(ExportConfig(target="onnx", encoder=encoder, output=str(tmp_path / "out")))
    place.remove_models()
    found = OnnxEncoder(str(tmp_path / "out")).vectors(rows.to_pylist(), rows_per_batch=7)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
