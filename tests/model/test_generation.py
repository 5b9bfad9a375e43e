"""A language model in this process, held to a schema."""

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaModel

from ray_ggsm.config import InputError
from ray_ggsm.model.config import PretrainedConfig
from ray_ggsm.model.generation import Generator
from ray_ggsm.synthesis.formats import Limits, Pairs, Reply, schema_of
from tests.helpers.models import write_tokenizer

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"


class Verdict(Reply):
    """Few tokens, whatever the model likes best."""

    verdict: Literal["keep", "drop"]
    sure: bool


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a random llama with a head and a chat template."""
    directory = tmp_path_factory.mktemp("chat")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, pad_token_id=0, eos_token_id=1, bos_token_id=1, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    write_tokenizer(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    return str(directory)


def turns(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_replies_fit_the_schema_whatever_the_prompts_beside_them(chat_model: str) -> None:
    generator = Generator(PretrainedConfig(name=chat_model), torch.device("cpu"))
    prompts = [turns("a"), turns("a much longer prompt than the first"), turns("?" * 600)]
    for temperature in (0.0, 1.0):
        short, long, too_long = generator.write(prompts, 64, temperature, 0, Verdict.model_json_schema())
        assert too_long is None
        for prompt, reply in zip(prompts, (short, long), strict=False):
            assert reply is not None
            Verdict.model_validate_json(reply[0])
            assert reply[1] == len(f"[user]{prompt[0]['content']}[assistant]")  # a token per byte
            assert reply[2] >= len(json.dumps(json.loads(reply[0]), separators=(",", ":")))


def test_a_random_model_ends_its_list(chat_model: str) -> None:
    """Texts and lists end where the schema says, so that a model that writes anything writes whole replies."""
    generator = Generator(PretrainedConfig(name=chat_model), torch.device("cpu"))
    schema = schema_of(Pairs, Limits(2, 2, characters=5, positions=3))
    (written,) = generator.write([turns("a")], 400, 1.0, 0, schema)
    assert written is not None
    pairs = Pairs.model_validate_json(written[0]).pairs
    assert len(pairs) == 2
    assert all(pair.scenario < 3 and len(pair.query) <= 5 and len(pair.answer) <= 5 for pair in pairs)


def test_without_sampling_a_reply_is_that_of_its_prompt_alone(chat_model: str) -> None:
    """Padding on the left changes nothing."""
    generator = Generator(PretrainedConfig(name=chat_model), torch.device("cpu"))
    prompts = [turns("a"), turns("a much longer prompt than the first")]
    together = generator.write(prompts, 64, 0.0, 0, Verdict.model_json_schema())
    assert together == [generator.write([prompt], 64, 0.0, 0, Verdict.model_json_schema())[0] for prompt in prompts]


def test_a_model_without_a_chat_template_is_refused(tiny_decoder: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=258, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(InputError, match="no chat template"):
        Generator(PretrainedConfig(name=str(tmp_path)), torch.device("cpu"))


def test_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    """It was saved without one, and its words are not tied to a head."""
    LlamaModel(
        LlamaConfig(vocab_size=258, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(InputError, match="has no weights for lm_head"):
        Generator(PretrainedConfig(name=str(tmp_path)), torch.device("cpu"))
