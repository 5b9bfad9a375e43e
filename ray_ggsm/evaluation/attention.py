"""Where attention goes, per layer and head: to the future or the past, how far, and how widely spread.

Every number is a mean over a row's tokens and then over rows, so that a long history counts as much as a short one.
Padding never counts. For comparison the same numbers are computed for the mask alone: attention that cannot tell
tokens apart is spread in proportion to the mask's weights. An open mask by itself moves attention to the future; only
the difference to it shows what a head does.

Legend: B user rows, H heads, L tokens, N layers, i query position, j key position; X is 1 or H.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from ray_ggsm.masks import Tokens
from ray_ggsm.model.attention import Watch
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.contents import Lookup
from ray_ggsm.model.planning import batches_by_length
from ray_ggsm.model.saved import EncoderBundle

TOKENS_PER_BATCH = 4096
"""Padded tokens per forward pass. A layer's attention is in memory as a whole: this many times L times H numbers."""
NOTICEABLE = 0.005
"""Smallest change of a future share that is reported."""

PerHead = Sequence[Sequence[float]]
"""Layer -> head -> value, (N, H)."""


@dataclass(frozen=True)
class AttentionMeans:
    """What an encoder's heads do under one mask, on some user rows. Layers and heads count from 0."""

    rows: int
    """Number of user rows."""
    future_share: PerHead
    """Share of attention that goes to keys j > i, in [0, 1]."""
    distance: PerHead
    """Mean |i - j|, in tokens."""
    entropy: PerHead
    """Entropy of attention, in nats; 0 if all of it goes to one token."""
    relative_entropy: PerHead
    """Entropy over the log of the number of visible keys, in [0, 1]; only queries that see two keys or more."""
    uniform_future_share: Sequence[float]
    """Layer -> `future_share` of attention that cannot tell tokens apart."""
    uniform_distance: Sequence[float]
    """Layer -> `distance` of attention that cannot tell tokens apart."""


class Change(NamedTuple):
    """The future share of one head before and after."""

    layer: int
    head: int
    before: float
    after: float

    @property
    def rise(self) -> float:
        """How much the share rose; negative if it fell."""
        return self.after - self.before


class AttentionTally:
    """Running sums over batches of user rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._sums: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(self, valid_BL: Tensor) -> Watch:
        """The callback for the next forward pass, which gets the attention of every layer; counts the batch's rows."""
        self.rows += len(valid_BL)
        return partial(self._add, valid_BL)

    def means(self) -> AttentionMeans:
        """Means over all rows so far."""
        assert self.rows, "no batch was watched"
        layers = [self._sums[layer] for layer in sorted(self._sums)]
        future, distance, entropy, relative = torch.stack([heads for heads, _ in layers], 1).div(self.rows).tolist()
        uniform = torch.stack([uniform for _, uniform in layers], 1).div(self.rows)[:2, :, 0].tolist()
        return AttentionMeans(self.rows, future, distance, entropy, relative, *uniform)

    def _add(self, valid_BL: Tensor, layer: int, share_BHLL: Tensor, bias_B1LL: Tensor) -> None:
        visible_B1LL, uniform_B1LL = bias_B1LL > -torch.inf, torch.softmax(bias_B1LL.float(), dim=-1)
        heads, uniform = (measure(share, visible_B1LL, valid_BL).sum(dim=1) for share in (share_BHLL, uniform_B1LL))
        heads, uniform = heads.double().cpu(), uniform.double().cpu()
        if layer in self._sums:
            heads, uniform = self._sums[layer][0] + heads, self._sums[layer][1] + uniform
        self._sums[layer] = heads, uniform


def measure(share_BXLL: Tensor, visible_B1LL: Tensor, valid_BL: Tensor) -> Tensor:
    """Future share, distance, entropy and relative entropy, each a mean over a row's tokens: (4, B, X) float32.

    Args:
        share_BXLL: attention of query i to key j; sums to 1 over j.
        visible_B1LL: bool, whether the mask lets i see j at all.
        valid_BL: bool, True for real tokens.
    """
    share_BXLL, L = share_BXLL.float(), valid_BL.shape[1]
    position_L = torch.arange(L, device=valid_BL.device)
    distance_LL = (position_L[:, None] - position_L[None, :]).abs()
    # products and sums, not matmul: autocast would round the distances to bfloat16
    future_BXL = share_BXLL.triu(1).sum(dim=-1)
    distance_BXL = (share_BXLL * distance_LL).sum(dim=-1)
    entropy_BXL = torch.special.entr(share_BXLL).sum(dim=-1)
    visible_B1L = visible_B1LL.sum(dim=-1)
    relative_BXL = entropy_BXL / visible_B1L.clamp(min=2).log()
    tokens_B1L = valid_BL[:, None, :]
    means = [_mean(values, tokens_B1L) for values in (future_BXL, distance_BXL, entropy_BXL)]
    return torch.stack([*means, _mean(relative_BXL, tokens_B1L & (visible_B1L > 1))])


