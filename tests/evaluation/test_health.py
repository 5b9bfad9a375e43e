import numpy as np
import pytest

from ray_ggsm.evaluation.health import vector_health


def test_health_against_all_pairs_and_planted_faults():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(41, 7)) + 1).astype(np.float32)
    vectors[:, 3] = 2.5
    vectors[17] = vectors[4]
    vectors.flags.writeable = False
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(41, dtype=bool)]
    health = vector_health(vectors)
    assert health["mean cosine of two users"] == pytest.approx(cosines.mean(), abs=1e-5)
    assert (health["dead dimensions"], health["repeated vectors"], health["vectors"]) == (1, 1, 41)
    assert health["mean length"] == pytest.approx(np.linalg.norm(vectors, axis=1).mean(), rel=1e-5)
