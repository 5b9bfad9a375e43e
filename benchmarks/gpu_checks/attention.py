"""Attention backends on the device, one call at a time, against the formula in float64 on the CPU.

Legend: B rows, H heads, G heads of keys and values, L tokens, d width of a head.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from gpu_checks.report import Check, Number, SkippedError
from gpu_checks.setting import CPU, Attention, Setting
from ray_ggsm.model.attention import Visibility, attend

B, H, G, d = 3, 4, 2, 16
SCALE = 0.3
KINDS = {
    torch.float32: ("causal", "open", "soft", "padded", "per pair"),
    torch.bfloat16: ("soft", "padded", "per pair"),
}
WINDOW = 20
BACKENDS: tuple[Attention, ...] = ("eager", "sdpa", "flex")
LIMITS = {torch.float32: 2e-5, torch.bfloat16: 0.05}
"""Greatest difference; outputs are means of numbers like 1."""
GRADIENT_LIMIT = 1e-4
"""Greatest difference over the greatest element of the gradient."""


@dataclass(frozen=True)
class Case:
    """One call's arguments, on the CPU in float32."""

    query_BHLd: Tensor
    key_BGLd: Tensor
    value_BGLd: Tensor
    weight: Tensor
    valid_BL: Tensor


def checks(setting: Setting) -> Iterator[Check]:
    """Outputs per backend and dtype, gradients per backend, and the kernels that sdpa has."""
    for backend in BACKENDS:
        for dtype in LIMITS:
            name = str(dtype).removeprefix("torch.")
            claim = f"attention, {backend}, {name}: {', '.join(KINDS[dtype])}; with and without a sliding window"
            yield Check(claim, partial(_outputs, setting, backend, dtype))
    for backend in BACKENDS:
        claim = f"attention, {backend}, float32: gradients of queries, keys, values and a learned mask"
        yield Check(claim, partial(_gradients, setting, backend))
    yield Check("kernels of sdpa that take a soft mask and grouped heads (1: yes)", partial(_kernels, setting))


