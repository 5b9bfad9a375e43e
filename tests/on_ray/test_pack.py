"""An encoder that is trained already gets its pretrained models by the command that trained it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ray_ggsm.config import InputError
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.pretrained import DIRECTORY, is_packed
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline


def test_a_finished_encoder_is_packed_and_event_texts_are_encoded_with_what_was_packed(
    finished: Experiment, experiment: Callable[..., Experiment], beside: Callable[..., str]
) -> None:
    original = SavedEncoder.read(Pipeline.of(finished).train.encoder)
    pipeline = Pipeline.of(experiment(output=beside("prepare-", "train-"), training__pack=True))
    train(pipeline)
    encoder = pipeline.train.encoder
    assert is_packed(encoder)
    assert not is_packed(original.location)
    assert SavedEncoder.read(encoder).digest == original.digest
    file = Path(encoder) / DIRECTORY / "event_encoder" / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="the event encoder packed here was changed; restore it"):
        embed(pipeline)
