"""Joins the tabular features, and a bag of contents, with the sequence's state, past the backbone and before the loss.

The user vector has two components. The sequence's is the unit vector of the paper (eq. 13). The features' component
holds their z-scores, a small network of them and, with `bag`, what contents there are (`ray_ggsm.model.bag`), each
centred and scaled to a mean square of 1. The features' sizes say much (how often, how much), and L2-normalisation alone
would lose them. So the sequence's component gets SEQUENCE times the mean length of the features' component: the whole
vector can then be normalised, and the sizes stay readable, as the factor moves by only some tenth between small and
large rows.

Where prefixes of the vector are to be of use (`training.nested`), its columns are `mixed`: those of the sequence and of
the parts by turns. All but the linear part are trained to be of use in the prefix; that is turned to its principal
components, so that it begins with what varies most (docs/evaluation.md).

Legend: B rows, M modalities, F tabular features, D width of the backbone, P width of the linear part, K width of the
network, G width of the bag, W = D + P + K + G; S parts (P, K and G).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ray_ggsm.model.bag import Bag
from ray_ggsm.model.config import FusionConfig
from ray_ggsm.model.contents import Contents

SEQUENCE = 3.0
"""Length of the sequence's component, in mean lengths of the features' component."""


class Fusion(nn.Module):
    """The features' component before it is centred and scaled: z-scores (P), a network of them (K), a bag (G). Without
    features it is the bag alone."""

    def __init__(self, F: int, config: FusionConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.mixes = config.columns == "mixed"
        P = (config.linear_width or F) if F else 0
        has_linear = F > 0 and (config.linear_width is not None or self.mixes)
        self.linear = nn.Linear(F, P, bias=False) if has_linear else None
        if self.linear is not None:
            nn.init.orthogonal_(self.linear.weight).requires_grad_(False)
        self.network: nn.Sequential | None = None
        if F:
            hidden = nn.Linear(F, config.hidden)
            self.network = nn.Sequential(
                hidden, nn.GELU(), nn.Dropout(config.dropout), nn.Linear(config.hidden, config.width)
            )
        self.bag = Bag(config.bag) if config.bag is not None else None
        features = (P, config.width) if F else ()
        self.widths: tuple[int, ...] = (*features, *([config.bag.width] if config.bag is not None else []))
        """P, K and G, of the parts that there are."""

    @torch.no_grad()
    def fit(self, z_BF: Tensor) -> None:
        """With mixed columns, have the linear part begin with what varies most: the principal components of training
        rows' z-scores, each with its largest weight positive; further ones than features stay as they are."""
        if self.mixes and self.linear is not None:
            _, component_FF = torch.linalg.eigh(z_BF.double().cpu().T.cov())
            component_FF = component_FF.flip(1).T[: self.widths[0]]
            largest_F = component_FF.gather(1, component_FF.abs().argmax(dim=1, keepdim=True))
            self.linear.weight[: len(component_FF)] = (component_FF * largest_F.sign()).to(self.linear.weight)

    def forward(self, z_BF: Tensor | None, contents: Contents | None = None, count_BM: Tensor | None = None) -> Tensor:
        """(B, P + K + G) from the features' z-scores (None without features) and, for a bag, events (as of `Bag`)."""
        parts: list[Tensor] = []
        if z_BF is not None and self.network is not None:
            z_BF = self.dropout(z_BF)
            parts += [z_BF if self.linear is None else self.linear(z_BF), self.network(z_BF)]
        if self.bag is not None:
            assert contents is not None, "a bag is of events"
            assert count_BM is not None, "a bag is of rows"
            parts.append(self.bag(contents, count_BM))
        return torch.cat([part.float() for part in parts], dim=1)


def component_scales(centred_BW: Tensor, widths: Sequence[int]) -> Tensor:
    """Root mean squares of the parts over rows, (S,); `centred_BW` may begin with other columns."""
    parts = centred_BW[:, -sum(widths) :].split(list(widths), dim=1)
    return torch.stack([part.square().mean().clamp(min=1e-12).sqrt() for part in parts])


def fuse(centred_BW: Tensor, widths: Sequence[int], scale_S: Tensor) -> Tensor:
    """Unit vectors (B, W) from centred states.

    Args:
        centred_BW: the sequence's state (D), then the parts.
        widths: widths of the parts.
        scale_S: root mean squares of the parts over training rows.
    """
    fused = sum(widths)
    sequence_BD, parts_BT = centred_BW[:, :-fused], centred_BW[:, -fused:]
    scale_T = scale_S.repeat_interleave(torch.tensor(widths, device=scale_S.device))
    length = SEQUENCE * fused**0.5
    return normalize(torch.cat([length * normalize(sequence_BD, dim=1), parts_BT / scale_T], dim=1), dim=1)


class Columns(nn.Module):
    """The order in which the columns of a joined vector are published."""

    order_W: Tensor | None
    """The joined vector's column at each place; None: they are in the same order."""

    def __init__(self, D: int, fusion: Fusion | None) -> None:
        """Mixed: the first column of each part, the second of each, and so on; else as they are joined."""
        super().__init__()
        self.D, order_W = D, None
        if fusion is not None and fusion.mixes:
            order_W = torch.cat([torch.arange(width) for width in (D, *fusion.widths)]).argsort(stable=True)
        self.register_buffer("order_W", order_W, persistent=False)

    def forward(self, joined_BW: Tensor) -> Tensor:
        """The vectors as they are published, (B, W)."""
        return joined_BW if self.order_W is None else joined_BW[:, self.order_W]

    def of_sequence(self, dimensions: int) -> int:
        """How many of a published vector's first columns are the sequence's; they are its first ones."""
        if self.order_W is None:
            return min(dimensions, self.D)
        return int((self.order_W[:dimensions] < self.D).sum())
