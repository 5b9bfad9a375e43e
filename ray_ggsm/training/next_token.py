"""Next-token loss on answers behind <USER>: -mean log P(a_t | a_<t, history, query). Q-Anchor and InstructUE.

The state at <USER> predicts an answer's first token, and the state at its last word predicts EOS. Logits are products
with the token embeddings (a tied head). They are computed for some tokens at a time, and again in the backward pass:
all of them together would be the largest tensor of a step.

Legend: B rows, L tokens, N answer tokens of a batch, n of them at a time, D width, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

from ray_ggsm.config import InputError
from ray_ggsm.model.batch import Batch
from ray_ggsm.model.encoder import UserEncoder

TOKENS_AT_A_TIME = 256
"""Tokens whose logits are in memory at once."""
CHANGES_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""Settings of architectures whose logits are more than products."""


def check_head(encoder: UserEncoder) -> None:
    """Raises InputError if the backbone's logits are not the products of its states with its token embeddings."""
    config, name = encoder.backbone.config.get_text_config(), encoder.config.backbone.name
    changed = [setting for setting in CHANGES_LOGITS if getattr(config, setting, None) not in (None, 1.0)]
    if config.tie_word_embeddings and not changed:
        return
    reason = f"changes its logits ({changed[0]})" if changed else "has a head of its own (tie_word_embeddings: false)"
    raise InputError(
        f"training.ntp_weight: the backbone '{name}' {reason}, and only heads that are tied to the token embeddings "
        "are used; choose another backbone, or leave the next-token loss out"
    )


def next_token_loss(encoder: UserEncoder, hidden_BLD: Tensor, batch: Batch) -> Tensor:
    """Sum of -log P over the answer tokens of a batch, a scalar in float32.

    Args:
        encoder: the encoder, whose embeddings are the head.
        hidden_BLD: final states of the batch.
        batch: user rows with answers behind <USER>.
    """
    layout = batch.layout
    answer_BL = layout.tokens.answer_BL
    assert answer_BL is not None, "rows have answers"
    state_ND = hidden_BLD[:, :-1][answer_BL[:, 1:]]
    target_N = batch.text_ids_T[layout.id_BL[answer_BL] - len(encoder.template.tags)]
    head_VD = encoder.backbone.get_input_embeddings().weight
    parts = zip(state_ND.split(TOKENS_AT_A_TIME), target_N.split(TOKENS_AT_A_TIME), strict=True)
    losses = [checkpoint(_sum, state_nD, target_n, head_VD, use_reentrant=False) for state_nD, target_n in parts]
    return torch.stack(losses).sum()


def head_flops(encoder: UserEncoder, tokens: int) -> float:
    """Operations of the logits of so many answer tokens, forward and backward; the embeddings get no gradient."""
    return 4.0 * encoder.backbone.get_input_embeddings().weight.numel() * tokens


def _sum(state_nD: Tensor, target_n: Tensor, head_VD: Tensor) -> Tensor:
    logits_nV = linear(state_nD.to(head_VD.dtype), head_VD)
    return cross_entropy(logits_nV.float(), target_n, reduction="sum")
