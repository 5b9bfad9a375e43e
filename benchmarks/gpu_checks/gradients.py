"""A training step's gradients on the device with gradient caching, against the CPU with all graphs kept."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from gpu_checks.report import Check, Number, SkippedError
from gpu_checks.setting import CPU, Attention, Dtype, Setting, collator, like, reference
from ray_ggsm.masks import Tokens
from ray_ggsm.model.batch import Batch
from ray_ggsm.model.contract import Sequences, Tower
from ray_ggsm.model.observe import Observe
from ray_ggsm.model.saved import EncoderBundle
from ray_ggsm.training.answers import AnswerConfig, draw_answers
from ray_ggsm.training.loss import Objective, gathered, info_nce
from ray_ggsm.training.part import user_ids
from ray_ggsm.training.towers import Towers

LIMITS: dict[Dtype, tuple[float, float]] = {"float32": (1e-4, 1e-4), "bfloat16": (0.2, 0.05)}
"""Length of the difference over that of the gradient; difference of the loss."""
IMPORTANCE_LIMITS: dict[Dtype, float] = {"float32": 1e-4, "bfloat16": 0.1}
CASES: tuple[tuple[str, Attention, Dtype], ...] = (
    ("ggsm", "sdpa", "float32"),
    ("ggsm", "sdpa", "bfloat16"),
    ("hybrid_mlp", "sdpa", "float32"),
    ("ggsm", "flex", "float32"),
    ("ggsm, what opening is worth", "sdpa", "float32"),
    ("ggsm, what opening is worth", "flex", "float32"),
)


def checks(setting: Setting) -> Iterator[Check]:
    """One check per recipe, attention and dtype."""
    for name, attention, dtype in CASES:
        claim = f"gradients of a {name} step ({attention}, {dtype}, gradient caching) as on the CPU in float32"
        yield Check(claim, partial(_compare, setting, name, attention, dtype))


def _compare(setting: Setting, name: str, attention: Attention, dtype: Dtype) -> list[Number]:
    if attention == "flex" and not setting.cuda:
        raise SkippedError("FlexAttention has no backward pass on the CPU")
    known = reference(setting, name, step=1)
    most, loss_limit = LIMITS[dtype]
    with torch._dynamo.config.patch(recompile_limit=64):  # many shapes on purpose
        there = like(known, setting, attention, dtype, setting.device)
        loss, gradient, importance_S = _step(there, setting, setting.sizes.cut_tokens, 0)
    here = like(known, setting, "eager", "float32", CPU)
    expected_loss, expected, expected_S = _step(here, setting, 10**6, 10**9)
    distance = (gradient - expected).norm() / expected.norm()
    numbers = [
        Number("length of the difference over the gradient's", distance.item(), at_most=most),
        Number("difference of the loss", abs(loss - expected_loss), at_most=loss_limit),
    ]
    if importance_S is not None and expected_S is not None:
        difference = ((importance_S - expected_S).abs().max() / expected_S.abs().max()).item()
        numbers.append(Number("of the importance", difference, at_most=IMPORTANCE_LIMITS[dtype]))
    return numbers


def _step(
    bundle: EncoderBundle, setting: Setting, tokens: int, graph_tokens: int
) -> tuple[float, Tensor, Tensor | None]:
    """Loss, gradient of everything trained as one vector (float64, CPU), and GG-SM's importance after the step."""
    rows, recipe, losses = setting.rows(11, seed=2), bundle.recipe, []
    ids_b = user_ids(rows).to(bundle.encoder.device)

    def loss_of(user_bD: Tensor, answer_bD: Tensor) -> Tensor:
        # without masked negatives, where rounding would decide which are masked
        loss = info_nce(gathered(user_bD, answer_bD, ids_b, centre=True), Objective(temperature=0.05, margin=2.0))
        losses.append(loss.item())
        return loss

    def observers(tokens: Tokens) -> Sequence[Observe]:
        if recipe.grad_site is None:
            return ()
        return [Observe(recipe.grad_site, partial(recipe.observe, tokens=tokens, step=bundle.step))]

    collate = collator(bundle)
    sequences: dict[Tower, Sequences[Batch]] = {
        "user": collate.user_sequences(rows), "answer": draw_answers(rows, collate, AnswerConfig(), 0).sequences
    }  # fmt: skip
    towers = Towers(bundle.encoder.train(), sequences, tokens, 0)
    towers.backward(lambda tokens: recipe.future_weight(tokens, bundle.step), loss_of, graph_tokens, observers)
    recipe.end_step(lambda sums: sums)
    gradients = [p.grad for _, p in sorted(bundle.encoder.trainable().items())]
    gradient = torch.cat([g.detach().cpu().double().flatten() for g in gradients if g is not None])
    return losses[0], gradient, recipe.state_dict().get("importance_S")
