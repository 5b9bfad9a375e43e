"""One attention function for every decoder: how far each layer sees is an argument, not part of the model.

It is registered with transformers' attention interface, so no model class is copied or patched: a decoder set to it
hands over its queries, keys and values, and makes no mask of its own. Backends: `sdpa` (torch's fused kernels with an
additive bias), `flex` (FlexAttention, for CUDA: a score modifier from the weights and a block mask for padding, no
L x L tensor; unverified on CUDA) and `eager` (matrix products). `sdpa` and `eager` use no mask
where the weights allow. Only `eager` has the attention shares in its hands, so only there they can be watched.

Legend: B rows, H heads, G heads of keys and values, L tokens, M = L H / G stacked queries, d width of a head.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from ray_ggsm.config import InputError
from ray_ggsm.masks import attention_bias

NAME = "ray_ggsm"
Backend = Literal["sdpa", "flex", "eager"]
Watch = Callable[[int, Tensor, Tensor], None]
"""Gets a layer's index, its attention shares (B, H, L, L), which sum to 1 over keys, and its bias (B, 1, L, L)."""


class Visibility:
    """What every layer of one forward pass needs to know."""

    def __init__(
        self, weight: Tensor, valid_BL: Tensor, dtype: torch.dtype, backend: Backend, watch: Watch | None = None
    ) -> None:
        """`weight` as in `ray_ggsm.masks.attention_bias`; `dtype` of the attention logits; `watch` needs `eager`."""
        assert watch is None or backend == "eager", "fused kernels do not tell the shares"
        self.weight, self.valid_BL, self.dtype, self.backend, self.watch = weight, valid_BL, dtype, backend, watch
        self._masks: dict[int | None, Any] = {}

    def with_weight(self, weight: Tensor) -> "Visibility":
        """The same with another weight, for one layer."""
        return Visibility(weight, self.valid_BL, self.dtype, self.backend, self.watch)

    @cached_property
    def plain(self) -> Literal["causal", "open"] | None:
        """`causal` or `open` when no mask is needed: no padding, and all weights are 0, or all are 1."""
        if self.weight.requires_grad or not self.valid_BL.all():
            return None
        if (self.weight == 0).all():
            return "causal"
        return "open" if (self.weight == 1).all() else None

    def bias(self, window: int | None) -> Tensor:
        """The additive bias (B, 1, L, L) of layers that see `window` tokens to either side (None: all)."""
        if window not in self._masks:
            bias_B1LL = attention_bias(self.weight, self.valid_BL, self.dtype)
            if window is not None:
                bias_B1LL = bias_B1LL.masked_fill(self._far_LL(window), -torch.inf)
            self._masks[window] = bias_B1LL
        mask: Tensor = self._masks[window]
        return mask

    def blocks(self, window: int | None) -> BlockMask:
        """FlexAttention's mask: padding, closed future keys, and the window."""
        if window not in self._masks:
            valid_BL, open_ = self.valid_BL, self.weight > 0

            def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                ahead = open_[b, k] if open_.dim() == 2 else open_[b, q, k]
                seen = valid_BL[b, k] & ((k <= q) | ahead)
                if window is not None:
                    seen = seen & ((q - k).abs() < window)
                return torch.where(valid_BL[b, q], seen, q == k)

            B, L = valid_BL.shape
            self._masks[window] = create_block_mask(visible, B, None, L, L, device=valid_BL.device.type)
        mask: BlockMask = self._masks[window]
        return mask

    @cached_property
    def log_weight(self) -> Tensor:
        """log w, with 0 where the key is closed (the block mask hides it)."""
        return torch.log(torch.where(self.weight > 0, self.weight.float(), 1.0))

    def _far_LL(self, window: int) -> Tensor:
        position_L = torch.arange(self.valid_BL.shape[1], device=self.valid_BL.device)
        return (position_L[:, None] - position_L[None, :]).abs() >= window


