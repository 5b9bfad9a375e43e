"""Both towers over a worker's rows, one micro-batch at a time, with gradients in constant memory.

The loss needs all states of the batch at once, but their graphs do not fit in memory at once. Gradient caching (Gao et
al., 2021) solves that: run every micro-batch without a graph, take the loss's gradient at the states, then run each
micro-batch again with a graph and pass that gradient on. The result is exactly the gradient of the whole batch; a seed
per micro-batch replays dropout. Graphs of up to `graph_tokens` tokens are kept, which saves their second run. The
next-token loss is a sum over rows, so its gradient needs no other row.

Legend: b rows of this worker, n rows of a micro-batch, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ray_ggsm.masks import Tokens
from ray_ggsm.model.batch import Batch
from ray_ggsm.model.contract import Sequences, Tower
from ray_ggsm.model.encoder import UserEncoder
from ray_ggsm.model.observe import Observe
from ray_ggsm.model.planning import batches_by_kind
from ray_ggsm.training.next_token import next_token_loss

Weight = Callable[[Tokens], Tensor]
"""Tokens of a micro-batch -> visibility of future keys."""
Observers = Callable[[Tokens], Sequence[Observe]]
"""Tokens of a user micro-batch -> the observers of its gradients."""
_Part = tuple[Tensor, Tensor | None]
"""States of a micro-batch, and the next-token loss of its answers."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one tower that go through the encoder together."""

    tower: Tower
    index_n: np.ndarray
    """Positions of its rows among the worker's."""
    padded_tokens: int
    seed: int
    """Seed of dropout."""


class Towers:
    """The encoder's two towers over a worker's rows (b of them), with the dropout of one optimiser step."""

    def __init__(
        self, encoder: UserEncoder, sequences: Mapping[Tower, Sequences[Batch]], tokens_per_micro_batch: int, seed: int
    ) -> None:
        """Divide the rows into micro-batches of similar length.

        Args:
            encoder: the encoder.
            sequences: the worker's rows for each tower, the user's first.
            tokens_per_micro_batch: padded tokens in one forward pass.
            seed: seed of dropout; the micro-batches take this number and the next ones.

        Raises:
            InputError: a row is longer than the backbone can take.
        """
        self.encoder, self.sequences = encoder, sequences
        self.length_N = np.concatenate([s.length_B for s in sequences.values()])
        """Tokens of every sequence of both towers."""
        encoder.check_length(int(self.length_N.max(initial=0)))
        plans = [
            (tower, index_n, int(s.length_B[index_n].max()) * len(index_n))
            for tower, s in sequences.items()
            for index_n in batches_by_kind(s.kind_B, s.length_B, tokens_per_micro_batch)
        ]
        self.micro_batches = [MicroBatch(*plan, seed=seed + i) for i, plan in enumerate(plans)]

    def states(self, weight: Weight) -> dict[Tower, Tensor]:
        """Pooled states (b, D) of both towers, in the rows' order, without gradients."""
        with torch.no_grad():
            return self._whole([self._run(m, weight)[0] for m in self.micro_batches])

    def backward(
        self,
        weight: Weight,
        loss: Callable[[Tensor, Tensor], Tensor],
        graph_tokens: int,
        observers: Observers = lambda tokens: (),
        token_weight: float = 0.0,
    ) -> float:
        """Add to the parameters' gradients those of `loss(user_bD, answer_bD)` and of answers behind <USER>.

        Args:
            weight: visibility.
            loss: the batch's loss from its pooled states; a scalar with a graph.
            graph_tokens: padded tokens whose graphs are kept between the two runs.
            observers: get the gradient of each user token exactly once.
            token_weight: weight of each answer token's -log P behind <USER>, where rows have such answers.

        Returns:
            sum of -log P over these tokens of this worker, unweighted.
        """
        kept, parts = [], []
        for micro_batch in self.micro_batches:
            graph_tokens -= micro_batch.padded_tokens
            kept.append(graph_tokens >= 0)
            with torch.set_grad_enabled(graph_tokens >= 0):
                parts.append(self._run(micro_batch, weight, observers))
        whole = self._whole([part_nD for part_nD, _ in parts])
        states = {tower: s.detach().requires_grad_() for tower, s in whole.items()}
        loss(states["user"], states["answer"]).backward()
        total = 0.0
        for i, micro_batch in enumerate(self.micro_batches):
            part_nD, token_loss = parts[i] if kept[i] else self._run(micro_batch, weight, observers)
            gradient_bD = states[micro_batch.tower].grad
            assert gradient_bD is not None
            gradient_nD = gradient_bD[torch.from_numpy(micro_batch.index_n).to(part_nD.device)]
            if token_loss is None:
                part_nD.backward(gradient_nD)
            else:
                torch.autograd.backward([part_nD, token_loss * token_weight], [gradient_nD, None])
                total += token_loss.item()
            parts[i] = part_nD.detach(), None  # frees its graph
        return total

    def _run(self, micro_batch: MicroBatch, weight: Weight, observers: Observers = lambda tokens: ()) -> _Part:
        """Pooled states (n, D), and the next-token loss of answers behind <USER>, which only runs with a graph have; so
        it is with observers, of user micro-batches."""
        batch = self.sequences[micro_batch.tower].batch(micro_batch.index_n).to(self.encoder.device)
        torch.manual_seed(micro_batch.seed)
        tokens = batch.layout.tokens
        own = tokens.without_answers()
        has_graph = torch.is_grad_enabled()
        attached = observers(own) if micro_batch.tower == "user" and has_graph else ()
        visible = tokens.closed_to_answers(weight(own))
        if tokens.answer_BL is None or not has_graph:
            return self.encoder(batch, visible, attached), None
        state_nD, hidden_nLD = self.encoder.pooled_and_hidden(batch, visible, attached)
        return state_nD, next_token_loss(self.encoder, hidden_nLD, batch)

    def _whole(self, parts: Sequence[Tensor]) -> dict[Tower, Tensor]:
        """Both towers' states in the rows' order, from those of the micro-batches."""
        states: dict[Tower, Tensor] = {}
        for tower in self.sequences:
            chosen = [(m.index_n, part) for m, part in zip(self.micro_batches, parts, strict=True) if m.tower == tower]
            back_b = np.argsort(np.concatenate([index_n for index_n, _ in chosen]))
            whole_bD = torch.cat([part for _, part in chosen])
            states[tower] = whole_bD[torch.from_numpy(back_b).to(self.encoder.device)]
        return states
