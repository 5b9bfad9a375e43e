"""Embedding in batches: what does not fit into memory is halved, and a row that does not fit alone is given up."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.masks.fixed import BidirectionalConfig
from ray_ggsm.model.encoder import UserEncoder
from tests.helpers.encoders import encoder_on, lookup
from tests.helpers.rows import user_rows


@pytest.fixture(scope="module")
def embedder(tiny_decoder: str) -> Embedder:
    bundle = encoder_on(tiny_decoder, BidirectionalConfig(recipe="bidirectional"))
    return Embedder(LanguageModel(bundle, lookup), tokens_per_batch=200)


def with_memory_for(tokens: int, sizes: list[int]) -> Callable:
    """The encoder's forward on a device whose memory holds so many tokens; `sizes` gets the rows of each attempt."""
    forward = UserEncoder.forward

    def limited(self, batch, *arguments):
        B, L = batch.layout.tokens.valid_BL.shape
        sizes.append(B)
        if tokens < B * L:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, batch, *arguments)

    return limited


@settings(deadline=None, max_examples=12)
@given(tokens=st.integers(20, 250))
def test_out_of_memory(embedder: Embedder, tokens: int) -> None:
    rows = user_rows(29)
    whole, length_B = embedder(rows), embedder.encoder.collator.user_lengths(rows)
    sizes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UserEncoder, "forward", with_memory_for(tokens, sizes))
        limited = embedder(rows)
    np.testing.assert_array_equal(limited.fits, length_B <= tokens)
    np.testing.assert_allclose(limited.vectors[limited.fits], whole.vectors[limited.fits], atol=1e-5)
    assert (limited.vectors[~limited.fits] == 0).all()
    assert whole.fits.all()


def test_the_longest_rows_come_first(embedder: Embedder) -> None:
    seen: list[int] = []
    users = embedder.encoder.collator.users
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            embedder.encoder.collator, "users",
            lambda rows, answers: seen.append(int(embedder.encoder.collator.user_lengths(rows).max())) or users(rows),
        )  # fmt: skip
        embedder(user_rows(29))
    assert seen == sorted(seen, reverse=True)


def test_other_errors_are_not_taken_for_memory(embedder: Embedder) -> None:
    def broken(*_):
        raise RuntimeError("shapes differ")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UserEncoder, "forward", broken)
        with pytest.raises(RuntimeError, match="shapes differ"):
            embedder(user_rows(29))
