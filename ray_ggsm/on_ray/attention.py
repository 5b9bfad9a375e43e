"""Where the attention of the train stage's encoders goes: before training and after it, on the same users.

Writes `<output>/attention-<digest>/attention.json`: for each of three readings the step and alpha of its mask, and
`AttentionMeans`. They tell what the mask did from what the weights learned:

    before    the encoder at step 0, as embedding uses it: under the mask that training began with
    opened    the encoder at step 0, under the mask of `after` (hybrid_mlp's mask is weights: there it is `before`)
    after     the trained encoder, as embedding uses it
"""

import time
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import ray

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.data.validate import validate
from ray_ggsm.evaluation.attention import AttentionMeans, attention_of, terminal_table
from ray_ggsm.evaluation.attention_pictures import attention_figure
from ray_ggsm.evaluation.mask_pictures import Figure
from ray_ggsm.experiment import Experiment, stages
from ray_ggsm.model import saved
from ray_ggsm.model.event_vectors import Store
from ray_ggsm.on_ray.cluster import connected
from ray_ggsm.on_ray.devices import actor_resources, device_of
from ray_ggsm.on_ray.embed import describe_encoder, modalities
from ray_ggsm.on_ray.events import encode_events
from ray_ggsm.on_ray.plan import Block, plan, read_block


def attention(experiment: Experiment) -> dict[str, Any]:
    """Look at the sample's attention, print a table, and return what was written; a finished result is reused.

    Raises:
        InputError: the train stage is not finished, or the stage to look at has no rows.
    """
    file = result_file(experiment)
    if not storage.exists(file):
        began = time.monotonic()
        place = stages(experiment)
        place["prepare"].require("jobs/prepare.py")
        place["train"].require("jobs/train.py")
        described = describe_encoder(place["train"].path("encoder"), experiment.embedding)
        names, features = modalities(described), len(described["feature_names"])
        blocks = _blocks(experiment, names, features)
        with connected(experiment):
            events = encode_events(experiment, blocks, names, described["event_encoder_digest"])
            task = _readings.options(**actor_resources(experiment.ray))
            readings = ray.get(task.remote(experiment, place["train"].location, blocks, names, features, events.store))
        values = {"stage": experiment.attention.stage, "train": place["train"].location, "readings": readings}
        storage.write_json(file, {**values, "seconds": round(time.monotonic() - began, 1)})
    result: dict[str, Any] = storage.read_json(file)
    means = {name: AttentionMeans(**reading["means"]) for name, reading in result["readings"].items()}
    print(f"{terminal_table(means)}\nattention: {file}", flush=True)
    return result


def result_file(experiment: Experiment) -> str:
    """Where the result is, or will be."""
    train = stages(experiment)["train"].location.rsplit("/", 1)[-1]
    name = f"attention-{digest(train, experiment.attention, experiment.embedding.mask)}"
    return storage.join(storage.absolute(experiment.output), name, "attention.json")


def attention_picture(experiment: Experiment) -> Figure | None:
    """Before and after as a picture; None: jobs/attention.py has not looked yet."""
    file = result_file(experiment)
    if not storage.exists(file):
        return None
    readings = storage.read_json(file)["readings"]
    return attention_figure(*(AttentionMeans(**readings[name]["means"]) for name in ("before", "after")))


def check_stage(experiment: Experiment) -> None:
    """Refuse a stage that the data do not have."""
    wanted, known = experiment.attention.stage, experiment.data.stages
    if wanted not in known:
        raise InputError(f"attention.stage: there is no stage '{wanted}' in data.stages; it has {', '.join(known)}")


def _blocks(experiment: Experiment, names: list[str], features: int) -> list[Block]:
    """The first blocks of the stage's rows, just enough for the sample."""
    config, place = experiment.attention, stages(experiment)["prepare"]
    check_stage(experiment)
    blocks, rows = [], 0
    for block in plan(storage.list_files(place.path("rows", config.stage), ".parquet"), config.rows, names, features):
        if rows < config.rows:
            blocks.append(block)
            rows += block.rows
    if not blocks:
        raise InputError(f"attention.stage: '{config.stage}' has no rows; choose another stage")
    return blocks


@ray.remote
def _readings(
    experiment: Experiment, train: str, blocks: list[Block], names: list[str], features: int, store: Store
) -> dict[str, Any]:
    """Every reading with its step, alpha and means."""
    config, limit = experiment.attention, experiment.data.max_text_length
    columns = ["user_id", "as_of", *names, "tabular", "query"]
    tables = [validate(read_block(block, columns), names, features, limit, source=block.file)[0] for block in blocks]
    rows = pa.concat_tables(tables).slice(0, config.rows)
    device = device_of(experiment.ray)
    before, after = (saved.load(storage.join(train, name), device) for name in ("untrained", "encoder"))
    for trained in (before, after):
        trained.encoder.merge_lora()  # as embedding does
    opened = replace(before, recipe=after.recipe, step=after.step)
    lookup, finished = store.open(), experiment.embedding.mask == "inference"
    return {
        name: {
            "step": trained.step,
            "alpha": 1.0 if finished else trained.recipe.alpha(trained.step),
            "means": asdict(attention_of(trained, lookup, rows, finished)),
        }
        for name, trained in {"before": before, "opened": opened, "after": after}.items()
    }
