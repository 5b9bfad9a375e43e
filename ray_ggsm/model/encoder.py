"""The user encoder: event vectors, tabular vectors and text through a decoder with LoRA, to one vector per row.

Paper, section 4 and Appendix A. Both towers share everything but their centre. The pooled state is centred and
L2-normalised (eq. 13). The centre is the batch's mean in training and a frozen mean at inference; without it, all
vectors lie in one narrow cone.

Legend: B rows, L tokens, E events, P distinct contents of events, H width of the event encoder, D width of the
backbone, F tabular features.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn

from ray_ggsm.config import InputError
from ray_ggsm.masks import Recipe, Tokens
from ray_ggsm.model.adapters import EventAdapter, FieldEmbedding, NumberEmbedding, TabularAdapter
from ray_ggsm.model.attention import Visibility, Watch, open_backbone
from ray_ggsm.model.backbone import layers_of, token_rms, trainable_backbone
from ray_ggsm.model.batch import Batch
from ray_ggsm.model.config import Backend, ModelConfig
from ray_ggsm.model.contract import Tower
from ray_ggsm.model.fusion import Columns, Fusion, component_scales, fuse
from ray_ggsm.model.global_query import GlobalQuery
from ray_ggsm.model.modality import field_names
from ray_ggsm.model.observe import Observe
from ray_ggsm.model.projection import Projection
from ray_ggsm.model.soft_prompt import embedded
from ray_ggsm.model.summary import Summaries
from ray_ggsm.model.template import Template

if TYPE_CHECKING:  # else where it is needed: it takes seconds
    from peft import PeftModel


class UserEncoder(nn.Module):
    """A backbone with LoRA, embeddings of the tags, an adapter per modality, and a centre per tower."""

    centre_user_D: Tensor
    """(W) with fusion."""
    centre_answer_D: Tensor
    scale_user_S: Tensor
    """Root mean squares of the parts that fusion adds."""

    def __init__(
        self,
        config: ModelConfig,
        template: Template,
        features: int,
        backbone: "transformers.PreTrainedModel",
        event_width: int,
        recipe: Recipe,
    ) -> None:
        """Wrap a backbone, and add new modules with random weights.

        Args:
            config: settings of the encoder.
            template: order of the input.
            features: F.
            backbone: the pretrained decoder; changed in place.
            event_width: H.
            recipe: the mask recipe, which may add a learned mask.
        """
        super().__init__()
        open_backbone(backbone, config.backbone.name)
        self.config, self.template = config, template
        layers, D = layers_of(backbone), backbone.config.get_text_config().hidden_size
        self.width, self.event_width = D, event_width
        self.tags = nn.Embedding(len(template.tags), D)
        depth = config.adapter_layers
        self.adapters = nn.ModuleDict({m.name: EventAdapter(event_width, D, depth) for m in template.modalities})
        self.numbers = NumberEmbedding(D, config.periods_days)
        texts, numbers = field_names(template.modalities)
        self.fields = FieldEmbedding(len(texts), len(numbers), D, config.fields) if texts or numbers else None
        dropout, residual, tokens = config.tabular_dropout, config.tabular_residual, template.tabular_tokens
        self.tabular = TabularAdapter(features, D, tokens, dropout, residual) if tokens else None
        self.global_query, self.learned_mask = recipe.global_query, recipe.learned_mask(D, len(layers))
        for index, layer in enumerate(layers if self.learned_mask is not None else []):
            layer.register_forward_pre_hook(partial(self._open_layer, index), with_kwargs=True)
        # injected vectors start at the size of the backbone's token embeddings
        self.input_scale = nn.Parameter(torch.tensor(token_rms(backbone)))
        fuses = config.fusion is not None and (features > 0 or config.fusion.bag is not None)
        self.fusion = Fusion(features, config.fusion) if config.fusion is not None and fuses else None
        if self.fusion is not None:
            self.register_buffer("scale_user_S", torch.ones(len(self.fusion.widths)))
        self.soft_prompts: tuple[Tensor, ...] = ()
        """Vectors of the soft prompts in use, (P, D) in all (`ray_ggsm.model.soft_prompt`); no part of the encoder."""
        self.state_width = D if config.projection is None else config.projection.width
        """Width of both towers' states, without the features' component."""
        self.vector_width = self.state_width + (sum(self.fusion.widths) if self.fusion is not None else 0)
        """Width of user vectors, W."""
        self.columns = Columns(self.state_width, self.fusion)
        self.register_buffer("centre_user_D", torch.zeros(self.vector_width))
        self.register_buffer("centre_answer_D", torch.zeros(self.state_width))
        self.backbone: PeftModel | transformers.PreTrainedModel = trainable_backbone(backbone, config)
        # last, so that all else begins as without them
        self.projection = Projection(D, config.projection) if config.projection is not None else None
        self.summaries = Summaries(event_width, D, features, dropout) if template.summary_tokens else None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.tags.weight.device

    def inputs(self, batch: Batch) -> Tensor:
        """The backbone's input embeddings, (B, L, D); zero at padding."""
        layout = batch.layout
        words = embedded(self.backbone.get_input_embeddings(), self.soft_prompts, batch.text_ids_T)
        token_TD = torch.cat([self.tags.weight, words.to(self.tags.weight.dtype)])
        of_rows: list[tuple[Tensor, Tensor]] = []
        if batch.tabular_BF is not None and self.tabular is not None:
            of_rows.append((self._sized(self.tabular(batch.tabular_BF)), layout.tabular_BL))
        if self.summaries is not None and layout.summary_BL is not None:
            z_BF = None if self.tabular is None or batch.tabular_BF is None else self.tabular.z_scores(batch.tabular_BF)
            summaries = self.summaries(batch.contents, self.template.event_counts(layout), z_BF)
            of_rows.append((self._sized(summaries), layout.summary_BL))
        return layout.placed(token_TD, self._events(batch), of_rows)

    def hidden(
        self,
        inputs_BLD: Tensor,
        tokens: Tokens,
        weight: Tensor,
        observe: Sequence[Observe] = (),
        watch: Watch | None = None,
        asked: GlobalQuery | None = None,
    ) -> Tensor:
        """Final hidden states, (B, L, D).

        Args:
            inputs_BLD: the backbone's input embeddings.
            tokens: the batch's positions.
            weight: visibility of future keys, as in `ray_ggsm.masks.attention_bias`.
            observe: get gradients in the backward pass.
            watch: gets every layer's attention shares, which `eager` then computes.
            asked: gets the attention of one query per row.
        """
        inputs_BLD = inputs_BLD.to(self.config.torch_dtype)
        backend, apart_BLL = self._backend(inputs_BLD.is_cuda, watch is not None), tokens.apart_BLL()
        sites = {o.site for o in observe}
        if "mask" in sites:
            weight = weight.detach().requires_grad_()
        visibility = Visibility(weight, tokens.valid_BL, inputs_BLD.dtype, backend, watch, asked, apart_BLL)
        output = self.backbone(
            inputs_embeds=inputs_BLD,
            position_ids=None if apart_BLL is None else tokens.position_BL(),
            visibility=visibility,
            use_cache=False,
            output_hidden_states=bool(sites - {"input", "last", "mask"}),
        )
        for observer in observe:
            observer.attach(weight, inputs_BLD, output)
        states: Tensor = output.last_hidden_state
        return states

    def check_length(self, tokens: int) -> None:
        """Raises InputError if the backbone has fewer positions than a row has tokens."""
        most = getattr(self.backbone.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and tokens > most:
            raise InputError(
                f"a row has {tokens:,} tokens, and the backbone '{self.config.backbone.name}' takes at most {most:,}; "
                "keep fewer events (data.modalities.NAME.keep), or shorten texts"
            )

    def _backend(self, is_cuda: bool, is_watched: bool) -> Backend:
        if is_watched:
            return "eager"
        if self.config.attention != "auto":
            return self.config.attention
        return "sdpa" if is_cuda else "eager"

    def pool(self, hidden_BLD: Tensor, batch: Batch, asked: GlobalQuery | None = None) -> Tensor:
        """One state per row, (B, D) float32, neither centred nor normalised; projected if there is a projection, (B, W)
        in a user tower with fusion. The blocks that a global query attends to join it if the query was `asked`."""
        rows_B, layout = torch.arange(hidden_BLD.shape[0], device=hidden_BLD.device), batch.layout
        if self.config.pooling == "user":
            pooled_BD = hidden_BLD[rows_B, layout.last_B].float()
        else:
            valid_BL1 = layout.tokens.valid_BL[:, :, None]
            pooled_BD = hidden_BLD.float().masked_fill(~valid_BL1, 0).sum(dim=1) / valid_BL1.sum(dim=1)
        if asked is not None:
            block_S = self.template.block_S.to(hidden_BLD.device)
            pooled_BD = (pooled_BD + asked.blocks(hidden_BLD.float(), layout.tokens, block_S)) / 2
        elif layout.global_B is not None:
            assert self.global_query == "state", "blocks need the query's attention"
            pooled_BD = (pooled_BD + hidden_BLD[rows_B, layout.global_B].float()) / 2
        if batch.tabular_BF is not None and self.tabular is not None and self.tabular.residual is not None:
            pooled_BD = pooled_BD + self.tabular.residual(self.tabular.z_scores(batch.tabular_BF)).float()
        if self.projection is not None:
            pooled_BD = self.projection(pooled_BD)
        if self.fusion is None or (batch.tabular_BF is None and batch.contents.hash_P is None):
            return pooled_BD
        z_BF = None if batch.tabular_BF is None or self.tabular is None else self.tabular.z_scores(batch.tabular_BF)
        return torch.cat([pooled_BD, self.fusion(z_BF, batch.contents, self.template.event_counts(layout))], dim=1)

    def forward(
        self, batch: Batch, weight: Tensor, observe: Sequence[Observe] = (), inputs_BLD: Tensor | None = None
    ) -> Tensor:
        """Pooled states, (B, D) float32, or (B, Q, D) for rows with Q instructions; `weight` and `observe` as in
        `hidden`, and `inputs_BLD` in the place of the batch's own `inputs`."""
        return self.pooled_and_hidden(batch, weight, observe, inputs_BLD)[0]

    def pooled_and_hidden(
        self, batch: Batch, weight: Tensor, observe: Sequence[Observe] = (), inputs_BLD: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, and the final hidden states (B, L, D). Answers behind <USER> do not reach the pooled states, if
        `weight` hides them."""
        layout, joins_blocks = batch.layout, self.global_query == "blocks"
        asked = GlobalQuery(layout.global_B) if joins_blocks and layout.global_B is not None else None
        with self.autocast():
            inputs_BLD = self.inputs(batch) if inputs_BLD is None else inputs_BLD
            hidden_BLD = self.hidden(inputs_BLD, layout.tokens, weight, observe, asked=asked)
            if layout.last_BQ is None:
                own = replace(batch, layout=replace(layout, tokens=layout.tokens.without_answers()))
                return self.pool(hidden_BLD, own, asked), hidden_BLD
            each = [replace(batch, layout=layout.of_question(k)) for k in range(layout.last_BQ.shape[1])]
            return torch.stack([self.pool(hidden_BLD, batch, asked) for batch in each], dim=1), hidden_BLD

    def autocast(self) -> torch.autocast:
        """A context in which matrix products have the backbone's dtype."""
        return torch.autocast(self.device.type, self.config.torch_dtype, enabled=self.config.dtype == "bfloat16")

    def vectors(self, pooled_BD: Tensor, tower: Tower) -> Tensor:
        """Published vectors, (B, W) float32: centred with the frozen mean and L2-normalised.

        With fusion, answers are zero where users have their features: products compare the sequences' components.
        """
        centred_BD = pooled_BD - self.centre(tower)
        if self.fusion is not None and tower == "user":
            return self.columns(fuse(centred_BD, self.fusion.widths, self.scale_user_S))
        normal_BD = nn.functional.normalize(centred_BD, dim=1)
        return self.columns(nn.functional.pad(normal_BD, (0, self.vector_width - self.state_width)))

    def batch_vectors(self, user_BW: Tensor) -> Tensor:
        """As `vectors` for pooled user states of a whole training batch, with the batch's own mean and scales."""
        centred_BW = user_BW - user_BW.mean(dim=0) if self.config.centre else user_BW
        if self.fusion is None:
            return nn.functional.normalize(centred_BW, dim=1)
        return self.columns(fuse(centred_BW, self.fusion.widths, component_scales(centred_BW, self.fusion.widths)))

    def fit_features(self, tabular_BF: Tensor) -> None:
        """Learn the scales of the features, and the components of the linear part, from training rows."""
        if self.tabular is not None:
            self.tabular.fit(tabular_BF)
            if self.fusion is not None:
                self.fusion.fit(self.tabular.z_scores(tabular_BF))

    def set_centres(self, user_BW: Tensor, answer_D: Tensor) -> None:
        """Freeze means and scales to those of pooled user states of training rows, and the mean of answers' states."""
        self.centre_user_D.copy_(user_BW.mean(dim=0))
        self.centre_answer_D.copy_(answer_D)
        if self.fusion is not None:
            self.scale_user_S.copy_(component_scales(user_BW - self.centre_user_D, self.fusion.widths))

    def centre(self, tower: Tower) -> Tensor:
        """The tower's frozen mean, (D,), or (W,) for users; zeros without centring."""
        return self.centre_user_D if tower == "user" else self.centre_answer_D

    def merge_lora(self) -> None:
        """Add LoRA to the backbone's weights, rounded to their dtype: faster to run, but no longer trainable."""
        if self.config.backbone.trained == "lora":
            self.backbone = self.backbone.merge_and_unload()
        self.backbone.requires_grad_(False)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def _open_layer(self, layer: int, module: nn.Module, args: Any, keywords: Any) -> tuple[Any, Any]:
        """Runs before each layer of the backbone: replaces its visibility by the learned one for its input states."""
        visibility: Visibility = keywords["visibility"]
        assert self.learned_mask is not None
        learned = visibility.with_weight(self.learned_mask(layer, args[0], visibility.weight))
        return args, {**keywords, "visibility": learned}

    def _events(self, batch: Batch) -> Tensor:
        """Adapted texts and weighted parts of events, plus embeddings of their numbers and fields, (E, D)."""
        contents = batch.contents
        vectors = zip(self.template.modalities, contents.by_modality, strict=True)
        adapted = [self.adapters[modality.name](vector_PH) for modality, vector_PH in vectors]
        event_ED = nn.functional.embedding_bag(
            contents.content_X,
            torch.cat(adapted).float(),
            contents.first_E,
            mode="sum",
            per_sample_weights=contents.weight_X,
        )
        event_ED = event_ED + self.numbers(batch.age_E, batch.amount_E).float()
        if self.fields is not None:
            event_ED = event_ED + self.fields(contents.bucket_EK, contents.number_EN)
        return self._sized(event_ED)

    def _sized(self, vectors: Tensor) -> Tensor:
        """The vectors at the size of token embeddings."""
        return nn.functional.rms_norm(vectors.float(), (self.width,)) * self.input_scale
