"""The user encoder: event vectors, tabular vectors and text through a decoder with LoRA, to one vector per row.

Paper, section 4 and Appendix A. Both towers share everything but their centre. The pooled state is centred (the batch's
mean in training, a frozen mean at inference: without it all vectors lie in one narrow cone) and L2-normalised (eq. 13).

Models are imported where they are built: most processes of a cluster only read or write, and the imports take seconds.

Legend: B rows, L tokens, E events, H width of the event encoder, D width of the backbone, F tabular features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import transformers
from pydantic import Field
from torch import Tensor, nn

from ray_ggsm.config import Config, InputError, Runtime
from ray_ggsm.masks import Recipe, Tokens
from ray_ggsm.model.adapters import EventAdapter, NumberEmbedding, TabularAdapter
from ray_ggsm.model.attention import Backend, Visibility, Watch, open_backbone
from ray_ggsm.model.batch import Batch
from ray_ggsm.model.event_encoder import EventEncoderConfig
from ray_ggsm.model.source import PretrainedConfig
from ray_ggsm.model.template import Template

Tower = Literal["user", "answer"]


class LoraConfig(Config):
    """Low-rank adaptation of every linear layer of the backbone (PEFT)."""

    r: int = Field(64, ge=1)
    """Rank."""
    alpha: float = Field(64, gt=0)
    """Scale: updates are multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the low-rank path."""


class ModelConfig(Config):
    """What the encoder is made of."""

    backbone: PretrainedConfig
    """The decoder-only language model."""
    event_encoder: EventEncoderConfig
    """The frozen text encoder of single events."""
    lora: LoraConfig = LoraConfig()
    """Trained part of the backbone."""
    pooling: Literal["user", "mean"] = "user"
    """Final hidden state at the row's last token (<USER>; paper, eq. 12), or the mean over its tokens."""
    centre: bool = True
    """Subtract the tower's mean from the pooled state before normalising; false: the paper's form."""
    tabular_tokens: int = Field(4, ge=1)
    """Vectors that the tabular features become (none when the rows have no features)."""
    tabular_residual: bool = False
    """Add a linear map of the tabular features to the pooled state, past the backbone; false: the paper's form."""
    tabular_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the tabular features in training."""
    max_text_tokens: int = Field(64, ge=4)
    """Longest instruction or answer text, in tokens; longer ones are cut."""
    attention: Runtime[Literal["auto"] | Backend] = "auto"
    """How attention is computed; the result is the same. auto: `eager` on CPU, `sdpa` on CUDA. `flex` is for CUDA."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the frozen backbone and its matrix products; everything trained stays float32."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` for torch."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32


@dataclass(frozen=True)
class Observe:
    """Whose loss gradients are looked at in the backward pass, and what is done with them."""

    site: str
    """`input`, `last`, `layer:k` (the state after k layers) or `mean_layers` (after each layer in turn)."""
    take: Callable[[Tensor], None]
    """Called with a gradient, (B, L, D), once per observed state."""

    def states(self, inputs_BLD: Tensor, output: "transformers.modeling_outputs.BaseModelOutput") -> Sequence[Tensor]:
        """The observed states of one forward pass."""
        if self.site == "input":
            return [inputs_BLD]
        if self.site == "last":
            return [output.last_hidden_state]
        after_layers: Sequence[Tensor] = output.hidden_states[1:]
        if self.site == "mean_layers":
            return after_layers
        k = int(self.site.removeprefix("layer:"))
        if k > len(after_layers):
            raise InputError(f"mask.grad_site: layer:{k} is asked for, the backbone has {len(after_layers)} layers")
        return [after_layers[k - 1]]


class UserEncoder(nn.Module):
    """Backbone with LoRA, tag embeddings, adapters per modality, centres per tower."""

    centre_user_D: Tensor
    centre_answer_D: Tensor

    def __init__(
        self,
        config: ModelConfig,
        template: Template,
        features: int,
        backbone: "transformers.PreTrainedModel",
        event_width: int,
        recipe: Recipe,
    ) -> None:
        """Wrap `backbone` (changed in place); `features` is F, `event_width` is H; `recipe` may add trained parts."""
        from peft import LoraConfig as PeftLoraConfig
        from peft import PeftModel, get_peft_model
        from peft.tuners.tuners_utils import BaseTunerLayer
        from transformers.modeling_layers import GradientCheckpointingLayer

        super().__init__()
        open_backbone(backbone, config.backbone.name)
        self.config, self.template = config, template
        layers = [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
        D = backbone.config.get_text_config().hidden_size
        self.width, self.event_width = D, event_width
        self.tags = nn.Embedding(len(template.tags), D)
        self.adapters = nn.ModuleDict({m.name: EventAdapter(event_width, D) for m in template.modalities})
        self.numbers = NumberEmbedding(D)
        self.tabular = (
            TabularAdapter(features, D, template.tabular_tokens, config.tabular_dropout, config.tabular_residual)
            if template.tabular_tokens
            else None
        )
        self.learned_mask = recipe.learned_mask(D, len(layers))
        for index, layer in enumerate(layers if self.learned_mask is not None else []):
            layer.register_forward_pre_hook(partial(self._open_layer, index), with_kwargs=True)
        # injected vectors start at the size of the backbone's own token embeddings
        token_rms = backbone.get_input_embeddings().weight.float().square().mean().sqrt().item()
        self.input_scale = nn.Parameter(torch.tensor(token_rms))
        self.register_buffer("centre_user_D", torch.zeros(D))
        self.register_buffer("centre_answer_D", torch.zeros(D))
        lora = PeftLoraConfig(
            r=config.lora.r,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            target_modules="all-linear",
        )
        self.backbone: PeftModel | transformers.PreTrainedModel = get_peft_model(backbone, lora)
        for module in self.backbone.modules():
            if isinstance(module, BaseTunerLayer):
                module.cast_input_dtype_enabled = False  # autocast does it, without a float32 copy of every input

    def start_tags_from_words(self, tokenizer: "transformers.PreTrainedTokenizerBase") -> None:
        """Let each tag's embedding start as the mean embedding of the word pieces of its text."""
        words = self.backbone.get_input_embeddings().weight
        with torch.no_grad():
            for row, tag in enumerate(self.template.tags):
                ids = tokenizer(tag, add_special_tokens=False, split_special_tokens=True)["input_ids"]
                self.tags.weight[row] = words[ids].float().mean(dim=0)

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return self.tags.weight.device

    def inputs(self, batch: Batch) -> Tensor:
        """The backbone's input embeddings, (B, L, D); zero at padding."""
        layout = batch.layout
        words = self.backbone.get_input_embeddings()(batch.text_ids_T)
        rows = [self.tags.weight, words.to(self.tags.weight.dtype), self._events(batch)]
        n_ids, n_events = len(self.tags.weight) + len(words), len(batch.age_E)
        source_BL = layout.id_BL.clone()
        source_BL = torch.where(layout.event_BL >= 0, layout.event_BL + n_ids, source_BL)
        if batch.tabular_BF is not None and self.tabular is not None:
            rows.append(self._sized(self.tabular(batch.tabular_BF)).flatten(0, 1))
            first_B1 = (
                n_ids + n_events + torch.arange(len(source_BL), device=self.device)[:, None] * self.tabular.tokens
            )
            source_BL = torch.where(layout.tabular_BL >= 0, layout.tabular_BL + first_B1, source_BL)
        rows.append(torch.zeros(1, self.width, device=self.device))  # padding reads the last row
        return torch.cat([row.float() for row in rows])[source_BL]

    def hidden(
        self,
        inputs_BLD: Tensor,
        tokens: Tokens,
        weight: Tensor,
        observe: Sequence[Observe] = (),
        watch: Watch | None = None,
    ) -> Tensor:
        """Final hidden states, (B, L, D), under the visibility `weight` (see `ray_ggsm.masks`).

        `watch` sees every layer's attention, which is then computed by `eager`.
        """
        inputs_BLD = inputs_BLD.to(self.config.torch_dtype)
        fastest: Backend = "sdpa" if inputs_BLD.is_cuda else "eager"
        backend = fastest if self.config.attention == "auto" else self.config.attention
        if watch is not None:
            backend = "eager"
        visibility = Visibility(weight, tokens.valid_BL, inputs_BLD.dtype, backend, watch)
        output = self.backbone(
            inputs_embeds=inputs_BLD,
            visibility=visibility,
            use_cache=False,
            output_hidden_states=any(o.site not in ("input", "last") for o in observe),
        )
        for observer in observe:
            for state_BLD in observer.states(inputs_BLD, output):
                state_BLD.register_hook(observer.take)
        states: Tensor = output.last_hidden_state
        return states

    def pool(self, hidden_BLD: Tensor, batch: Batch) -> Tensor:
        """One float32 state per row, (B, D), neither centred nor normalised."""
        rows_B, layout = torch.arange(len(hidden_BLD), device=hidden_BLD.device), batch.layout
        if self.config.pooling == "user":
            pooled_BD = hidden_BLD[rows_B, layout.last_B].float()
        else:
            valid_BL1 = layout.tokens.valid_BL[:, :, None]
            pooled_BD = hidden_BLD.float().masked_fill(~valid_BL1, 0).sum(dim=1) / valid_BL1.sum(dim=1)
        if layout.global_B is not None:
            pooled_BD = (pooled_BD + hidden_BLD[rows_B, layout.global_B].float()) / 2
        if batch.tabular_BF is not None and self.tabular is not None and self.tabular.residual is not None:
            pooled_BD = pooled_BD + self.tabular.residual(self.tabular.z_scores(batch.tabular_BF)).float()
        return pooled_BD

    def forward(self, batch: Batch, weight: Tensor, observe: Sequence[Observe] = ()) -> Tensor:
        """Pooled states (B, D) under a given visibility; `observe` gets gradients in the backward pass."""
        with self.autocast():
            return self.pool(self.hidden(self.inputs(batch), batch.layout.tokens, weight, observe), batch)

    def autocast(self) -> torch.autocast:
        """Matrix products in the backbone's dtype."""
        return torch.autocast(self.device.type, self.config.torch_dtype, enabled=self.config.dtype == "bfloat16")

    def vectors(self, pooled_BD: Tensor, tower: Tower) -> Tensor:
        """Published vectors, (B, D) float32: centred with the frozen mean and L2-normalised."""
        return nn.functional.normalize(pooled_BD - self.centre(tower), dim=1)

    def centre(self, tower: Tower) -> Tensor:
        """The tower's frozen mean, (D,); zero without centring."""
        return self.centre_user_D if tower == "user" else self.centre_answer_D

    def merge_lora(self) -> None:
        """Fold LoRA into the backbone's weights (rounded to its dtype): faster to run, and no longer trainable."""
        self.backbone = self.backbone.merge_and_unload().requires_grad_(False)

    def trainable(self) -> dict[str, nn.Parameter]:
        """What training changes, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def _open_layer(
        self, layer: int, module: nn.Module, args: Any, keywords: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Before a layer of the backbone: its own visibility, opened by what the layer is about to read."""
        visibility: Visibility = keywords["visibility"]
        assert self.learned_mask is not None
        return args, {
            **keywords,
            "visibility": visibility.with_weight(self.learned_mask(layer, args[0], visibility.weight)),
        }

    def _events(self, batch: Batch) -> Tensor:
        """Adapted event vectors with their numbers, (E, D)."""
        parts: Sequence[Tensor] = batch.vector_EH.split(list(batch.count_M))
        adapted = [self.adapters[m.name](part) for m, part in zip(self.template.modalities, parts, strict=True)]
        return self._sized(torch.cat(adapted).float() + self.numbers(batch.age_E, batch.amount_E).float())

    def _sized(self, vectors: Tensor) -> Tensor:
        return nn.functional.rms_norm(vectors.float(), (self.width,)) * self.input_scale
