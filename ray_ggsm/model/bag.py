"""A bag of the contents of a history: which there are, how often and how rare, as a component of the user vector.

A small sequence model reads an event's contents as sums of embeddings, and its state has no room for thousands of them.
The bag has a place for each of the most frequent contents: texts and parts by modality, and values of text fields. A
row's weights are TF-IDF, (1 + ln count) x (1 + ln((1 + rows) / (1 + rows with it))), scaled to length 1 (Salton and
Buckley, Term-weighting approaches in automatic text retrieval, 1988), and a linear map makes them dense. It begins with
the first right singular vectors of training rows (Deerwester et al., Indexing by latent semantic analysis, 1990) and is
trained with all else. The contents are known by their hashes: the encoder holds no text.

Legend: B rows, E events, M modalities, X contents of events (one per value, modality by modality, row by row), V
contents of the bag, U all contents of training rows, K width.
"""

import numpy as np
import torch
from torch import Tensor, nn

from ray_ggsm.config import InputError
from ray_ggsm.model.config import BagConfig
from ray_ggsm.model.contents import Contents

UNUSED = torch.iinfo(torch.int64).max
"""Stands where there are fewer contents than places."""


class Bag(nn.Module):
    """Contents of histories -> (B, K)."""

    hash_V: Tensor
    """int64, ascending: which contents there are."""
    rarity_V: Tensor
    """float32: 1 + ln((1 + rows) / (1 + rows with it))."""

    def __init__(self, config: BagConfig) -> None:
        super().__init__()
        self.register_buffer("hash_V", torch.full((config.contents,), UNUSED))
        self.register_buffer("rarity_V", torch.zeros(config.contents))
        self.least_rows = config.least_rows
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(config.contents, config.width, bias=False)
        nn.init.normal_(self.linear.weight, std=0.05)

    @torch.no_grad()
    def fit(self, contents: Contents, count_BM: Tensor) -> None:
        """Take the contents that most of these training rows have, of equally frequent ones those of smaller hashes,
        and the first singular vectors of the rows' weights; further ones than there are stay as they are.

        Raises:
            InputError: no content is in enough rows.
        """
        from scipy import sparse  # here: embedding does without
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfTransformer

        row_X, hash_X = (each.cpu().numpy() for each in rows_and_hashes(contents, count_BM))
        row_X, hash_X = row_X[hash_X != UNUSED], hash_X[hash_X != UNUSED]
        hash_U, content_X = np.unique(hash_X, return_inverse=True)
        count_BU = sparse.csc_matrix((np.ones(len(row_X)), (row_X, content_X)), (len(count_BM), len(hash_U)))
        rows_U = count_BU.getnnz(axis=0)
        order = np.argsort(-rows_U, kind="stable")[: len(self.hash_V)]
        chosen = np.sort(order[rows_U[order] >= self.least_rows])
        if not len(chosen):
            raise InputError(
                f"model.fusion.bag: no text, part or text field is in {self.least_rows} of the {len(count_BM):,} "
                "training rows that it is learned from; lower least_rows, or leave the bag out"
            )
        tfidf = TfidfTransformer(sublinear_tf=True)
        weight_BV = tfidf.fit_transform(count_BU[:, chosen])
        self.hash_V[: len(chosen)] = torch.from_numpy(hash_U[chosen]).to(self.hash_V)
        self.rarity_V[: len(chosen)] = torch.from_numpy(tfidf.idf_).to(self.rarity_V)
        most = min(self.linear.out_features, *(size - 1 for size in weight_BV.shape))
        if most > 0:
            singular_KV = TruncatedSVD(most, random_state=0).fit(weight_BV).components_
            self.linear.weight[:most, : len(chosen)] = torch.from_numpy(singular_KV).to(self.linear.weight)

    def weights(self, contents: Contents, count_BM: Tensor) -> Tensor:
        """TF-IDF rows of length 1, (B, V); zeros for a row without any of the contents."""
        row_X, hash_X = rows_and_hashes(contents, count_BM)
        place_X = torch.searchsorted(self.hash_V, hash_X).clamp(max=self.hash_V.shape[0] - 1)
        known_X = ((self.hash_V[place_X] == hash_X) & (hash_X != UNUSED)).to(self.rarity_V.dtype)
        count_BV = self.rarity_V.new_zeros(count_BM.shape[0], self.hash_V.shape[0])
        count_BV = count_BV.index_put((row_X, place_X), known_X, accumulate=True)
        weight_BV = torch.where(count_BV > 0, 1 + count_BV.clamp(min=1).log(), 0) * self.rarity_V
        return nn.functional.normalize(weight_BV, dim=1)

    def forward(self, contents: Contents, count_BM: Tensor) -> Tensor:
        """(B, K) float32.

        Args:
            contents: what the events hold, modality by modality, row by row.
            count_BM: int64, events of each modality.
        """
        with torch.autocast(count_BM.device.type, enabled=False):
            dense: Tensor = self.linear(self.dropout(self.weights(contents, count_BM)))
        return dense


def rows_and_hashes(contents: Contents, count_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Row and hash of each value that events hold, (X) each: texts and parts, then text fields, UNUSED where an event
    has none."""
    assert contents.hash_P is not None, "the template asks for hashes"
    row_E = _places(count_BM.T.flatten().cumsum(dim=0), contents.first_E.shape[0]) % count_BM.shape[0]
    row_X = row_E[_places(contents.first_E, contents.content_X.shape[0]) - 1]
    low_EK, high_EK = contents.bucket_EK[:, 0::2], contents.bucket_EK[:, 1::2]
    field_EK = torch.where(low_EK < 0, UNUSED, low_EK | (high_EK << 32))
    return (
        torch.cat([row_X, row_E[:, None].expand_as(field_EK).flatten()]),
        torch.cat([contents.hash_P[contents.content_X], field_EK.flatten()]),
    )


def _places(start: Tensor, n: int) -> Tensor:
    """How many of the ascending numbers are not above each of 0, 1, ..., n - 1, int64 (n)."""
    return torch.searchsorted(start, torch.arange(n, device=start.device), right=True)
