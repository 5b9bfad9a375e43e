"""Linear probes on prefixes in each precision: the right vectors, bytes of real files, and what is refused."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.alignment import Aligned, ProbeData
from ray_ggsm.evaluation.config import DimensionsConfig, LinearConfig, ProbeConfig
from ray_ggsm.evaluation.dimensions import PRECISIONS, stored_aucs
from ray_ggsm.evaluation.probes import fit_and_score
from ray_ggsm.evaluation.results import Probed
from ray_ggsm.numerics import unit
from ray_ggsm.on_ray.probing import stored as module
from ray_ggsm.on_ray.probing.stored import stored

CONFIG = ProbeConfig(folds=2, linear=LinearConfig(strengths=(0.1,)))
D = 24


def rows(seed: int, users: int) -> Aligned:
    """Vectors whose columns 0 and 20 both say something about the label."""
    rng = np.random.default_rng(seed)
    vector_ND = unit(rng.normal(size=(users, D))).astype(np.float32)
    score_N = 9 * vector_ND[:, 0] + 9 * vector_ND[:, 20]
    labels = {"buys": (score_N + rng.logistic(size=users) > 0).astype(np.float32)}
    return Aligned(vector_ND, labels, np.array([f"{seed}-{n}" for n in range(users)]), 0)


def probe_all(config: ProbeConfig, seed: int, data: dict[str, ProbeData]) -> Probed:
    (name, d), label = next(iter(data.items())), "buys"
    sides = (d.fit.vectors, d.fit.labels[label], d.fit.users, d.score.vectors, d.score.labels[label])
    return {(name, "linear"): {label: fit_and_score("linear", *sides, config, seed, label=label)}}


def test_every_form_is_probed_on_what_readers_get() -> None:
    data, seen = ProbeData(rows(0, 500), rows(1, 400)), []

    def watched(vector_ND: np.ndarray, precision: str) -> tuple[np.ndarray, float]:
        seen.append((vector_ND, precision))
        return stored(vector_ND, precision)

    found = stored_aucs(CONFIG, DimensionsConfig(prefixes=(4, 22)), 0, data, watched, probe_all)
    assert [(f.dimensions, f.precision) for f in found] == [(n, p) for n in (D, 22, 4) for p in PRECISIONS]
    assert np.array_equal(seen[0][0], data.fit.vectors), "all dimensions, to the bit"
    for vector_ND, _ in seen[6:]:
        np.testing.assert_allclose(np.linalg.norm(vector_ND, axis=1), 1, rtol=1e-6)
    aucs = {(f.dimensions, f.precision): f for f in found}
    whole = aucs[D, "float32"]
    assert (whole.difference.value, whole.difference.low, whole.difference.high) == (0, 0, 0)
    assert abs(aucs[22, "int8"].difference.value) < 0.01, "both columns are there"
    assert aucs[4, "float32"].difference.high < -0.03, "one of them is not"
    for form in found:
        assert form.difference.value == pytest.approx(form.auc.value - whole.auc.value)
    for n in (D, 22, 4):
        sizes = [aucs[n, precision].bytes for precision in PRECISIONS]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("precision", "low", "high"), [("float32", 3.4, 4.1), ("float16", 1.7, 2.6), ("int8", 0.9, 1.2)]
)
def test_bytes_are_those_of_the_column_in_the_file(
    precision: str, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {}

    def kept(table, location, *place):
        file = write(table, location, *place)
        written["parquet"], written["size"] = pq.ParquetFile(f"{location}/{file.path}"), file.size
        return file

    write = module.write_bucket
    monkeypatch.setattr(module, "write_bucket", kept)
    vector_ND = unit(np.random.default_rng(0).normal(size=(1000, 64))).astype(np.float32)
    read_ND, size = stored(vector_ND, precision)
    np.testing.assert_allclose(read_ND, vector_ND, atol=0.003)
    assert low * 64 < size < high * 64
    others = sum(
        written["parquet"].metadata.row_group(g).column(k).total_compressed_size
        for g in range(written["parquet"].num_row_groups)
        for k in range(written["parquet"].metadata.num_columns)
        if "embedding" not in written["parquet"].metadata.row_group(g).column(k).path_in_schema
    )
    footer = written["parquet"].metadata.serialized_size + 8
    assert others + 1000 * size + footer == pytest.approx(written["size"], rel=0.01), "nothing else is in the file"


def test_a_prefix_of_all_dimensions_is_refused() -> None:
    data = ProbeData(rows(0, 60), rows(1, 60))
    with pytest.raises(InputError, match="24 is no part of a vector of 24"):
        stored_aucs(CONFIG, DimensionsConfig(prefixes=(4, 24)), 0, data, stored, probe_all)
