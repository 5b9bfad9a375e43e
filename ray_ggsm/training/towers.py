"""Both towers over a worker's rows, one micro-batch at a time, with gradients in constant memory.

The loss needs all states of the batch at once, but their graphs do not fit in memory at once. Gradient caching (Gao et
al., 2021): run every micro-batch without a graph, take the loss's gradient at the states, then run each micro-batch
again with a graph and hand it that gradient. The result is exactly the gradient of the whole batch; a seed per
micro-batch replays dropout. Graphs of up to `graph_tokens` tokens are kept, which saves their second run.

Legend: b rows of this worker, n rows of a micro-batch, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ray_ggsm.masks import Tokens
from ray_ggsm.model.batch import Batch, Collator
from ray_ggsm.model.encoder import Observe, Tower, UserEncoder
from ray_ggsm.model.planning import batches_by_length
from ray_ggsm.training.answers import AnswerConfig, answer_batch, answer_lengths

Weight = Callable[[Tokens], Tensor]
"""A micro-batch's tokens -> the visibility of future keys."""
Observers = Callable[[Tokens], Sequence[Observe]]
"""A user micro-batch's tokens -> who looks at its gradients."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one tower that go through the encoder together."""

    tower: Tower
    index_n: np.ndarray
    """its rows among the worker's"""
    padded_tokens: int
    seed: int
    """of dropout"""


class Towers:
    """The encoder's two towers over `rows` (b of them) with the randomness of one optimiser step."""

    def __init__(
        self,
        encoder: UserEncoder,
        collator: Collator,
        rows: pa.Table,
        *,
        answer: AnswerConfig,
        tokens_per_micro_batch: int,
        seed: int,
        answer_seed: int,
    ) -> None:
        """`seed` is for dropout and the worker's own; `answer_seed` draws the answers and is the same on every one."""
        self.encoder, self.collator, self.rows = encoder, collator, rows
        self.answer, self.answer_seed = answer, answer_seed
        lengths: dict[Tower, np.ndarray] = {
            "user": collator.user_lengths(rows),
            "answer": answer_lengths(rows, collator, answer, answer_seed),
        }
        self.length_N = np.concatenate(list(lengths.values()))
        """tokens of every sequence of both towers"""
        plans = [
            (tower, index_n, int(length_b[index_n].max()) * len(index_n))
            for tower, length_b in lengths.items()
            for index_n in batches_by_length(length_b, tokens_per_micro_batch)
        ]
        self.micro_batches = [MicroBatch(*plan, seed=seed + i) for i, plan in enumerate(plans)]

    def states(self, weight: Weight) -> dict[Tower, Tensor]:
        """Pooled states (b, D) of both towers, in the rows' order, without gradients."""
        with torch.no_grad():
            return self._whole([self._run(m, weight) for m in self.micro_batches])

    def backward(
        self,
        weight: Weight,
        loss: Callable[[Tensor, Tensor], Tensor],
        graph_tokens: int,
        observers: Observers = lambda tokens: (),
    ) -> None:
        """Add to the parameters' gradients those of `loss(user_bD, answer_bD)`.

        Args:
            weight: visibility.
            loss: the batch's loss from its pooled states; a scalar with a graph.
            graph_tokens: padded tokens whose graphs are kept between the two runs.
            observers: see each user token's gradient, exactly once.
        """
        kept, parts = [], []
        for micro_batch in self.micro_batches:
            graph_tokens -= micro_batch.padded_tokens
            kept.append(graph_tokens >= 0)
            with torch.set_grad_enabled(graph_tokens >= 0):
                parts.append(self._run(micro_batch, weight, observers))
        states = {tower: s.detach().requires_grad_() for tower, s in self._whole(parts).items()}
        loss(states["user"], states["answer"]).backward()
        for i, micro_batch in enumerate(self.micro_batches):
            part_nD = parts[i] if kept[i] else self._run(micro_batch, weight, observers)
            gradient_bD = states[micro_batch.tower].grad
            assert gradient_bD is not None
            part_nD.backward(gradient_bD[torch.from_numpy(micro_batch.index_n).to(part_nD.device)])
            parts[i] = part_nD.detach()  # lets go of its graph

    def _run(self, micro_batch: MicroBatch, weight: Weight, observers: Observers = lambda tokens: ()) -> Tensor:
        batch = self._build(micro_batch).to(self.encoder.device)
        torch.manual_seed(micro_batch.seed)
        tokens = batch.layout.tokens
        observed = observers(tokens) if micro_batch.tower == "user" and torch.is_grad_enabled() else ()
        states_nD: Tensor = self.encoder(batch, weight(tokens), observed)
        return states_nD

    def _build(self, micro_batch: MicroBatch) -> Batch:
        rows = self.rows.take(pa.array(micro_batch.index_n))
        if micro_batch.tower == "user":
            return self.collator.users(rows)
        return answer_batch(rows, self.collator, self.answer, self.answer_seed)

    def _whole(self, parts: Sequence[Tensor]) -> dict[Tower, Tensor]:
        """The towers' states in the rows' order, from those of the micro-batches."""
        states: dict[Tower, Tensor] = {}
        for tower in ("user", "answer"):
            mine = [i for i, m in enumerate(self.micro_batches) if m.tower == tower]
            back_b = np.argsort(np.concatenate([self.micro_batches[i].index_n for i in mine]))
            states[tower] = torch.cat([parts[i] for i in mine])[torch.from_numpy(back_b).to(self.encoder.device)]
        return states
