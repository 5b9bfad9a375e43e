"""No sequence at all: the features' network alone, with the targets of a config, scored as `tune.py` scores encoders.

    python benchmarks/features_network.py --config configs/journey/quickstart.yaml [--set seed=1]

The vector is that of `model.fusion`, with a constant in the place of the sequence's component. It shows what the
sequence, and with it the language model, adds to a network of the hand-crafted features. Prepared rows are reused.

Legend: B rows, F tabular features, W width of the vector.
"""

import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import ray
import torch
from torch import Tensor
from tune import KINDS, fold_scores, print_scores

from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.adapters import TabularAdapter
from ray_ggsm.model.batch import tabular_matrix
from ray_ggsm.model.fusion import Fusion, component_scales, fuse
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.stages import Pipeline
from ray_ggsm.training.optimizer import make_optimizer, set_learning_rate
from ray_ggsm.training.pairs import head
from ray_ggsm.training.targets import Heads, TargetMaker, Targets

EVERY_ROW = 1 << 40


class FeaturesNetwork(torch.nn.Module):
    """Features (B, F) -> vectors (B, W)."""

    def __init__(self, experiment: Experiment, tabular_BF: Tensor) -> None:
        super().__init__()
        assert experiment.model.fusion is not None, "the config needs model.fusion"
        self.adapter = TabularAdapter(tabular_BF.shape[1], 1, 1, 0.0, False)
        self.adapter.fit(tabular_BF)
        self.fusion = Fusion(tabular_BF.shape[1], experiment.model.fusion)
        self.width = 1 + sum(self.fusion.widths)

    def states(self, tabular_BF: Tensor) -> Tensor:
        """States before centring."""
        states: Tensor = self.fusion(self.adapter.z_scores(tabular_BF))
        return states

    def vectors(self, states: Tensor, centre: Tensor, scales: Tensor) -> Tensor:
        """Unit vectors, with a constant first."""
        constant = torch.ones(len(states), 1)
        return fuse(torch.cat([constant, states - centre], dim=1), self.fusion.widths, scales)


def train(experiment: Experiment, rows: pa.Table) -> tuple[FeaturesNetwork, Tensor, Tensor]:
    """The trained network, with the centre and the scales of all rows."""
    config, seed = experiment.training, experiment.seed
    assert config.targets is not None, "the config needs training.targets"
    torch.manual_seed(seed)
    tabular_BF = tabular_matrix(rows)
    network = FeaturesNetwork(experiment, tabular_BF)
    names = [modality.name for modality in experiment.modalities]
    maker = TargetMaker(config.targets, names, experiment.data.snapshots.future_days, rows, torch.device("cpu"))
    targets = maker(rows)
    heads = Heads(network.width, maker.widths, maker.prior, seed)
    trained = {**dict(network.named_parameters()), **{f"heads.{n}": p for n, p in heads.named_parameters()}}
    trained = {name: p for name, p in trained.items() if p.requires_grad}
    optimizer, rng = make_optimizer(trained, config.optimizer), np.random.default_rng(seed)
    for step in range(config.total_steps):
        set_learning_rate(optimizer, config.optimizer, step, config.total_steps)
        chosen = torch.from_numpy(rng.choice(len(rows), config.batch_size, replace=False))
        states = network.states(tabular_BF[chosen])
        centred = states - states.mean(dim=0)
        scales = component_scales(centred, network.fusion.widths)
        vectors = network.vectors(states, states.mean(dim=0), scales)
        losses = heads.losses(vectors, Targets(*(part[chosen] for part in targets.parts)), config.targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(list(trained.values()), config.optimizer.clip_norm)
        optimizer.step()
    network.eval()
    with torch.no_grad():
        states = network.states(tabular_BF)
        centre = states.mean(dim=0)
        return network, centre, component_scales(states - centre, network.fusion.widths)


def features_alone(config: str, settings: list[str], kinds: Sequence[str] = KINDS) -> str:
    """Prepare, train and score the network for a config with changes; its scores and seconds."""
    experiment = load(Experiment, config, settings)
    place = Pipeline.of(experiment)
    with connected(experiment):
        prepare(place)
    ray.shutdown()
    rows = head(place.prepare.rows(experiment.data.train_split), EVERY_ROW)
    started = time.perf_counter()
    network, centre, scales = train(experiment.resolved(len(rows)), rows)
    seconds = time.perf_counter() - started
    probe = head(place.prepare.rows("probe"), EVERY_ROW)
    with torch.no_grad():
        vectors = network.vectors(network.states(tabular_matrix(probe)), centre, scales).numpy()
    table = probe.select(["user_id", "as_of"]).append_column("embedding", pa.array(list(vectors)))
    return f"{fold_scores(place, table, kinds)} | training {seconds:.0f} s"


if __name__ == "__main__":
    print_scores(features_alone, __doc__)
