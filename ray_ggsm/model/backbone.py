"""The part of the backbone that training changes: low-rank updates, or every weight but the token embeddings."""

from typing import TYPE_CHECKING

import transformers
from torch import Tensor, nn

from ray_ggsm.model.config import LoraConfig, ModelConfig

if TYPE_CHECKING:
    from peft import PeftModel


def trainable_backbone(
    backbone: "transformers.PreTrainedModel", config: ModelConfig
) -> "PeftModel | transformers.PreTrainedModel":
    """The backbone, ready to be trained as the config says; changed in place."""
    return _with_lora(backbone, config.lora) if config.backbone.trained == "lora" else _all_trained(backbone)


def trained_state(backbone: "PeftModel | transformers.PreTrainedModel", config: ModelConfig) -> dict[str, Tensor]:
    """What training changes in the backbone, by name: LoRA in PEFT's format, or the trained weights."""
    if config.backbone.trained == "lora":
        from peft import get_peft_model_state_dict

        lora: dict[str, Tensor] = get_peft_model_state_dict(backbone)
        return lora
    return {name: p.detach() for name, p in backbone.named_parameters() if p.requires_grad}


def load_trained_state(
    backbone: "PeftModel | transformers.PreTrainedModel", config: ModelConfig, state: dict[str, Tensor]
) -> None:
    """Take over a `trained_state`, which has the same names."""
    if config.backbone.trained == "lora":
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(backbone, state)
    else:
        backbone.load_state_dict(state, strict=False)


def layers_of(backbone: "transformers.PreTrainedModel") -> list[nn.Module]:
    """The backbone's transformer layers, from the input to the output."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]


def shortest_window(backbone: "transformers.PreTrainedModel") -> int | None:
    """Tokens that a layer sees to either side, where some layers do not see all."""
    config = backbone.config.get_text_config()
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    return None if kinds is not None and "sliding_attention" not in kinds else window


def token_rms(backbone: "transformers.PreTrainedModel") -> float:
    """Root mean square of the token embeddings."""
    rms: float = backbone.get_input_embeddings().weight.float().square().mean().sqrt().item()
    return rms


def _all_trained(backbone: "transformers.PreTrainedModel") -> "transformers.PreTrainedModel":
    """The backbone, all of whose weights training changes but for the token embeddings, which few positions use."""
    backbone.requires_grad_(True)
    backbone.get_input_embeddings().requires_grad_(False)
    return backbone


def _with_lora(backbone: "transformers.PreTrainedModel", config: LoraConfig) -> "PeftModel":
    """The backbone with low-rank updates of its linear layers, which are all that training changes in it."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    lora = PeftLoraConfig(r=config.r, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules="all-linear")
    model: PeftModel = get_peft_model(backbone, lora)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False  # autocast casts, without a float32 copy of every input
    return model
