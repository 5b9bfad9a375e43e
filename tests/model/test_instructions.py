"""Embedding refuses an instruction that its encoder would not read whole."""

import re

import pytest

from ray_ggsm.config import InputError
from ray_ggsm.masks.fixed import CausalConfig
from ray_ggsm.model import saved
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.instructions import check_instructions
from tests.helpers.encoders import encoder_on


def test_an_instruction_that_would_be_cut_is_refused(tiny_decoder, tmp_path) -> None:
    bundle = encoder_on(tiny_decoder, CausalConfig(recipe="causal"), max_text_tokens=40)
    saved.save(bundle, str(tmp_path))
    encoder, query = SavedEncoder.read(str(tmp_path)), "Who buys tea"

    def tokens(text: str) -> int:
        return len(bundle.tokenizer(f"Instruction: {text}", add_special_tokens=False)["input_ids"])

    while tokens(f"{query} tea") <= 40:
        query += " tea"
    assert tokens(query) <= 40
    check_instructions({"": "", "short": query}, encoder)
    expected = f"'long' has {tokens(query + ' tea')} tokens with the word before it, and the encoder reads 40"
    with pytest.raises(InputError, match=re.escape(expected)):
        check_instructions({"short": query, "long": f"{query} tea"}, encoder)