def attend(
    module: nn.Module,
    query_BHLd: Tensor,
    key_BHLd: Tensor,
    value_BHLd: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    visibility: Visibility | None = None,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it; returns (B, L, H, d). `visibility` comes through the model's keywords."""
    assert visibility is not None, "a backbone that is set to this attention is called with visibility=..."
    if ignored.get("softcap") is not None:
        raise InputError("the backbone caps its attention logits, which this attention does not do; choose another one")
    L = query_BHLd.shape[2]
    window = sliding_window if sliding_window is not None and sliding_window < L else None
    arguments = query_BHLd, key_BHLd, value_BHLd
    plain = visibility.plain if window is None else None
    if visibility.backend == "sdpa":
        out_BHLd = scaled_dot_product_attention(
            *arguments,
            attn_mask=None if plain else visibility.bias(window),
            dropout_p=dropout,
            is_causal=plain == "causal",
            scale=scaling,
            enable_gqa=True,
        )
    elif visibility.backend == "flex":
        out_BHLd = _flex(arguments, visibility, window, scaling, dropout)
    else:
        share_BGML = _shares(arguments, None if plain == "open" else visibility.bias(window), scaling)
        if visibility.watch is not None:
            layer: Any = module.layer_idx
            visibility.watch(layer, share_BGML.view(*query_BHLd.shape[:3], L), visibility.bias(window))
        out_BHLd = (nn.functional.dropout(share_BGML, dropout) @ value_BHLd).view(query_BHLd.shape)
    return out_BHLd.transpose(1, 2).contiguous(), None


def open_backbone(model: "transformers.PreTrainedModel", name: str) -> None:
    """Set a decoder to this attention, and check that its first state then depends on its last token.

    Raises:
        InputError: it does not, so every bidirectional mask would be silently causal.
    """
    refusal = f"model '{name}' ({type(model).__name__}): its attention cannot be opened to the future"
    transformers.AttentionInterface.register(NAME, attend)
    try:
        model.set_attn_implementation(NAME)
    except ValueError as error:
        raise InputError(f"{refusal}: {' '.join(str(error).split())[:200]}") from error
    width = model.get_input_embeddings().weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    inputs_2LD = torch.randn(1, 3, width, generator=generator).repeat(2, 1, 1)
    inputs_2LD[1, 2] = torch.randn(width, generator=generator)
    valid_2L = torch.ones(2, 3, dtype=torch.bool)
    inputs_2LD = inputs_2LD.to(model.dtype)
    first = []
    for weight in (0.0, 1.0):
        visibility = Visibility(torch.full((2, 3), weight), valid_2L, model.dtype, "sdpa")
        with torch.no_grad():
            states = model.eval()(inputs_embeds=inputs_2LD, use_cache=False, visibility=visibility).last_hidden_state
        first.append(torch.equal(states[0, 0], states[1, 0]))
    if first != [True, False]:
        raise InputError(f"{refusal}; choose a decoder that uses transformers' attention interface")


def _flex(
    arguments: tuple[Tensor, Tensor, Tensor], visibility: Visibility, window: int | None, scale: float | None, p: float
) -> Tensor:
    if p > 0:
        raise InputError("attention dropout is not available with model.attention: flex; use sdpa")
    log_weight = visibility.log_weight

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        future = log_weight[b, k] if log_weight.dim() == 2 else log_weight[b, q, k]
        return torch.where(k > q, score + future, score)

    function = torch.compile(flex_attention, dynamic=True) if arguments[0].is_cuda else flex_attention
    result: Tensor = function(
        *arguments, score_mod=score_mod, block_mask=visibility.blocks(window), scale=scale, enable_gqa=True
    )
    return result


def _shares(arguments: tuple[Tensor, Tensor, Tensor], bias_B1LL: Tensor | None, scale: float | None) -> Tensor:
    """Attention shares (B, G, M, L)."""
    query_BHLd, key_BGLd, _ = arguments
    B, H, _, d = query_BHLd.shape
    G = key_BGLd.shape[1]  # heads of keys and values: the queries of a group are stacked, not the keys copied
    stacked_BGMd = (query_BHLd * (d**-0.5 if scale is None else scale)).reshape(B, G, -1, d)
    logits_BGML = stacked_BGMd @ key_BGLd.transpose(-1, -2)
    if bias_B1LL is not None:  # in place, and not into a view, whose backward pass would copy the largest tensor
        logits_BGML.add_(bias_B1LL.repeat(1, 1, H // G, 1))
    return torch.softmax(logits_BGML, dim=-1)
