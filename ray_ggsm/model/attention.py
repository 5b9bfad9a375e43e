"""One attention function for every decoder: how far a layer sees is an argument, not part of the model.

The function is registered with transformers' attention interface, so no model class is copied or patched: a decoder set
to it passes its queries, keys and values, and builds no mask. It has three backends:

    sdpa   torch's fused kernels with an additive bias; no mask where the weights allow that
    flex   FlexAttention, for CUDA: a score modifier from the weights and a block mask for padding, without any L x L
           tensor; unverified on CUDA
    eager  matrix products, the only backend whose attention shares can be watched; no mask where all weights are 1

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
from ray_ggsm.model.config import Backend
from ray_ggsm.model.global_query import GlobalQuery

Arguments = tuple[Tensor, Tensor, Tensor]
"""Queries (B, H, L, d), keys and values (B, G, L, d)."""
NAME = "ray_ggsm"
"""The function's name in transformers' attention interface."""
Watch = Callable[[int, Tensor, Tensor], None]
"""Gets a layer's index, its attention shares (B, H, L, L), which sum to 1 over keys, and its bias (B, 1, L, L)."""


class Visibility:
    """How far the layers of one forward pass see, with the masks that follow from it."""

    def __init__(
        self,
        weight: Tensor,
        valid_BL: Tensor,
        dtype: torch.dtype,
        backend: Backend,
        watch: Watch | None = None,
        asked: GlobalQuery | None = None,
        apart_BLL: Tensor | None = None,
    ) -> None:
        """Masks are built when a layer first needs them.

        Args:
            weight: visibility of future keys, as in `ray_ggsm.masks.attention_bias`.
            valid_BL: bool, True for real tokens.
            dtype: type of the attention logits.
            backend: implementation of attention.
            watch: gets each layer's attention shares; needs `eager`.
            asked: gets the attention of one query per row.
            apart_BLL: bool, keys (j) that a query (i) never sees; None: there are none.
        """
        assert watch is None or backend == "eager", "fused kernels do not give the shares"
        self.weight, self.valid_BL, self.dtype, self.backend, self.watch = weight, valid_BL, dtype, backend, watch
        self.asked, self.apart_BLL = asked, apart_BLL
        self._biases: dict[int | None, Tensor] = {}
        self._blocks: dict[int | None, BlockMask] = {}
        self._log_weight: Tensor | None = None

    def with_weight(self, weight: Tensor) -> "Visibility":
        """A copy with another weight, for one layer."""
        return Visibility(weight, self.valid_BL, self.dtype, self.backend, self.watch, self.asked, self.apart_BLL)

    @cached_property
    def plain(self) -> Literal["causal", "open"] | None:
        """`causal` (all weights are 0) or `open` (all are 1) if a batch without padding needs no mask, else None."""
        if torch.compiler.is_exporting():  # a graph is for all batches
            return None
        if self.weight.requires_grad or self.apart_BLL is not None or not self.valid_BL.all():
            return None
        if (self.weight == 0).all():
            return "causal"
        return "open" if (self.weight == 1).all() else None

    def bias(self, window: int | None) -> Tensor:
        """The additive bias (B, 1, L, L) of layers that see less than `window` tokens to either side (None: all)."""
        if window not in self._biases or self.weight.requires_grad:  # a graph belongs to one run of the layer
            bias_B1LL = attention_bias(self.weight, self.valid_BL, self.dtype)
            if window is not None:
                bias_B1LL = bias_B1LL.masked_fill(self._far_LL(window), -torch.inf)
            if self.apart_BLL is not None:
                bias_B1LL = bias_B1LL.masked_fill((self.apart_BLL & self.valid_BL[:, :, None])[:, None], -torch.inf)
            self._biases[window] = bias_B1LL
        return self._biases[window]

    def blocks(self, window: int | None) -> BlockMask:
        """FlexAttention's mask, which hides padding, closed future keys, and keys outside the window."""
        if window not in self._blocks:
            valid_BL, open_, apart_BLL = self.valid_BL, self.weight > 0, self.apart_BLL

            def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                ahead = open_[b, k] if open_.dim() == 2 else open_[b, q, k]
                seen = valid_BL[b, k] & ((k <= q) | ahead)
                if window is not None:
                    seen = seen & ((q - k).abs() < window)
                if apart_BLL is not None:
                    seen = seen & ~apart_BLL[b, q, k]
                return torch.where(valid_BL[b, q], seen, q == k)

            B, L = valid_BL.shape
            self._blocks[window] = create_block_mask(visible, B, None, L, L, device=valid_BL.device.type)
        return self._blocks[window]

    @property
    def log_weight(self) -> Tensor:
        """log w in float32, shape as `weight`; 0 for closed keys, which the block mask hides."""
        if self._log_weight is None or self.weight.requires_grad:  # as in `bias`
            self._log_weight = torch.log(torch.where(self.weight > 0, self.weight.float(), 1.0))
        return self._log_weight

    def _far_LL(self, window: int) -> Tensor:
        position_L = torch.arange(self.valid_BL.shape[1], device=self.valid_BL.device)
        return (position_L[:, None] - position_L[None, :]).abs() >= window


