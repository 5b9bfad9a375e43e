"""Where attention goes: per layer and head, to the future or the past, how far, and how widely spread.

Every number is the mean over a row's tokens, then over rows, so a long history counts as much as a short one. Padding
never counts. Beside the heads stands what the mask alone gives: attention that cannot tell tokens apart is spread in
proportion to the mask's weights. An open mask by itself moves attention to the future; a head that is above or below
that mark is so because of what it reads.

Legend: B user rows, H heads, L tokens, N layers, i query position, j key position; X is 1 or H.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from ray_ggsm.config import Config
from ray_ggsm.model.attention import Watch
from ray_ggsm.model.batch import Collator, Lookup
from ray_ggsm.model.planning import batches_by_length
from ray_ggsm.model.saved import EncoderBundle

TOKENS_PER_BATCH = 4096
"""Padded tokens in one pass. The shares of a layer are all in memory: this many, times the longest row, times H."""
NOTICEABLE = 0.005
"""Smaller changes of a future share are not told."""

PerHead = Sequence[Sequence[float]]
"""Layer -> head -> value, (N, H)."""
Change = tuple[int, int, float, float]
"""Layer, head, and its future share before and after."""


class AttentionConfig(Config):
    """Whose attention is looked at (jobs/attention.py)."""

    split: str | None = None
    """Split of prepared rows; null: the one that probes are scored on. Rows are stored in a shuffled order, so the
    first ones are a fair sample."""
    rows: int = Field(256, ge=1)
    """At most so many user rows, from the first on."""


@dataclass(frozen=True)
class AttentionMeans:
    """What an encoder's heads do, under one mask, for some user rows. Layers and heads count from 0."""

    rows: int
    future_share: PerHead
    """Attention to keys j > i, in [0, 1]."""
    distance: PerHead
    """Mean |i - j|, in tokens."""
    entropy: PerHead
    """In nats: 0 when all attention goes to one token."""
    relative_entropy: PerHead
    """Entropy over the log of how many keys the query sees, in [0, 1]; queries that see two or more."""
    uniform_future_share: Sequence[float]
    """Layer -> `future_share` of attention that cannot tell tokens apart."""
    uniform_distance: Sequence[float]
    """Layer -> `distance` of such attention."""


class AttentionTally:
    """Running sums over batches of user rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._sums: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(self, valid_BL: Tensor) -> Watch:
        """What the next forward pass of one batch reports its layers to; counts its rows."""
        self.rows += len(valid_BL)
        return partial(self._add, valid_BL)

    def means(self) -> AttentionMeans:
        """Over all rows so far."""
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
    """Future share, distance, entropy and relative entropy, each the mean over a row's tokens: (4, B, X) float32.

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
    """(B, X); 0 where there is no place to look."""
    return values_BXL.masked_fill(~where_B1L, 0).sum(dim=-1) / where_B1L.sum(dim=-1).clamp(min=1)


@torch.inference_mode()
def attention_of(
    bundle: EncoderBundle, lookup: Lookup, rows: pa.Table, finished_mask: bool, tokens_per_batch: int = TOKENS_PER_BATCH
) -> AttentionMeans:
    """The user tower's attention on validated user rows.

    Args:
        trained: the encoder.
        lookup: event texts -> event vectors.
        rows: at least one.
        finished_mask: use the recipe's inference mask even where training stopped half-way.
        tokens_per_batch: padded tokens in one forward pass.
    """
    encoder, tally = bundle.encoder.eval(), AttentionTally()
    collator = Collator(encoder.template, bundle.tokenizer, lookup)
    for chosen in batches_by_length(collator.user_lengths(rows), tokens_per_batch):
        batch = collator.users(rows.take(pa.array(chosen))).to(encoder.device)
        tokens = batch.layout.tokens
        weight = bundle.embedding_weight(tokens, finished_mask)
        with encoder.autocast():
            encoder.hidden(encoder.inputs(batch), tokens, weight, watch=tally.watch(tokens.valid_BL))
    return tally.means()


def opened_and_closed(before: AttentionMeans, after: AttentionMeans) -> tuple[list[Change], list[Change]]:
    """The heads whose future share rose, and those whose fell, by `NOTICEABLE` or more; the largest change first."""
    heads = [
        (layer, head, *shares)
        for layer, rows in enumerate(zip(before.future_share, after.future_share, strict=True))
        for head, shares in enumerate(zip(*rows, strict=True))
    ]
    heads.sort(key=lambda change: change[3] - change[2])
    opened = [change for change in heads[::-1] if change[3] - change[2] >= NOTICEABLE]
    return opened, [change for change in heads if change[2] - change[3] >= NOTICEABLE]


def terminal_table(readings: Mapping[str, AttentionMeans], most: int = 5) -> str:
    """A line per layer and reading (name -> means), and the heads that changed most from the first to the last."""
    (first, *_, last), (begin, *_) = readings.values(), readings
    lines = [f"{'layer':14}{'future share':>14}{'mask alone':>12}{'distance':>10}{'entropy':>9}{'relative':>10}"]
    for layer in range(len(last.future_share)):
        for name, r in readings.items():
            tables = r.future_share, r.distance, r.entropy, r.relative_entropy
            future, distance, entropy, relative = (fmean(table[layer]) for table in tables)
            alone = r.uniform_future_share[layer]
            row = f"{layer if name == begin else '':<6}{name:8}"
            lines.append(f"{row}{future:14.3f}{alone:12.3f}{distance:10.1f}{entropy:9.2f}{relative:10.3f}")
    lines.append(f"means over {last.rows:,} rows and the layer's heads; distance in tokens, entropy in nats")
    for verb, heads in zip(("opened", "closed"), opened_and_closed(first, last), strict=True):
        told = "".join(f", {layer}.{head} {a:.3f} -> {b:.3f}" for layer, head, a, b in heads[:most])
        lines.append(f"heads that {verb}: {len(heads)}" + (f"; most of all (layer.head){told[1:]}" if told else ""))
    return "\n".join(lines)
