"""Recipes against numbers worked out from the paper's eq. 5 and Appendix A.4, in float64 and without their code."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ray_ggsm.masks import MaskConfig, Tokens, with_total_steps
from ray_ggsm.masks.calibration import calibrated
from ray_ggsm.masks.fixed import BidirectionalConfig, CausalConfig, PrefixConfig
from ray_ggsm.masks.ggsm import GGSM, GGSMConfig, HybridMaskConfig
from ray_ggsm.masks.hybrid_mlp import HybridMLPConfig
from ray_ggsm.masks.scheduler import ConstantConfig, SchedulerConfig

B, L, D, S = 2, 5, 3, 7


def tokens() -> Tokens:
    slots = torch.tensor([[0, 1, 2, 3, 6], [0, 2, 4, 6, 0]])
    valid = torch.tensor([[True] * 5, [True, True, True, True, False]])
    return Tokens(valid, slots, valid, S, 11)


def ggsm(**changes) -> GGSM:
    values = {"recipe": "ggsm", "total_steps": 10, "warmup_share": 0.4, "smoothing": 0.0, "calibration": "none"}
    values["row_scale"] = "kept"
    return GGSMConfig(**{**values, **changes}).build()


def gradients(seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(B, L, D)) * scale)


def mean_norm_per_slot(grad_BLD: torch.Tensor, t: Tokens) -> dict[int, float]:
    sums: dict[int, list[float]] = {}
    for b in range(B):
        for j in range(L):
            if t.valid_BL[b, j]:
                norm = math.sqrt(sum(float(x) ** 2 for x in grad_BLD[b, j]))
                sums.setdefault(int(t.slot_BL[b, j]), []).append(norm)
    return {slot: sum(norms) / len(norms) for slot, norms in sums.items()}


def step(recipe: GGSM, grad_BLD: torch.Tensor, t: int) -> None:
    recipe.observe(grad_BLD, tokens(), t)
    recipe.end_step(lambda tensor: tensor)


def test_causal_and_bidirectional_never_change() -> None:
    for config, value in ((CausalConfig(recipe="causal"), 0.0), (BidirectionalConfig(recipe="bidirectional"), 1.0)):
        recipe = config.build()
        for t in (0, 3, 10**6):
            assert (recipe.future_weight(tokens(), t) == value).all()
        assert (recipe.inference_weight(tokens()) == value).all()


def test_scheduler_is_causal_at_the_start_and_bidirectional_at_the_end_exactly() -> None:
    recipe = SchedulerConfig(recipe="scheduler", total_steps=8).build()
    for t, expected in ((0, 0.0), (2, 0.25), (8, 1.0), (9, 1.0)):
        assert (recipe.future_weight(tokens(), t) == expected).all()
    assert (recipe.inference_weight(tokens()) == 1).all()


def test_total_steps_come_from_the_run_unless_the_config_gives_them() -> None:
    assert with_total_steps(SchedulerConfig(recipe="scheduler"), 70).total_steps == 70
    assert with_total_steps(SchedulerConfig(recipe="scheduler", total_steps=9), 70).total_steps == 9
    with pytest.raises(ValueError, match="total_steps"):
        SchedulerConfig(recipe="scheduler").build()


def test_ggsm_follows_equation_5_through_warm_up_boundary_ramp_and_end() -> None:
    recipe = ggsm()  # T_warm = 4, T_total = 10
    t_ = tokens()
    assert torch.allclose(recipe.future_weight(t_, 0), torch.full((B, L), 0.5))
    last: dict[int, float] = {}
    for t in range(10):
        alpha = 0.0 if t < 4 else (t - 4) / 6
        weight = recipe.future_weight(t_, t)
        for b in range(B):
            for j in range(L):
                if t_.valid_BL[b, j]:
                    soft = 1 / (1 + math.exp(-last.get(int(t_.slot_BL[b, j]), 0.0)))
                    assert weight[b, j].item() == pytest.approx((1 - alpha) * soft + alpha, abs=1e-6)
        step(recipe, gradients(t), t)
        if t <= 3:  # the gradients of step T_warm - 1 are the last that count
            last = mean_norm_per_slot(gradients(t), t_)
    assert (recipe.future_weight(t_, 10) == 1).all()
    assert (recipe.inference_weight(t_) == 1).all()


def test_importance_is_the_mean_over_valid_tokens_however_the_batch_is_cut() -> None:
    whole, cut = ggsm(), ggsm()
    t_ = tokens()
    step(whole, gradients(5), 0)
    for b in range(B):
        part = Tokens(t_.valid_BL[b : b + 1], t_.slot_BL[b : b + 1], t_.history_BL[b : b + 1], S, 11)
        cut.observe(gradients(5)[b : b + 1], part, 0)
    cut.end_step(lambda tensor: tensor)
    assert torch.allclose(whole.importance_S, cut.importance_S, rtol=1e-6)
    for slot, value in mean_norm_per_slot(gradients(5), t_).items():
        assert whole.importance_S[slot].item() == pytest.approx(value, rel=1e-5)


def test_workers_that_see_different_tokens_end_with_the_mean_over_all_of_them() -> None:
    t_ = tokens()
    together = ggsm()
    together.observe(gradients(1), t_, 0)
    together.observe(gradients(2), t_, 0)
    together.end_step(lambda tensor: tensor)
    other = ggsm()
    other.observe(gradients(2), t_, 0)
    sums: list[torch.Tensor] = []
    other.end_step(lambda tensor: sums.append(tensor.clone()) or tensor)
    one = ggsm()
    one.observe(gradients(1), t_, 0)
    one.end_step(lambda tensor: tensor + sums[0])
    assert torch.allclose(one.importance_S, together.importance_S)


def test_published_form_is_flat_and_zscore_is_not() -> None:
    """Norms as small as those of a real model: sigma of the raw norm is 0.5, its z-score is spread."""
    literal, calibrated = ggsm(), ggsm(calibration="zscore")
    for recipe in (literal, calibrated):
        step(recipe, gradients(0, scale=1e-3), 0)
    valid = tokens().valid_BL
    flat = literal.future_weight(tokens(), 1)[valid]
    spread = calibrated.future_weight(tokens(), 1)[valid]
    assert (flat - 0.5).abs().max() < 0.01
    assert spread.max() - spread.min() > 0.2
    assert ((spread > 0) & (spread < 1)).all()


def test_slots_may_be_positions() -> None:
    recipe = ggsm(slot="position")
    step(recipe, gradients(3), 0)
    first = (gradients(3)[0, 0].norm() + gradients(3)[1, 0].norm()) / 2
    assert recipe.importance_S.shape == (11,)
    assert recipe.importance_S[0].item() == pytest.approx(first.item(), rel=1e-5)


def test_state_survives_storage() -> None:
    recipe, restored = ggsm(calibration="zscore"), ggsm(calibration="zscore")
    step(recipe, gradients(4), 0)
    restored.load_state_dict(recipe.state_dict())
    assert torch.equal(recipe.future_weight(tokens(), 2), restored.future_weight(tokens(), 2))


def test_prefix_opens_the_user_segment_and_nothing_after_it() -> None:
    history = torch.tensor([[True, True, True, False, False], [True, True, False, False, False]])
    t_ = Tokens(tokens().valid_BL, tokens().slot_BL, history, S, 11)
    weight = PrefixConfig(recipe="prefix").build().future_weight(t_, 3)
    for b in range(B):
        for i in range(L):
            for j in range(i + 1, L):
                # a later key is open only inside the user segment, and then the query is inside it, too
                assert weight[b, j].item() == float(history[b, j])
                assert not history[b, j] or history[b, i]


def test_constant_is_ggsm_without_gradients() -> None:
    recipe = ConstantConfig(recipe="constant", total_steps=10, warmup_share=0.4).build()
    for t in range(12):
        alpha = min(max((t - 4) / 6, 0), 1)
        assert recipe.future_weight(tokens(), t)[0, 0].item() == pytest.approx(0.5 * (1 - alpha) + alpha)
    assert (recipe.inference_weight(tokens()) == 1).all()


def test_cosine_schedule() -> None:
    recipe = SchedulerConfig(recipe="scheduler", total_steps=8, shape="cosine").build()
    for t in range(10):
        expected = (1 - math.cos(math.pi * min(t / 8, 1))) / 2
        assert recipe.future_weight(tokens(), t)[1, 2].item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("shape", ["window", "cosine_window"])
def test_window_grows_with_the_row(shape) -> None:
    """min(i + Delta(t), L) with Delta(t) = alpha(t) L, which rises linearly or as a cosine (Appendix A.4 b)."""
    recipe = SchedulerConfig(recipe="scheduler", total_steps=8, shape=shape).build()
    for t in range(10):
        share = min(t / 8, 1)
        alpha = share if shape == "window" else (1 - math.cos(math.pi * share)) / 2
        assert recipe.alpha(t) == pytest.approx(alpha)
        weight = recipe.future_weight(tokens(), t)
        for b, length in enumerate((5, 4)):
            for i in range(length):
                for j in range(i + 1, length):
                    assert weight[b, i, j].item() == float(j - i <= math.floor(round(alpha * length, 6)))


def test_hybrid_mask_keeps_its_soft_mask_for_inference() -> None:
    config = HybridMaskConfig(recipe="hybrid_mask", total_steps=10, smoothing=0.0, calibration="none", row_scale="kept")
    recipe = config.build()
    t_ = tokens()
    for t in range(10):
        assert recipe.wants_gradients(t)
        step(recipe, gradients(t), t)
    means = mean_norm_per_slot(gradients(9), t_)
    weight = recipe.inference_weight(t_)
    assert torch.equal(weight, recipe.future_weight(t_, 10))
    for b in range(B):
        for j in range(L):
            if t_.valid_BL[b, j]:
                soft = 1 / (1 + math.exp(-means[int(t_.slot_BL[b, j])]))
                assert weight[b, j].item() == pytest.approx(soft, abs=1e-6)


def test_ramp_in_fades_from_causal_to_the_soft_mask() -> None:
    recipe, literal = ggsm(start="ramp"), ggsm()
    for t in range(4):
        assert torch.allclose(recipe.future_weight(tokens(), t), t / 4 * literal.future_weight(tokens(), t))
        step(recipe, gradients(t), t)
        step(literal, gradients(t), t)
    for t in (4, 7, 10):
        assert torch.equal(recipe.future_weight(tokens(), t), literal.future_weight(tokens(), t))


@pytest.mark.parametrize("row_scale", ["kept", "removed"])
def test_what_opening_is_worth_against_a_loop(row_scale) -> None:
    """Minus the gradient at log w, mean per slot. Without its row's scale: over the row's absolute values in sum, which
    are relative to those of its slots in sum; both follow from each other."""
    recipe, t_ = ggsm(grad_site="mask", row_scale=row_scale), tokens()
    grad = np.random.default_rng(8).normal(size=(B, L))
    step(recipe, torch.from_numpy(grad), 0)
    there = {b: [j for j in range(L) if t_.valid_BL[b, j]] for b in range(B)}
    slots = {int(t_.slot_BL[b, j]) for b in range(B) for j in there[b]}
    size, scale = dict.fromkeys(slots, 1.0), dict.fromkeys(range(B), 1.0)

    def means(value: Callable[[float, int], float]) -> dict[int, float]:
        found: dict[int, list[float]] = {slot: [] for slot in slots}
        for b in range(B):
            for j in there[b]:
                found[int(t_.slot_BL[b, j])].append(value(grad[b, j], b))
        return {slot: sum(values) / len(values) for slot, values in found.items()}

    for _ in range(11 if row_scale == "removed" else 0):
        for b in range(B):
            scale[b] = sum(abs(grad[b, j]) for j in there[b]) / sum(size[int(t_.slot_BL[b, j])] for j in there[b])
        size = means(lambda g, b: abs(g) / scale[b])
    expected = means(lambda g, b: -g / scale[b])
    for slot in slots:
        assert recipe.importance_S[slot].item() == pytest.approx(expected[slot], rel=1e-4)
    assert recipe.seen_S.nonzero().flatten().tolist() == sorted(slots)


def test_important_slots_are_ramped_first() -> None:
    recipe, together = ggsm(ramp="by_importance"), ggsm()
    for t in range(4):
        assert torch.equal(recipe.future_weight(tokens(), t), together.future_weight(tokens(), t))
        for each in (recipe, together):
            step(each, gradients(t), t)
    assert torch.equal(recipe.future_weight(tokens(), 4), together.future_weight(tokens(), 4))  # the ramp begins
    seen = recipe.seen_S.nonzero().flatten().tolist()
    by_importance = sorted(seen, key=lambda slot: -recipe.importance_S[slot].item())
    for t in (5, 6, 7, 8, 9):
        weight, soft = recipe.future_weight(tokens(), t), recipe.future_weight(tokens(), 4)
        for b in range(B):
            for j in range(L):
                if tokens().valid_BL[b, j]:
                    place = by_importance.index(int(tokens().slot_BL[b, j])) / (len(seen) - 1)
                    alpha = min(max(2 * (t - 4) / 6 - place, 0.0), 1.0)
                    expected = (1 - alpha) * soft[b, j].item() + alpha
                    assert weight[b, j].item() == pytest.approx(expected, abs=1e-6)
    assert (recipe.future_weight(tokens(), 10) == 1).all()


def test_a_slot_that_no_gradient_has_reached_is_ramped_in_the_middle() -> None:
    recipe = ggsm(ramp="by_importance")
    step(recipe, gradients(0), 0)
    recipe.seen_S[int(tokens().slot_BL[0, 1])] = False
    for t in (5, 7, 9):
        alpha = min(max(2 * (t - 4) / 6 - 0.5, 0.0), 1.0)
        soft = 1 / (1 + math.exp(-recipe.importance_S[int(tokens().slot_BL[0, 1])].item()))
        assert recipe.future_weight(tokens(), t)[0, 1].item() == pytest.approx((1 - alpha) * soft + alpha, abs=1e-6)


def test_calibrations_order_slots_alike() -> None:
    order = []
    for calibration in ("none", "zscore", "rank"):
        recipe = ggsm(calibration=calibration)
        step(recipe, gradients(6), 0)
        order.append(
            torch.sigmoid(calibrated(recipe.importance_S, recipe.seen_S, calibration))[recipe.seen_S].argsort()
        )
    assert torch.equal(order[0], order[1])
    assert torch.equal(order[0], order[2])
    ranked = recipe.future_weight(tokens(), 1)[tokens().valid_BL]
    assert 0 < ranked.min() < 0.25
    assert 0.75 < ranked.max() < 1


def test_grad_sites_are_checked() -> None:
    for site in ("input", "last", "mean_layers", "layer:1", "layer:12", "mask"):
        assert ggsm(grad_site=site).grad_site == site
    for site in ("layer:0", "layer", "inputs", "layer:-1"):
        with pytest.raises(ValueError, match="expected last, input, mean_layers"):
            ggsm(grad_site=site)


def test_learned_mask_against_a_loop_over_pairs() -> None:
    """sigmoid of a two-layer network of h_i, read at the power of two over j - i; closed outside history."""
    torch.manual_seed(3)
    recipe = HybridMLPConfig(recipe="hybrid_mlp", rank=2, buckets=3).build()
    learned_mask = recipe.learned_mask(D, 2)
    for parameter in learned_mask.parameters():
        torch.nn.init.normal_(parameter)
    history = tokens().valid_BL.clone()
    history[:, 3:] = False
    t_ = Tokens(tokens().valid_BL, tokens().slot_BL, history, S, 11)
    states = torch.randn(B, L, D)
    weight = learned_mask(1, states, recipe.future_weight(t_, 0))
    mlp = learned_mask.mlps[1]
    first, second = ({k: v.double().detach().numpy() for k, v in mlp[i].named_parameters()} for i in (0, 2))
    for b in range(B):
        for i in range(L):
            h = states[b, i].double().numpy()
            h = h / math.sqrt(float((h**2).mean()))
            inner = first["weight"] @ h + first["bias"]
            logits = second["weight"] @ (inner / (1 + np.exp(-inner))) + second["bias"]
            for j in range(i + 1, L):
                bucket = {1: 0, 2: 1, 3: 2, 4: 2}[j - i]
                expected = 1 / (1 + math.exp(-logits[bucket])) if history[b, j] else 0.0
                assert weight[b, i, j].item() == pytest.approx(expected, abs=1e-5)


def test_learned_mask_starts_nearly_causal() -> None:
    recipe = HybridMLPConfig(recipe="hybrid_mlp").build()
    weight = recipe.learned_mask(D, 1)(0, torch.randn(B, L, D), recipe.inference_weight(tokens()))
    assert weight.max().item() == pytest.approx(1 / (1 + math.exp(3)), abs=1e-6)


def test_the_union_has_every_recipe() -> None:
    names = {"oracle", "causal", "prefix", "hybrid_mask", "hybrid_mlp", "hybrid_gq", "bidirectional", "scheduler"}
    names |= {"constant", "ggsm"}
    assert set(TypeAdapter(MaskConfig).json_schema()["discriminator"]["mapping"]) == names


@settings(max_examples=60, deadline=None)
@given(
    recipe=st.sampled_from(["oracle", "causal", "prefix", "hybrid_mask", "hybrid_mlp", "hybrid_gq", "bidirectional",
                            "scheduler", "constant", "ggsm"]),
    calibration=st.sampled_from(["none", "zscore", "rank"]),
    slot=st.sampled_from(["position", "modality_rank"]),
    grad_site=st.sampled_from(["input", "mask"]),
    ramp=st.sampled_from(["together", "by_importance"]),
    row_scale=st.sampled_from(["kept", "removed"]),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e6, 1e15]),
    steps=st.integers(1, 9),
)  # fmt: skip
def test_a_weight_never_leaves_zero_to_one(recipe, calibration, slot, grad_site, ramp, row_scale, scale, steps) -> None:
    values: dict = {"recipe": recipe}
    if recipe in ("scheduler", "constant", "ggsm", "hybrid_mask"):
        values["total_steps"] = 7
    if recipe in ("ggsm", "hybrid_mask"):
        values |= {
            "calibration": calibration,
            "slot": slot,
            "grad_site": grad_site,
            "row_scale": "kept" if calibration == "none" else row_scale,
        }
    if recipe == "ggsm":
        values["ramp"] = ramp
    built = TypeAdapter(MaskConfig).validate_python(values).build()
    for t in range(steps):
        for weight in (built.future_weight(tokens(), t), built.inference_weight(tokens())):
            assert ((weight >= 0) & (weight <= 1)).all()  # also refuses NaN
        gradient = gradients(t, scale)
        built.observe(gradient[..., 0] if built.grad_site == "mask" else gradient, tokens(), t)
        built.end_step(lambda tensor: tensor)
