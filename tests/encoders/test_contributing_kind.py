"""The example of a new kind in CONTRIBUTING.md is complete: it is executed, validated and trained as it stands."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args

import pytest
import torch
from pydantic import Discriminator, Field

from ray_ggsm.config import Config, InputError, load
from ray_ggsm.encoders import kinds as encoder_kinds
from ray_ggsm.encoders.kinds import Inputs, Run, new_learner
from ray_ggsm.model import kinds
from ray_ggsm.model.modality import Modality
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import WIDTH, lookup
from tests.helpers.rows import user_rows

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
SECTION = PAGE.split("## Adding a kind of encoder\n")[1].split("\n## ")[0]
CONFIG, FILE, IN_UNION, IN_MODELS = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)


@pytest.fixture
def config_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's config, as a class of `ray_ggsm.model.kinds`."""
    namespace = {"StreamConfig": kinds.StreamConfig, "Literal": Literal, "Field": Field, "__name__": kinds.__name__}
    exec(compile(CONFIG, "CONTRIBUTING.md", "exec"), namespace)
    monkeypatch.setattr(kinds, "BagConfig", namespace["BagConfig"], raising=False)
    return namespace["BagConfig"]


def test_the_kind_is_a_setting_once_the_union_has_it(config_class: Any, tmp_path: Path) -> None:
    assert IN_UNION == '    | Annotated[BagConfig, Tag("bag")]\n'
    assert IN_UNION.replace("Bag", "Cpc").replace("bag", "cpc") in Path(kinds.__file__).read_text()
    union, _ = get_args(kinds.EncoderConfig)
    longer = union | Annotated[config_class, kinds.Tag("bag")]

    class Settings(Config):
        model: Annotated[longer, Discriminator(kinds.kind)]

    file = tmp_path / "config.yaml"
    file.write_text("model: {kind: bag, event_encoder: {name: e}, temperature: 0.2}")
    assert load(Settings, str(file)).model.temperature == 0.2
    file.write_text("model: {kind: bag, event_encoder: {name: e}, temprature: 0.2}")
    with pytest.raises(InputError, match="did you mean 'temperature'"):
        load(Settings, str(file))


def test_the_kind_learns(config_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert IN_MODELS.replace("Bag", "Cpc") in Path(encoder_kinds.__file__).read_text()
    module = ModuleType("ray_ggsm.encoders.bag")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(FILE, "CONTRIBUTING.md", "exec"), module.__dict__)
    monkeypatch.setitem(encoder_kinds.STREAM_MODELS, config_class, module.Bag)
    config = config_class(kind="bag", event_encoder={"name": "unused"}, width=8)
    training = TrainingConfig(steps=60, batch_size=24, optimizer={"learning_rate": 0.02})
    rows = user_rows(24)
    inputs = Inputs((Modality("bill", 7), Modality("app", 5)), (), (), WIDTH, "events", lookup)
    learner = new_learner(config, None, inputs, Run(training, ALONE, 0, rows, 80, torch.device("cpu")))
    learner.prepare()
    trainer = Trainer(learner, training, ALONE)
    losses = [trainer.step(rows)["loss"] for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
    assert learner.model.states(learner.reader.batch(rows)).shape == (24, 8)