def case(kind: str, L: int) -> Case:
    """Random arguments under a kind of mask."""
    generator = torch.Generator().manual_seed(7)
    query, key, value = (torch.randn(B, heads, L, d, generator=generator) for heads in (H, G, G))
    valid_BL = torch.ones(B, L, dtype=torch.bool)
    weight_BL, weight_BLL = torch.rand(B, L, generator=generator), torch.rand(B, L, L, generator=generator)
    if kind == "padded":
        valid_BL[1, L // 3 :] = False
        valid_BL[2, L - 2 :] = False
        weight_BL[:, L // 5] = 0
    fixed = {"causal": torch.zeros(B, L), "open": torch.ones(B, L), "per pair": weight_BLL}
    return Case(query, key, value, fixed.get(kind, weight_BL), valid_BL)


def formula(given: Case, weight: Tensor, window: int | None) -> Tensor:
    """Attention in the dtype of the queries, (B, L, H, d): the share of a key is proportional to w exp(q k)."""
    query, key, value = given.query_BHLd, given.key_BGLd, given.value_BGLd
    key, value = (x.repeat_interleave(H // G, dim=1) for x in (key, value))
    L = query.shape[2]
    ahead_LL = torch.arange(L)[None, :] - torch.arange(L)[:, None]
    w_BLL = weight[:, None, :].expand(B, L, L) if weight.dim() == 2 else weight
    w_BLL = torch.where(ahead_LL <= 0, 1.0, w_BLL.to(query.dtype)) * given.valid_BL[:, None, :]
    if window is not None:
        w_BLL = w_BLL * (ahead_LL.abs() < window)
    w_BLL = torch.where(given.valid_BL[:, :, None], w_BLL, torch.eye(L, dtype=query.dtype))
    log_BLL = torch.where(w_BLL > 0, w_BLL, 1.0).log().masked_fill(w_BLL <= 0, -torch.inf)
    shares = torch.softmax(query @ key.transpose(2, 3) * SCALE + log_BLL[:, None], dim=-1)
    return (shares @ value).transpose(1, 2)


def attended(given: Case, backend: Attention, window: int | None) -> Tensor:
    """What the backend gives, (B, L, H, d)."""
    visibility = Visibility(given.weight, given.valid_BL, given.query_BHLd.dtype, backend)
    arguments = given.query_BHLd, given.key_BGLd, given.value_BGLd
    module = nn.Module()
    return attend(module, *arguments, None, scaling=SCALE, sliding_window=window, visibility=visibility)[0]


def _to(given: Case, device: torch.device, dtype: torch.dtype) -> Case:
    inputs = (x.to(device, dtype) for x in (given.query_BHLd, given.key_BGLd, given.value_BGLd))
    return Case(*inputs, given.weight.to(device), given.valid_BL.to(device))


@torch.no_grad()
def _outputs(setting: Setting, backend: Attention, dtype: torch.dtype) -> list[Number]:
    worst, where = -1.0, ""
    for kind in KINDS[dtype]:
        for window in (None, WINDOW):
            given = case(kind, setting.sizes.attention_tokens)
            found = attended(_to(given, setting.device, dtype), backend, window).cpu()
            expected = formula(_to(given, CPU, torch.float64), given.weight, window)
            difference = (found.double() - expected)[given.valid_BL].abs().max().item()
            if not difference <= worst:  # NaN counts as the worst
                worst, where = difference, f"{kind}{', window' if window else ''}"
    return [Number(f"greatest difference ({where})", worst, at_most=LIMITS[dtype])]


def _gradients(setting: Setting, backend: Attention) -> list[Number]:
    if backend == "flex" and not setting.cuda:
        raise SkippedError("FlexAttention has no backward pass on the CPU")
    given = case("per pair", setting.sizes.attention_tokens)
    target = torch.randn(B, setting.sizes.attention_tokens, H, d, generator=torch.Generator().manual_seed(8))

    def gradients(case_: Case, weight: Tensor, run: partial) -> list[Tensor]:
        inputs = [case_.query_BHLd, case_.key_BGLd, case_.value_BGLd, weight]
        out = run(*(x.requires_grad_() for x in inputs))
        return list(torch.autograd.grad((out * target.to(out)).sum(), inputs))

    def ours(query: Tensor, key: Tensor, value: Tensor, weight: Tensor) -> Tensor:
        return attended(Case(query, key, value, weight, there.valid_BL), backend, None)

    def theirs(query: Tensor, key: Tensor, value: Tensor, weight: Tensor) -> Tensor:
        return formula(Case(query, key, value, weight, given.valid_BL), weight, None)

    there, exact = _to(given, setting.device, torch.float32), _to(given, CPU, torch.float64)
    found = gradients(there, there.weight.clone(), ours)
    expected = gradients(exact, given.weight.double(), theirs)
    return [
        Number(name, ((a.cpu().double() - b).abs().max() / b.abs().max()).item(), at_most=GRADIENT_LIMIT)
        for name, a, b in zip(("queries", "keys", "values", "mask"), found, expected, strict=True)
    ]


@torch.no_grad()
def _kernels(setting: Setting) -> list[Number]:
    given = _to(case("soft", setting.sizes.attention_tokens), setting.device, torch.bfloat16)
    bias = Visibility(given.weight, given.valid_BL, torch.bfloat16, "sdpa").bias(None)
    numbers = []
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        with sdpa_kernel(kernel), warnings.catch_warnings(action="ignore"):
            try:
                scaled_dot_product_attention(
                    given.query_BHLd, given.key_BGLd, given.value_BGLd, attn_mask=bias, enable_gqa=True
                )
            except RuntimeError:
                takes = 0.0
            else:
                takes = 1.0
        numbers.append(Number(kernel.name.lower(), takes))
    return numbers
