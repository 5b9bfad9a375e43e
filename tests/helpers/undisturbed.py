"""The training stage as one plain loop in this process: what interrupted and distributed runs must end like."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
from safetensors.numpy import load_file

from ray_ggsm import storage
from ray_ggsm.experiment import Experiment
from ray_ggsm.model import saved
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.event_vectors import find
from ray_ggsm.model.saved import new_encoder
from ray_ggsm.stages import Pipeline
from ray_ggsm.training import loop
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.loop import HEAD_ROWS, Trainer
from ray_ggsm.training.pairs import Pairs, head
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import nominal_peak

Weights = dict[str, np.ndarray]


def undisturbed(experiment: Experiment, directory: Path) -> tuple[Weights, list[dict[str, float]]]:
    """Final weights and log of a run over prepared rows and stored event vectors; writes its encoder to `directory`."""
    pipeline = Pipeline.of(experiment)
    prepared = pipeline.prepare
    (store,) = {file.rsplit("/", 1)[0] for file in storage.list_files(pipeline.event_vectors, ".parquet")}
    vectors = find(store, experiment.ray.cache_directory).open()
    bundle = new_encoder(
        experiment.model,
        experiment.resolved_mask(),
        experiment.modalities,
        prepared.require().summary.features,
        vectors.width,
        store.rsplit("/", 1)[1],
        experiment.seed,
    )
    rows = prepared.rows("pretrain")
    pairs = Pairs(rows, experiment.training.batch_size, experiment.seed)
    collator = Collator(bundle.encoder.template, bundle.tokenizer, vectors)
    first = head(rows, HEAD_ROWS)
    with patch.object(loop, "peak_flops", nominal_peak):
        learner = Contrastive(bundle, collator, experiment.training, ALONE, experiment.seed, head=first)
        trainer = Trainer(learner, experiment.training, ALONE)
    learner.prepare()
    while not trainer.done:
        trainer.step(pairs.batch(learner.step))
    learner.settle()
    learner.save_encoder(str(directory))
    return weights(directory), trainer.log


def weights(encoder: Path) -> Weights:
    """All tensors of a saved encoder."""
    return {f"{name}/{key}": t for name in saved.FILES for key, t in load_file(encoder / name).items()}
