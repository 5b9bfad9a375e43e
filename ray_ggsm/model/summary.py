"""Summaries of a history at its beginning, from coarse to fine: the user, then each modality. Q-Anchor, 3.2.

A modality's summary is the mean of its event vectors before any adapter, through a network that all modalities share;
numbers and fields of events do not count. The features enter as a linear map of their z-scores, as wide as an event
vector. The user's summary is the mean of these means, through a network of its own. What a row does not have (a
modality without events) is left out, and never a vector of zeros.

Legend: B rows, E events, M modalities, G = M B groups of events, S summaries but the user's, H width of the event
encoder, D width of the backbone, F tabular features.
"""

import torch
from torch import Tensor, nn

from ray_ggsm.model.adapters import EventAdapter
from ray_ggsm.model.contents import Contents


class Summaries(nn.Module):
    """Vectors of the user's and the modalities' summaries."""

    def __init__(self, H: int, D: int, F: int, dropout: float) -> None:
        """Args: H, D, F (0 without features), and `dropout` on the features in training."""
        super().__init__()
        self.features = nn.Sequential(nn.Dropout(dropout), nn.Linear(F, H)) if F else None
        self.modality, self.user = EventAdapter(H, D), EventAdapter(H, D)

    def forward(self, contents: Contents, count_BM: Tensor, z_BF: Tensor | None) -> Tensor:
        """The user's summary, then the others', (B, 1 + S, D); meaningless where a row has none.

        Args:
            contents: what the events hold, modality by modality, row by row.
            count_BM: int64, events of each modality.
            z_BF: z-scores of the features; None without features.
        """
        there_BS, mean_BSH = count_BM > 0, _means(contents, count_BM)
        if self.features is not None:
            assert z_BF is not None, "rows have the features"
            there_BS = torch.cat([there_BS, torch.ones_like(there_BS[:, :1])], dim=1)
            mean_BSH = torch.cat([mean_BSH, self.features(z_BF).float()[:, None]], dim=1)
        sum_BH = (mean_BSH * there_BS[:, :, None]).sum(dim=1)
        user_BH = sum_BH / there_BS.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.cat([self.user(user_BH)[:, None], self.modality(mean_BSH)], dim=1)


def _means(contents: Contents, count_BM: Tensor) -> Tensor:
    """Mean event vector of each row and modality, (B, M, H) float32; zero without events."""
    count_G = count_BM.T.flatten()
    event_G = count_G.cumsum(dim=0) - count_G
    end = contents.first_E.new_tensor([len(contents.content_X)])
    sum_GH = nn.functional.embedding_bag(
        contents.content_X,
        contents.vector_PH,
        torch.cat([contents.first_E, end])[event_G],
        mode="sum",
        per_sample_weights=contents.weight_X,
    )
    mean_GH = sum_GH / count_G.clamp(min=1)[:, None]
    return mean_GH.unflatten(0, count_BM.T.shape).transpose(0, 1)
