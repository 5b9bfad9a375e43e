"""The kind `features`: vectors from which the z-scores can be read back."""

import numpy as np
import pyarrow as pa
import torch

from ray_ggsm.encoders.features import CONSTANT, FeatureReader, Features
from ray_ggsm.model.batch import tabular_matrix
from tests.helpers.rows import user_rows


def test_vectors_hold_the_z_scores() -> None:
    """Against NumPy: divide by the constant's place, and the z-scores of the signed logarithms are there."""
    rows, reader, model = user_rows(50, seed=3), FeatureReader(), Features(7)
    model.prepare(reader, rows, None, 0)
    vector_BW = model.vectors(reader.batch(rows)).numpy()
    x_BF = tabular_matrix(rows).numpy().astype(np.float64)
    log_BF = np.sign(x_BF) * np.log1p(np.abs(x_BF))
    z_BF = (log_BF - log_BF.mean(axis=0)) / log_BF.std(axis=0)
    found_BF = vector_BW[:, :7] / vector_BW[:, 7:] * CONSTANT * np.sqrt(7)
    np.testing.assert_allclose(found_BF, z_BF, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(vector_BW, axis=1), 1, atol=1e-6)


def test_a_vector_is_that_of_its_row_alone() -> None:
    rows, reader, model = user_rows(20), FeatureReader(), Features(7)
    model.prepare(reader, rows, None, 0)
    whole = model.vectors(reader.batch(rows))
    for n in range(20):
        torch.testing.assert_close(model.vectors(reader.sequences(rows).batch(np.array([n])))[0], whole[n])
    assert reader.counts(rows).sum() == 0
    assert len(reader.sequences(pa.concat_tables([rows, rows])).length_B) == 40
