"""Checks, before anything is embedded, the instructions that vectors are made under."""

from collections.abc import Mapping

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.model.batch import instruction_text
from ray_ggsm.model.config import PROMPT, ModelConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.soft_prompt import prompts_of


def check_instructions(
    instructions: Mapping[str, str], encoder: SavedEncoder, key: str = "embedding.instructions"
) -> None:
    """Check instructions by name: an encoder reads them whole. Errors call the setting `key`.

    Raises:
        InputError: as of `prompts_of`; or an instruction has more tokens than the encoder reads.
    """
    prompts_of(list(instructions.values()), encoder)
    texts = {name: text for name, text in instructions.items() if text and not text.startswith(PROMPT)}
    config = encoder.description.model
    if not texts or not isinstance(config, ModelConfig):
        return
    import transformers  # here: it takes seconds

    with storage.local_copy(storage.join(encoder.location, "tokenizer")) as place:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    for name, text in texts.items():
        n = len(tokenizer(instruction_text(text), add_special_tokens=False, split_special_tokens=True)["input_ids"])
        if n > config.max_text_tokens:
            raise InputError(
                f"{key}: '{name}' has {n} tokens with the word before it, and the encoder reads "
                f"{config.max_text_tokens}; shorten it, or train with a larger model.max_text_tokens"
            )
