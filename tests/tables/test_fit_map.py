"""Maps between spaces: against closed forms and loops, on planted turns, and their files."""

import numpy as np
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.numerics import unit
from ray_ggsm.tables.config import MapConfig
from ray_ggsm.tables.fit_map import fit_map
from ray_ggsm.tables.space_map import Network, SpaceMap

KINDS = ("rotation", "linear", "residual")
ROTATION = MapConfig(kinds=("rotation",))
RNG = np.random.default_rng(0)


def turn(size: int, seed: int) -> np.ndarray:
    """An orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def vectors(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Unit vectors, some directions larger than others."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(count, width)) / np.sqrt(1 + np.arange(width))).astype(np.float32)


def best_turn_in_the_plane(old_N2: np.ndarray, new_N2: np.ndarray) -> np.ndarray:
    """The best rotation or reflection of centred points in the plane, in closed form: without a decomposition."""
    found = []
    for flip in (1.0, -1.0):
        x, y = new_N2[:, 0], flip * new_N2[:, 1]
        dot, cross = (x * old_N2[:, 0] + y * old_N2[:, 1]).sum(), (x * old_N2[:, 1] - y * old_N2[:, 0]).sum()
        angle = np.arctan2(cross, dot)
        matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * [[1.0], [flip]]
        found.append((np.hypot(dot, cross), matrix))
    return max(found, key=lambda each: each[0])[1]


@pytest.mark.parametrize("flip", [1, -1])
def test_a_rotation_is_that_of_the_closed_form(flip):
    new = RNG.normal(size=(60, 2))
    old = new @ np.diag([1, flip]) @ turn(2, 3) + 0.2 * RNG.normal(size=new.shape) + [0.5, 0]
    found = fit_map(old, new, ROTATION).map
    fit = np.sort(np.delete(np.random.default_rng(0).permutation(60), np.arange(0, 60, 10)))
    centred = [part[fit] - part[fit].mean(axis=0) for part in (old, new)]
    expected = best_turn_in_the_plane(*centred)
    scale = (centred[0] * (centred[1] @ expected)).sum() / np.square(centred[1]).sum()
    np.testing.assert_allclose(found.weight_BA, scale * expected, atol=1e-5)
    np.testing.assert_allclose(
        found.offset_A, old[fit].mean(axis=0) - scale * new[fit].mean(axis=0) @ expected, atol=1e-5
    )
    assert not found.normalise


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_planted_turn_is_recovered(kind):
    old = vectors(300, 12)
    new = (old @ turn(12, 1)).astype(np.float32)
    found = fit_map(old, new, MapConfig(kinds=(kind,)))
    np.testing.assert_allclose(found.map.weight_BA, turn(12, 1).T, atol=1e-3)
    np.testing.assert_allclose(found.map(new), old, atol=1e-5 if kind == "rotation" else 1e-3)
    assert found.agreement[kind] == pytest.approx(1, abs=1e-5)
    assert found.raw < 0.5
    assert found.map.normalise
    assert (found.anchors, found.held_out) == (270, 30)


def test_a_wider_encoder_that_holds_the_old_space():
    old = vectors(400, 5)
    new = (np.hstack([old, np.zeros((400, 4))]) @ turn(9, 2)).astype(np.float32)
    found = fit_map(old, new, ROTATION)
    np.testing.assert_allclose(found.map(new), old, atol=1e-5)
    assert found.raw is None


def test_a_narrower_encoder_keeps_all_angles():
    old = vectors(400, 9)
    new = vectors(400, 5, seed=1)
    weights = fit_map(old, new, ROTATION).map.weight_BA
    scaled = weights @ weights.T
    np.testing.assert_allclose(scaled, scaled[0, 0] * np.eye(5), atol=1e-5)


def test_no_rotation_is_better():
    """The sum of squares that is left, against many turns nearby, each with its best scale and offset."""
    old, new = vectors(200, 4), vectors(200, 4, seed=1)
    found = fit_map(old, new, ROTATION).map
    fit = np.delete(np.random.default_rng(0).permutation(200), np.arange(0, 200, 10))
    left = np.square(old[fit] - new[fit] @ found.weight_BA - found.offset_A).sum()
    old_c, new_c = old[fit] - old[fit].mean(axis=0), new[fit] - new[fit].mean(axis=0)
    own = found.weight_BA / np.sqrt(np.square(found.weight_BA[0]).sum())
    for seed in range(200):
        skew = np.random.default_rng(seed).normal(size=(4, 4)) * 0.1
        other = own @ np.linalg.qr(np.eye(4) + skew - skew.T)[0]
        turned = new_c @ other
        scale = (old_c * turned).sum() / np.square(turned).sum()
        assert np.square(old_c - scale * turned).sum() >= left - 1e-6


def test_ridge_regression_is_that_of_the_normal_equations():
    old, new = vectors(500, 4), vectors(500, 6, seed=1)
    old = unit(old + 0.8 * new[:, :4]).astype(np.float32)
    found = fit_map(old, new, MapConfig(kinds=("linear",))).map
    fit = np.delete(np.random.default_rng(0).permutation(500), np.arange(0, 500, 10))
    old_c, new_c = (part[fit].astype(float) - part[fit].mean(axis=0) for part in (old, new))
    spread = np.square(new_c).sum() / 6
    solutions = [
        np.linalg.solve(new_c.T @ new_c + spread * a * np.eye(6), new_c.T @ old_c) for a in np.logspace(-5, 0, 6)
    ]
    assert min(np.abs(found.weight_BA - each).max() for each in solutions) < 1e-4


def test_the_best_kind_is_kept():
    new = vectors(3000, 6)
    bent = unit(np.abs(new @ turn(6, 1)) - 0.2)
    found = fit_map(bent, new, MapConfig(kinds=KINDS, hidden=64))
    assert found.kind == "residual"
    assert found.agreement["residual"] > found.agreement["linear"] + 0.05
    stretched = fit_map(unit(new * [3, 1, 1, 1, 1, 0.1]), new, MapConfig(kinds=("rotation", "linear")))
    assert stretched.kind == "linear"
    assert fit_map(new @ turn(6, 1), new, MapConfig(kinds=("rotation", "linear"))).kind == "rotation"


def test_equal_anchors_give_an_equal_map():
    old, new = vectors(300, 5), vectors(300, 5, seed=1)
    for kind in KINDS:
        first, second = (fit_map(old, new, MapConfig(kinds=(kind,), hidden=8)).map.to_bytes() for _ in range(2))
        assert first == second


def test_too_few_anchors():
    with pytest.raises(InputError, match=r"23 anchor rows have vectors of both.* to 8 needs 24 \(3 per dimension\)"):
        fit_map(vectors(23, 8), vectors(23, 6), MapConfig(per_dimension=3))
    broken = vectors(24, 8)
    broken[3, 1] = np.nan
    with pytest.raises(InputError, match="23 anchor rows"):
        fit_map(vectors(24, 8), broken, MapConfig(per_dimension=3))


def test_a_network_row_by_row():
    new = vectors(7, 3)
    network = Network(*(RNG.normal(size=shape).astype(np.float32) for shape in ((3, 4), (4,), (4, 2))))
    found = SpaceMap(RNG.normal(size=(3, 2)).astype(np.float32), np.array([0.1, -2], np.float32), True, network)
    for row, mapped in zip(new, found(new), strict=True):
        hidden = [max(0.0, float(row @ network.weight_BH[:, h] + network.offset_H[h])) for h in range(4)]
        out = [row @ found.weight_BA[:, a] + found.offset_A[a] + hidden @ network.weight_HA[:, a] for a in range(2)]
        np.testing.assert_allclose(mapped, np.array(out) / np.hypot(*out), atol=1e-5)
    again = SpaceMap.from_bytes(found.to_bytes(), "file")
    np.testing.assert_array_equal(again(new), found(new))
    assert again.network is not None
    with pytest.raises(InputError, match="other: this is no file of a map"):
        SpaceMap.from_bytes(b"else", "other")