def _mean(values_BXL: Tensor, where_B1L: Tensor) -> Tensor:
    """(B, X) means over the tokens where `where_B1L` is True; 0 if there are none."""
    return values_BXL.masked_fill(~where_B1L, 0).sum(dim=-1) / where_B1L.sum(dim=-1).clamp(min=1)


@torch.inference_mode()
def attention_of(
    bundle: EncoderBundle,
    lookup: Lookup,
    rows: pa.Table,
    weight: Callable[[Tokens], Tensor],
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> AttentionMeans:
    """The user tower's attention on user rows.

    Args:
        bundle: the encoder.
        lookup: event texts -> event vectors.
        rows: validated user rows, at least one.
        weight: tokens of a batch -> visibility of future keys.
        tokens_per_batch: padded tokens per forward pass.
    """
    encoder, tally = bundle.encoder.eval(), AttentionTally()
    collator = Collator(encoder.template, bundle.tokenizer, lookup)
    for chosen in batches_by_length(collator.user_lengths(rows), tokens_per_batch):
        batch = collator.users(rows.take(pa.array(chosen))).to(encoder.device)
        tokens = batch.layout.tokens
        with encoder.autocast():
            encoder.hidden(encoder.inputs(batch), tokens, weight(tokens), watch=tally.watch(tokens.valid_BL))
    return tally.means()


def opened_and_closed(before: AttentionMeans, after: AttentionMeans) -> tuple[list[Change], list[Change]]:
    """The heads whose future share rose by `NOTICEABLE` or more, and those where it fell, the largest change first."""
    heads = [
        Change(layer, head, *shares)
        for layer, rows in enumerate(zip(before.future_share, after.future_share, strict=True))
        for head, shares in enumerate(zip(*rows, strict=True))
    ]
    heads.sort(key=lambda change: change.rise)
    opened = [change for change in heads[::-1] if change.rise >= NOTICEABLE]
    return opened, [change for change in heads if change.rise <= -NOTICEABLE]


def terminal_table(readings: Mapping[str, AttentionMeans], most: int = 5) -> str:
    """The readings as text for the terminal.

    Args:
        readings: name -> means, in the order of time.
        most: number of heads to name among those that opened, and among those that closed.
    """
    first, *_, last = readings.values()
    lines = [f"{'layer':14}{'future share':>14}{'mask alone':>12}{'distance':>10}{'entropy':>9}{'relative':>10}"]
    for layer in range(len(last.future_share)):
        for row, (name, means) in enumerate(readings.items()):
            lines.append(f"{'' if row else layer:<6}{name:8}{_layer_numbers(means, layer)}")
    lines.append(f"means over {last.rows:,} rows and the layer's heads; distance in tokens, entropy in nats")
    opened, closed = opened_and_closed(first, last)
    return "\n".join([*lines, _changes("opened", opened, most), _changes("closed", closed, most)])


def _layer_numbers(means: AttentionMeans, layer: int) -> str:
    """One reading's means over the heads of a layer."""
    tables = means.future_share, means.distance, means.entropy, means.relative_entropy
    future, distance, entropy, relative = (fmean(table[layer]) for table in tables)
    alone = means.uniform_future_share[layer]
    return f"{future:14.3f}{alone:12.3f}{distance:10.1f}{entropy:9.2f}{relative:10.3f}"


def _changes(verb: str, heads: Sequence[Change], most: int) -> str:
    """A line with the number of heads that changed, and those that changed most."""
    line = f"heads that {verb}: {len(heads)}"
    named = ", ".join(f"{head.layer}.{head.head} {head.before:.3f} -> {head.after:.3f}" for head in heads[:most])
    return f"{line}; most of all (layer.head) {named}" if named else line
