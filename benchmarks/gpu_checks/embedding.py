"""Speed of embedding: against the machine's matrix products, a bare loop, and sentence-transformers.

Legend: B rows, L tokens, D width, N texts.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel

from gpu_checks.clock import best_seconds
from gpu_checks.made_up import user_rows
from gpu_checks.report import Check, Number, SkippedError
from gpu_checks.setting import Setting, collator, embedder, encoder, least_cosine, recipe
from ray_ggsm.model.planning import batches_by_length
from ray_ggsm.training.flops import forward_flops, peak_flops

TEXT_BATCHES = (32, 128, 512)
"""Batch sizes that sentence-transformers is tried with; the best counts."""
LONGEST_TEXT = 256


def checks(setting: Setting) -> Iterator[Check]:
    """Matrix products, users, texts."""
    dtype = setting.sizes.dtype
    yield Check(f"matrix products, {dtype}: what all shares are shares of", partial(_products, setting))
    yield Check(f"embedding users, bidirectional, {dtype}, batches built on the way", partial(_users, setting))
    yield Check(f"embedding texts, causal, {dtype}, against sentence-transformers", partial(_texts, setting))


def rate(setting: Setting) -> float:
    """FLOP/s of matrix products that are large enough to fill the device."""
    return peak_flops(setting.device, setting.torch_dtype, setting.sizes.matrix)


def _products(setting: Setting) -> list[Number]:
    large = rate(setting)
    return [
        Number(f"TFLOP/s at {setting.sizes.matrix:,}", large / 1e12),
        Number(
            "share of it that the training log takes as the peak",
            peak_flops(setting.device, setting.torch_dtype) / large,
        ),
    ]


def _users(setting: Setting) -> list[Number]:
    sizes = setting.sizes
    bundle = encoder(setting.large, recipe("bidirectional"), "sdpa", setting.sizes.dtype, setting.device)
    rows = user_rows(sizes.users, sizes.speed_events // 8, sizes.speed_events, 1)
    embed = embedder(bundle, sizes.tokens_per_batch)
    length_B = collator(bundle).user_lengths(rows)
    tokens = int(length_B.sum())
    ours = best_seconds(partial(embed, rows), setting.device, sizes.rounds)
    bare = best_seconds(bare_loop(setting, length_B), setting.device, sizes.rounds)
    return [
        Number("tokens/s", tokens / ours),
        Number("users/s", len(rows) / ours),
        Number("share of the matrix products", forward_flops(bundle.encoder, length_B) / ours / rate(setting)),
        Number("times the bare loop (transformers, causal, batches built before)", bare / ours),
    ]


def bare_loop(setting: Setting, length_B: np.ndarray) -> Callable[[], None]:
    """The same backbone over random inputs of the same batches, with transformers alone."""
    model = AutoModel.from_pretrained(setting.large, dtype=setting.torch_dtype, attn_implementation="sdpa")
    model = model.eval().to(setting.device)
    batches: list[tuple[Tensor, Tensor]] = []
    for index in batches_by_length(length_B, setting.sizes.tokens_per_batch):
        length_b = torch.from_numpy(length_B[index])
        valid_bL = torch.arange(int(length_b.max())) < length_b[:, None]
        inputs_bLD = torch.randn(*valid_bL.shape, model.config.hidden_size, dtype=setting.torch_dtype)
        batches.append((inputs_bLD.to(setting.device), valid_bL.long().to(setting.device)))

    @torch.inference_mode()
    def loop() -> None:
        for inputs_bLD, valid_bL in batches:
            model(inputs_embeds=inputs_bLD, attention_mask=valid_bL, use_cache=False)

    return loop


def _texts(setting: Setting) -> list[Number]:
    try:
        from sentence_transformers import SentenceTransformer, __version__
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError as error:
        raise SkippedError(f"sentence-transformers is not installed ({error})") from error
    sizes = setting.sizes
    bundle = encoder(setting.large, recipe("causal"), "sdpa", setting.sizes.dtype, setting.device, LONGEST_TEXT)
    rng = np.random.default_rng(3)
    texts = ["".join(rng.choice(list("abcdefgh "), n)) for n in rng.integers(16, LONGEST_TEXT - 1, sizes.users)]
    transformer = Transformer(str(setting.large), model_kwargs={"dtype": setting.torch_dtype})
    pooling = Pooling(bundle.encoder.width, "mean")
    theirs = SentenceTransformer(modules=[transformer, pooling], device=setting.device.type)
    embed = embedder(bundle, sizes.tokens_per_batch)
    tokens = int(collator(bundle).text_sequences(texts).length_B.sum())
    ended = [text + bundle.tokenizer.eos_token for text in texts]
    ours = best_seconds(partial(embed.texts, texts), setting.device, sizes.rounds)
    encode = partial(theirs.encode, ended, show_progress_bar=False)
    tried = {n: best_seconds(partial(encode, batch_size=n), setting.device, sizes.rounds) for n in TEXT_BATCHES}
    best = min(tried, key=tried.__getitem__)
    cosine = least_cosine(embed.texts(texts).vectors, np.asarray(encode(batch_size=best), dtype=np.float32))
    return [
        Number("tokens/s", tokens / ours),
        Number(f"times sentence-transformers {__version__} (batches of {best})", tried[best] / ours),
        Number("least cosine of both sides' vectors", cosine, at_least=0.99),
    ]