def attend(
    module: nn.Module,
    query_BHLd: Tensor,
    key_BGLd: Tensor,
    value_BGLd: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    visibility: Visibility | None = None,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """Attention with the signature that transformers expects; returns (B, L, H, d).

    `visibility` is passed to the model as a keyword, and reaches every layer.

    Raises:
        InputError: the backbone caps its attention logits.
    """
    assert visibility is not None, "a backbone that is set to this attention is called with visibility=..."
    if ignored.get("softcap") is not None:
        raise InputError("the backbone caps its attention logits, which this attention cannot do; choose another one")
    window = sliding_window if sliding_window is not None and sliding_window < query_BHLd.shape[2] else None
    if visibility.asked is not None:
        visibility.asked.take(query_BHLd, key_BGLd, visibility.valid_BL, scaling)
    compute = {"sdpa": _sdpa, "flex": _flex, "eager": _eager}[visibility.backend]
    out_BHLd = compute(module, (query_BHLd, key_BGLd, value_BGLd), visibility, window, scaling, dropout)
    return out_BHLd.transpose(1, 2).contiguous(), None


def open_backbone(model: "transformers.PreTrainedModel", name: str) -> None:
    """Set a decoder to this attention, and check that its first state depends on its last token if the mask is open.

    Raises:
        InputError: the model is no decoder, or its first state does not depend on its last token: every bidirectional
            mask would be silently causal.
    """
    if model.config.is_encoder_decoder:
        raise InputError(
            f"model '{name}' ({type(model).__name__}): it is an encoder with a decoder; choose a decoder-only model"
        )
    refusal = f"model '{name}' ({type(model).__name__}): its attention cannot be opened to the future"
    transformers.AttentionInterface.register(NAME, attend)
    try:
        model.set_attn_implementation(NAME)
    except ValueError as error:
        raise InputError(f"{refusal}: {' '.join(str(error).split())[:200]}") from error
    if _sees_the_future(model, 0.0) or not _sees_the_future(model, 1.0):
        raise InputError(f"{refusal}; choose a decoder that uses transformers' attention interface")


def _sees_the_future(model: "transformers.PreTrainedModel", weight: float) -> bool:
    """Whether the first of three states depends on the last input, if all future keys have this weight."""
    width = model.get_input_embeddings().weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    inputs_2LD = torch.randn(1, 3, width, generator=generator).repeat(2, 1, 1)
    inputs_2LD[1, 2] = torch.randn(width, generator=generator)
    visibility = Visibility(torch.full((1, 3), weight), torch.ones(1, 3, dtype=torch.bool), model.dtype, "sdpa")
    with torch.no_grad():  # one at a time: rows of one batch can differ by rounding
        first, second = (
            model.eval()(
                inputs_embeds=inputs_1LD.to(model.dtype), use_cache=False, visibility=visibility
            ).last_hidden_state
            for inputs_1LD in inputs_2LD.split(1)
        )
    return not torch.equal(first[0, 0], second[0, 0])


def _sdpa(
    module: nn.Module, arguments: Arguments, visibility: Visibility, window: int | None, scale: float | None, p: float
) -> Tensor:
    plain = visibility.plain if window is None else None
    return scaled_dot_product_attention(
        *arguments,
        attn_mask=None if plain else visibility.bias(window),
        dropout_p=p,
        is_causal=plain == "causal",
        scale=scale,
        enable_gqa=True,
    )


def _flex(
    module: nn.Module, arguments: Arguments, visibility: Visibility, window: int | None, scale: float | None, p: float
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


def _eager(
    module: nn.Module, arguments: Arguments, visibility: Visibility, window: int | None, scale: float | None, p: float
) -> Tensor:
    query_BHLd, _, value_BGLd = arguments
    B, H, L, _ = query_BHLd.shape
    needs_bias = window is not None or visibility.plain != "open"
    share_BGML = _shares(arguments, visibility.bias(window) if needs_bias else None, scale)
    if visibility.watch is not None:
        layer: Any = module.layer_idx
        visibility.watch(layer, share_BGML.view(B, H, L, L), visibility.bias(window))
    return (nn.functional.dropout(share_BGML, p) @ value_BGLd).view(query_BHLd.shape)


def _shares(arguments: Arguments, bias_B1LL: Tensor | None, scale: float | None) -> Tensor:
    """Attention shares of each group of heads, (B, G, M, L)."""
    query_BHLd, key_BGLd, _ = arguments
    B, H, _, d = query_BHLd.shape
    G = key_BGLd.shape[1]  # the queries of a group are stacked, instead of copies of its keys
    stacked_BGMd = (query_BHLd * (d**-0.5 if scale is None else scale)).reshape(B, G, -1, d)
    logits_BGML = stacked_BGMd @ key_BGLd.transpose(-1, -2)
    if bias_B1LL is not None:  # in place, and not into a view: its backward pass would copy the largest tensor
        logits_BGML.add_(bias_B1LL.repeat(1, 1, H // G, 1))
    return torch.softmax(logits_BGML, dim=-1)
