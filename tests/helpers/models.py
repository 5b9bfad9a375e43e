"""Tiny random pretrained models: real code paths without real weights."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast


def write_tokenizer(directory: Path) -> None:
    """A tokenizer with one token per byte of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.save_pretrained(directory)


def write_decoder(directory: Path) -> None:
    """A random 3-layer llama with grouped-query attention, and its tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, max_position_embeddings=512, initializer_range=0.2,
        pad_token_id=0, eos_token_id=1, bos_token_id=1, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaModel(config).save_pretrained(directory)
    write_tokenizer(directory)


def write_event_encoder(directory: Path) -> None:
    """A random 1-layer BERT, and its tokenizer."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=258, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    BertModel(config).save_pretrained(directory)
    write_tokenizer(directory)
