"""Text that a language model of transformers writes in this process, held to a JSON schema by a grammar.

Legend: B prompts, L tokens of the longest prompt and what is written so far, V words of the vocabulary.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from jinja2 import TemplateError
from torch import Tensor

from ray_ggsm.config import InputError
from ray_ggsm.model.config import PretrainedConfig
from ray_ggsm.model.source import load_language_model, load_tokenizer

Turns = Sequence[Mapping[str, str]]
"""The turns of a conversation: role and content."""


class Generator:
    """A loaded language model."""

    def __init__(self, config: PretrainedConfig, device: torch.device) -> None:
        """Load it.

        Raises:
            InputError: it cannot be loaded, has no chat template, or llguidance is not installed.
        """
        try:
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise InputError("client: llguidance is not installed; pip install 'ray-ggsm[synthesis]'") from None
        self.model = load_language_model(config, torch.float32 if device.type == "cpu" else torch.bfloat16)
        self.model = self.model.eval().requires_grad_(False).to(device)
        self.tokenizer = load_tokenizer(config)
        if not self.tokenizer.chat_template:
            raise InputError(f"client.name: '{config.name}' has no chat template; take a model that was made for chats")
        self.tokenizer.padding_side = "left"
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.grammar_tokenizer = from_tokenizer(self.tokenizer, n_vocab=int(self.model.config.vocab_size))
        self.longest = int(self.model.config.max_position_embeddings)
        """Tokens of a prompt with its reply."""

    def marks(self) -> list[str]:
        """What the chat template writes from a user's turn to a reply, and from a reply to the user's next turn.

        Raises:
            InputError: it takes no such conversation.
        """
        turns = [("user", "first0turn"), ("assistant", "second0turn"), ("user", "third0turn")]
        conversation = [{"role": role, "content": content} for role, content in turns]
        try:
            text: str = self.tokenizer.apply_chat_template(conversation, tokenize=False)
        except TemplateError as error:
            raise InputError(f"client.name: the chat template takes no user's and model's turns ({error})") from error
        return re.split("(?:first|second|third)0turn", text)[1:3]

    @torch.inference_mode()
    def write(
        self, prompts: Sequence[Turns], max_tokens: int, temperature: float, seed: int, schema: Mapping[str, Any]
    ) -> list[tuple[str, int, int] | None]:
        """The reply to each prompt, with the numbers of its own tokens and those of the prompt; None where the prompt
        is too long.

        Args:
            prompts: conversations that the model goes on with.
            max_tokens: longest reply; a longer one is cut, and then no JSON.
            temperature: of sampling; 0: the likeliest reply.
            seed: of sampling. Replies also depend on the prompts beside them.
            schema: JSON schema that replies fit.
        """
        template = self.tokenizer.apply_chat_template
        texts = [template(list(turns), tokenize=False, add_generation_prompt=True) for turns in prompts]
        lengths = [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        fitting = [n for n, length in enumerate(lengths) if length + max_tokens <= self.longest]
        replies: list[tuple[str, int, int] | None] = [None] * len(texts)
        if not fitting:
            return replies
        chosen = [texts[n] for n in fitting]
        batch = self.tokenizer(chosen, add_special_tokens=False, padding=True, return_tensors="pt")
        batch = batch.to(self.model.device)
        start, end = batch["input_ids"].shape[1], int(self.tokenizer.eos_token_id)
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        grammar = _Grammar(self.grammar_tokenizer, schema, len(chosen), start, end)
        torch.manual_seed(seed)
        written_BL = self.model.generate(
            **batch, **sampling, max_new_tokens=max_tokens, pad_token_id=self.tokenizer.pad_token_id, eos_token_id=end,
            logits_processor=transformers.LogitsProcessorList([grammar]),
        )[:, start:]  # fmt: skip
        for n, ids in zip(fitting, written_BL, strict=True):
            own = int((ids != self.tokenizer.pad_token_id).sum())
            replies[n] = self.tokenizer.decode(ids, skip_special_tokens=True), lengths[n], own
        return replies


class _Grammar(transformers.LogitsProcessor):
    """Leaves each row only the tokens with which its reply can still fit the schema, and then the end (a token)."""

    def __init__(self, tokenizer: Any, schema: Mapping[str, Any], rows: int, start: int, end: int) -> None:
        from llguidance import LLMatcher
        from llguidance.numpy import allocate_token_bitmask

        # without blanks, which small models write without end
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults={"whitespace_flexible": False})
        self.matchers = [LLMatcher(tokenizer, grammar) for _ in range(rows)]
        self.bits = allocate_token_bitmask(rows, tokenizer.vocab_size)
        self.start, self.end = start, end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (B, V) of the next token, of tokens (B, L)."""
        from llguidance.numpy import fill_next_token_bitmask

        for row, matcher in enumerate(self.matchers):
            if input_ids.shape[1] > self.start and not matcher.is_stopped():
                matcher.consume_token(int(input_ids[row, -1]))
            if matcher.is_stopped():
                self.bits[row] = 0
                self.bits[row, self.end // 32] = np.uint32(1 << self.end % 32).view(np.int32)
            else:
                fill_next_token_bitmask(matcher, self.bits, row)
        allowed_BV = np.unpackbits(self.bits.view(np.uint8), axis=1, bitorder="little")[:, : scores.shape[1]]
        return scores.masked_fill(torch.from_numpy(allowed_BV == 0).to(scores.device), -torch.inf)
