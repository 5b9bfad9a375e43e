"""The part of each config that results depend on: marks, defaults, and what a changed value does to a digest.

`tests/identity.json` lists every field with its default and its mark. Digests leave out fields at their default, so a
default that changes would make old results pass for new ones. After adding a field, write it down:

    python -m tests.test_identity
"""

import datetime as dt
import json
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from ray_ggsm.cli.attach_definition import AttachDefinitionConfig
from ray_ggsm.cli.export import ExportConfig
from ray_ggsm.config import Before, Config, InputError, as_before, build, digest, identity
from ray_ggsm.config.base import RUNTIME
from ray_ggsm.evaluation.config import AttentionConfig
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.drift import DriftConfig
from ray_ggsm.on_ray.explain import ExplainConfig
from ray_ggsm.on_ray.lookalike import LookalikeConfig
from ray_ggsm.on_ray.monitor import MonitorConfig
from ray_ggsm.on_ray.refresh import RefreshConfig
from ray_ggsm.on_ray.replay import ReplayConfig
from ray_ggsm.on_ray.simulate import SimulateConfig
from ray_ggsm.on_ray.study_config import StudyConfig
from ray_ggsm.on_ray.synthesis.config import SynthesizeConfig
from ray_ggsm.on_ray.tune_prompt import TunePromptConfig

FILE = Path(__file__).with_name("identity.json")
COMMAND = "python -m tests.test_identity"
ROOTS = [
    Experiment, RefreshConfig, StudyConfig, DriftConfig, LookalikeConfig, AttachDefinitionConfig, AttentionConfig,
    SimulateConfig, ReplayConfig, MonitorConfig, SynthesizeConfig, TunePromptConfig, ExplainConfig, ExportConfig,
]  # fmt: skip
"""Config classes of files, and one that has a digest of its own although the experiment's leaves it out."""

DATA = {
    "source": {
        "kind": "files",
        "tables": {"clicks": {"files": "clicks.csv", "user": "uid", "time": "ts", "types": {"price": "double"}}},
    },
    "modalities": {
        "view": {
            "table": "clicks",
            "text": "{page}",
            "fields": {"page": {"text": "{page}"}},
            "parts": {"texts": "[page]"},
            "keep": 5,
        }
    },
    "features": [
        {"name": "spend", "table": "clicks", "sql": "sum(price)", "windows": [7, 30]},
        {"name": "pages", "table": "clicks", "sql": "count(*)", "per": "page", "top": 3},
    ],
    "snapshots": {
        "cutoffs": {"first": "2024-02-01", "every_days": 14, "count": 5},
        "minimum_events": {"table": "clicks", "count": 1},
    },
    "splits": {
        "pretrain": {"role": "train", "users": "train", "cutoffs": [0, 1], "learn_from": [0]},
        "later": {"users": "test", "cutoffs": [4], "future": True},
    },
    "labels": {"buys": {"group": "sales", "table": "clicks", "sql": "count(*)", "at_least_quantile": 0.5}},
}
EXPERIMENT = {
    "name": "example",
    "output": "out",
    "data": DATA,
    "model": {"backbone": {"name": "decoder"}, "event_encoder": {"name": "events"}},
    "mask": {"recipe": "causal"},
    "training": {"steps": 5, "batch_size": 4, "held_out": {"split": "later"}},
}
SIDE = {"table": "users"}


def changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of nested values with another value at a path."""
    key, _, rest = path.partition(".")
    return {**values, key: changed(values[key], rest, value) if rest else value}


def members(annotation: Any) -> Iterator[Any]:
    """The types that a type is made of, itself included, without the fields of classes."""
    yield annotation
    for inner in typing.get_args(annotation) if typing.get_origin(annotation) is not Literal else ():
        yield from members(inner)


def classes(roots: list[type[Config]], *, below_runtime: bool = True) -> dict[str, type[Config]]:
    """Every config class that the fields of the roots lead to, by name; Runtime fields only with `below_runtime`."""
    found: dict[str, type[Config]] = {}
    waiting = list(roots)
    while waiting:
        cls = waiting.pop()
        if found.setdefault(cls.__name__, cls) is not cls:
            raise AssertionError(f"two config classes are called {cls.__name__}: {cls} and {found[cls.__name__]}")
        fields = [field for field in cls.model_fields.values() if below_runtime or RUNTIME not in field.metadata]
        inner = [m for field in fields for m in members(field.annotation) if isinstance(m, type)]
        waiting += [m for m in inner if issubclass(m, Config) and found.get(m.__name__) is not m]
    return found


CLASSES = classes(ROOTS)
RECIPES = [
    name
    for cls in CLASSES.values()
    if "recipe" in cls.model_fields
    for name in typing.get_args(cls.model_fields["recipe"].annotation)
]
EXAMPLES: list[Config] = [
    build(Experiment, EXPERIMENT, "example"),
    build(Experiment, changed(EXPERIMENT, "data.source", {"kind": "journey"}), "example"),
    build(Experiment, changed(EXPERIMENT, "data.source", {"kind": "store", "location": "x", "manifest": 1}), "example"),
    build(Experiment, changed(EXPERIMENT, "model.fusion", {}), "example"),
    build(Experiment, changed(EXPERIMENT, "model.fusion", {"bag": {}}), "example"),
    build(Experiment, changed(EXPERIMENT, "model.backbone", {"name": "d", "weights": "random"}), "example"),
    build(Experiment, changed(EXPERIMENT, "model.projection", {}), "example"),
    build(Experiment, changed(EXPERIMENT, "training.old_space", {"encoder": "older"}), "example"),
    *(
        build(Experiment, {**EXPERIMENT, "mask": None, "model": {"kind": k, "event_encoder": {"name": "e"}}}, "example")
        for k in ("cpc", "coles", "msdp", "one4all", "found")
    ),
    *(
        build(Experiment, {**EXPERIMENT, "mask": None, "model": model}, "example")
        for model in (
            {"kind": "supervised", "event_encoder": {"name": "e"}}, {"kind": "features"}, {"kind": "text", "name": "m"}
        )
    ),
    build(Experiment, {**EXPERIMENT, "ray": {"embed_workers": {"min": 2, "max": 4}}}, "example"),
    build(Experiment, changed(EXPERIMENT, "training.targets", {"horizons_days": [1]}), "example"),
    build(
        Experiment,
        changed(EXPERIMENT, "evaluation", {"few_labels": {}, "dimensions": {}, "privacy": {"others": "later"}}),
        "example",
    ),
    *(build(Experiment, changed(EXPERIMENT, "mask", {"recipe": recipe}), "example") for recipe in RECIPES),
    build(RefreshConfig, {"rows": "*", "encoder": "e", "table": "t", "event_encoder": {"name": "b"}}, "example"),
    build(
        RefreshConfig,
        {"rows": "*", "encoder": "e", "table": "t", "event_encoder": {"name": "b"},
         "carry": {"when": "events", "max_age_days": 7}},
        "example",
    ),
    build(
        ReplayConfig,
        {"experiment": "e.yaml", "nights": 3, "output": "out", "carry": {"when": "events", "max_age_days": 7}},
        "example",
    ),
    build(
        RefreshConfig,
        {"events": {"source": {"kind": "store", "location": "x"}, "minimum_events": {"table": "clicks", "count": 1}},
         "encoder": "e", "table": "t", "event_encoder": {"name": "b"}},
        "example",
    ),
    build(
        StudyConfig,
        {"name": "s", "experiment": "e.yaml", "output": "out", "variants": {"a": {"mask.recipe": "causal"}},
         "reference": "a"},
        "example",
    ),
    build(
        DriftConfig,
        {"old": SIDE, "new": SIDE, "output": "o", "labels": {"fit": "f", "score": "s"}, "mapped": {}},
        "example",
    ),
    build(Experiment, changed(EXPERIMENT, "publishing", {"compatible": {"to": [{"version": 1}]}}), "example"),
    AttentionConfig(),
    build(AttachDefinitionConfig, {"experiment": "e.yaml", "encoder": "e"}, "example"),
    build(ExportConfig, {"target": "mlflow", "encoder": "e", "output": "o"}, "example"),
    build(ExportConfig, {"target": "card", "experiment": "e.yaml", "output": "o"}, "example"),
    build(LookalikeConfig, {"table": "t", "users_file": "u", "output": "o"}, "example"),
    build(
        MonitorConfig,
        {
            "table": "t",
            "labels": {"files": "l.parquet", "future_days": 30},
            "first": dt.date(2024, 3, 1),
            "output": "o",
        },
        "example",
    ),
    build(ExplainConfig, {"encoder": "e", "probes": "p", "label": "l", "rows": "r", "output": "o"}, "example"),
    build(TunePromptConfig, {"experiment": "e.yaml", "label": "l", "output": "o"}, "example"),
    build(Experiment, changed(EXPERIMENT, "training.questions", {"output": "q"}), "example"),
    build(
        Experiment,
        changed(EXPERIMENT, "training.trackers", [{"kind": "mlflow", "uri": "https://x"}, {"kind": "wandb"}]),
        "example",
    ),
    *(
        build(
            SynthesizeConfig,
            {"experiment": "e.yaml", "output": "o", "client": client, "difficulty": {"embedding": {"name": "e"}}},
            "example",
        )
        for client in (
            {"kind": "rules"},
            {"kind": "openai", "base_url": "http://x/v1", "model": "m", "user_data_leave_the_cluster": True},
            {"kind": "transformers", "name": "m"},
            {"kind": "replay", "replies": "r", "model": "m"},
        )
    ),
    build(
        SimulateConfig,
        {"output": "o", "population": {"users": 2, "first_day": dt.date(2024, 3, 1), "days": 1}},
        "example",
    ),
]  # fmt: skip
"""Configs that together hold an instance of every class."""

OTHER: dict[str, list[dict[str, Any]]] = {
    "Experiment.mask": [{"mask": {"recipe": "causal"}, "model": EXPERIMENT["model"]}],
    "ProbeConfig.privacy": [{"privacy": {"others": "another"}}],
    "RefreshConfig.carry": [{"carry": {"when": "events", "max_age_days": 3}}],
    "SplitConfig.learn_from_users": [{"learn_from_users": "train", "users": "all"}],
    "DataConfig.splits": [{"splits": {"pretrain": DATA["splits"]["pretrain"]}}],
    "UsersConfig.test_table": [{"test_table": "clicks", "salt": "", "test_percent": 30}],
    "TextConfig.max_tokens": [{"max_tokens": 64}],
    "FeatureConfig.name": [{"name": "other"}],
    "BackboneConfig.seed": [{"seed": 3, "weights": "random"}],
    "SimulationConfig.first_day": [{"first_day": dt.date(2025, 1, 1)}],
    "FeatureConfig.per": [{"per": None, "top": None}, {"per": "page", "top": 3}],
    "ExportConfig.target": [{"target": "onnx"}, {"target": "onnx", "encoder": "e", "experiment": None}],
    "ExportConfig.encoder": [{"encoder": "other"}, {"target": "onnx", "encoder": "e", "experiment": None}],
    "ExportConfig.experiment": [
        {"experiment": "other.yaml"},
        {"target": "card", "encoder": None, "experiment": "e.yaml"},
    ],
    "ExportConfig.mask": [{"target": "mlflow", "encoder": "e", "experiment": None, "mask": "inference"}],
    "ExportConfig.instruction": [
        {"target": "mlflow", "encoder": "e", "experiment": None, "instruction": "buys baby food"}
    ],
    "ExportConfig.settings": [{"target": "card", "encoder": None, "experiment": "e.yaml", "settings": {"seed": 1}}],
    "ExportConfig.licence": [{"target": "card", "encoder": None, "experiment": "e.yaml", "licence": "mit"}],
    "FieldConfig.number": [{"number": "price", "text": None}],
    "FeatureConfig.top": [{"top": 4, "per": "page"}],
    "GGSMConfig.grad_site": [{"grad_site": "last"}],
    "HybridMaskConfig.grad_site": [{"grad_site": "last"}],
    "LabelConfig.above_quantile": [{"above_quantile": 0.5, "at_least_quantile": None}],
    "LookalikeConfig.text": [{"text": "buys baby food", "users_file": None}],
    "ModalityConfig.fields": [{"fields": {}}],
    "MonitorConfig.labels": [{"labels": None, "experiment": "e.yaml"}],
    "MonitorConfig.experiment": [{"labels": None, "experiment": "e.yaml"}],
    "MonitorConfig.first": [{"first": dt.date(2024, 4, 1)}],
    "RefreshConfig.events": [
        {"events": {"source": {"kind": "journey"}, "minimum_events": {"table": "lines", "count": 2}}, "rows": None}
    ],
    "RefreshConfig.rows": [{"rows": "other", "events": None}],
    "MapConfig.kinds": [{"kinds": ["linear"]}],
    "CompatibleConfig.kinds": [{"kinds": ["linear"]}],
    "DriftConfig.max_loss": [{"max_loss": 0.01}],
    "EventsConfig.as_of": [{"as_of": "2024-03-01"}],
    "RollingCutoffs.first": [{"first": "2024-03-01"}],
    "SnapshotsConfig.cutoffs": [{"cutoffs": ["2024-02-01"]}],
    "SnapshotsConfig.timezone": [{"timezone": "Europe/Berlin"}],
    "StudyConfig.questions": [{"questions": [["a", "event mean"]]}],
    "TableConfig.delimiter": [{"delimiter": ";"}],
    "TableConfig.quote": [{"quote": "'"}],
    "TableConfig.timezone": [{"timezone": "Europe/Berlin"}],
    "TableConfig.types": [{"types": {"price": "bigint"}}],
    "BackboneConfig.width": [{"width": 64, "weights": "random"}],
    "ModelConfig.centre": [{"centre": False, "fusion": None}],
    "ModelConfig.tabular_residual": [{"tabular_residual": True, "fusion": None}],
    "TrainingConfig.targets": [{"targets": {"horizons_days": [3]}}],
    "TargetsConfig.horizons_days": [{"horizons_days": [2, 5]}],
    "TrainingConfig.epochs": [{"epochs": 2.0, "steps": None}],
    "AnswerConfig.aggregated": [{"aggregated": True, "form": "text"}],
    "TrainingConfig.old_space": [{"old_space": {"encoder": "older"}}],
    "TrainingConfig.ntp_weight": [{"ntp_weight": 1.0, "answer": {"form": "text"}}],
    "TrainingConfig.terms": [{"terms": ["ua"]}],
    "TrainingConfig.trackers": [{"trackers": [{"kind": "wandb"}]}],
    "TrainingConfig.questions": [{"questions": {"output": "q", "share": 0.25}}],
    "SynthesizeConfig.client": [{"client": {"kind": "rules", "contents": 3}}],
}
"""Class.field -> another valid value, with those of fields that must go with it, where `others` finds none."""


def others(annotation: Any, value: Any) -> Iterator[Any]:
    """Values that could stand in the place of a JSON value, most of them valid."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, value / 2, value * 2)
    elif isinstance(value, str):
        yield value + "x"
    elif isinstance(value, list):
        yield from (value[1:], [*value, *value[:1]])
    elif isinstance(value, dict):
        yield from ({key: value[key] for key in list(value)[1:]}, {**value, "another": next(iter(value.values()), {})})
    for member in members(annotation):
        if typing.get_origin(member) is Literal:
            yield from typing.get_args(member)
    if type(None) in members(annotation):
        yield None
    if not value:
        yield from (1, 0.5, "x", ["x"], [1], {"x": "y"}, {}, "2024-03-01")


def with_another_value(config: Config, name: str) -> Config:
    """A valid config that differs in one field (and in the fields that must go with it)."""
    key, values = f"{type(config).__name__}.{name}", config.model_dump(mode="json")
    found = ({name: value} for value in others(type(config).model_fields[name].annotation, values[name]))
    for update in OTHER.get(key, found):
        try:
            new = build(type(config), {**values, **update}, "test")
        except InputError:
            continue
        if getattr(new, name) != getattr(config, name):
            return config.model_copy(update={name: getattr(new, name)})
    raise AssertionError(f"{key}: no other valid value was found; add one to OTHER in {__file__}")


Rebuild = Callable[[Config], Config]


def _has_one_value(field: Any) -> bool:
    """Whether the field is the name of its class, such as `recipe`."""
    return typing.get_origin(field.annotation) is Literal and len(typing.get_args(field.annotation)) == 1


def changes(config: Config, rebuild: Rebuild, below_runtime: bool = False) -> Iterator[tuple[str, bool, Config]]:
    """Class.field, whether the field or one above it is Runtime, and the root config with another value of it."""
    for name, field in type(config).model_fields.items():
        value, is_runtime = getattr(config, name), below_runtime or RUNTIME in field.metadata
        key = f"{type(config).__name__}.{name}"
        if not isinstance(value, Config):
            yield key, is_runtime, rebuild(config if _has_one_value(field) else with_another_value(config, name))

        def put(new: Any, owner: Config = config, name: str = name) -> Config:
            return rebuild(owner.model_copy(update={name: new}))

        if isinstance(value, Config):
            yield key, is_runtime, rebuild(config)
            yield from changes(value, put, is_runtime)
        elif isinstance(value, dict):
            for k, item in value.items():
                if isinstance(item, Config):
                    yield from changes(item, lambda new, k=k, value=value, put=put: put({**value, k: new}), is_runtime)
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                if isinstance(item, Config):
                    yield from changes(
                        item, lambda n, i=i, value=value, put=put: put((*value[:i], n, *value[i + 1 :])), is_runtime
                    )


def test_a_changed_value_moves_the_digest_unless_its_field_is_runtime() -> None:
    wrong, seen = [], set()
    for root in EXAMPLES:
        before = digest(root)
        for key, is_runtime, after in changes(root, lambda new: new):
            seen.add(key)
            if after == root:  # a config inside a config, whose own fields are changed, or the name of a kind
                continue
            if (digest(after) == before) != is_runtime:
                wrong.append(f"{key}: {'Runtime, but it changes' if is_runtime else 'it does not change'} the digest")
    assert not wrong, "\n".join(sorted(set(wrong)))
    missed = {f"{cls.__name__}.{name}" for cls in CLASSES.values() for name in cls.model_fields} - seen
    assert not missed, f"no example has these fields, add one to EXAMPLES: {sorted(missed)}"


def test_marks_stand_on_fields_only() -> None:
    """Inside a type, as in `Runtime[int] | None` or `tuple[Runtime[int], ...]`, a mark would do nothing."""
    for cls in CLASSES.values():
        for name, field in cls.model_fields.items():
            nested = [m for m in members(field.annotation) if typing.get_origin(m) is Annotated]
            assert not any(RUNTIME in typing.get_args(m)[1:] for m in nested), f"{cls.__name__}.{name}"


def described() -> dict[str, dict[str, Any]]:
    """Class.field -> its default, and whether it or all that leads to its class is Runtime."""
    identified = classes(ROOTS, below_runtime=False)
    return {
        f"{name}.{field}": _described(info, runtime=RUNTIME in info.metadata or name not in identified)
        for name in sorted(CLASSES)
        for field, info in CLASSES[name].model_fields.items()
    }


def _described(field: Any, *, runtime: bool) -> dict[str, Any]:
    mark = {"runtime": runtime}
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return mark
    if isinstance(default, BaseModel):
        default = {type(default).__name__: identity(default)}
    before = [mark.value for mark in field.metadata if isinstance(mark, Before)]
    return {**mark, "default": to_jsonable_python(default), **({"before": before[0]} if before else {})}


def complaints(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A sentence per field that is not as it was written down."""
    sentences = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if old is None:
            sentence = "this field is new. Decide whether results depend on it (Runtime[...] if they do not)"
        elif new is None:
            sentence = "this field is gone. Whoever set it gets new digests: their stages start anew"
        elif old["runtime"] != new["runtime"]:
            sentence = f"Runtime is {new['runtime']} and was {old['runtime']}. Whoever set it gets new digests"
        elif new["runtime"]:
            sentence = "its default has changed, which no digest depends on"
        elif _left_out(old) == _left_out(new):
            sentence = f"its default is now {new['default']}. Whoever left it out gets new digests"
        else:
            sentence = (
                f"its default was {old.get('default', 'none')} and is {new.get('default', 'none')}. Digests leave out"
                " defaults, so results of the old default would pass for results of the new one. Keep the default, or"
                " mark the field with Before(the old one), or give the new behaviour a field of its own"
            )
        sentences.append(f"{key}: {sentence}.")
    return sentences


def _left_out(field: dict[str, Any]) -> Any:
    """The value that digests leave out."""
    return field.get("before", field.get("default", "none"))


def test_defaults_and_marks_are_as_written_down() -> None:
    sentences = complaints(json.loads(FILE.read_text()), described())
    assert not sentences, "\n".join([*sentences, f"If all of this is meant: {COMMAND}"])


def test_complaints() -> None:
    one, two, plain = ({"runtime": False, "default": 1}, {"runtime": False, "default": 2}, {"runtime": False})
    before = {"C.a": one, "C.b": plain, "C.c": {**one, "runtime": True}}
    assert complaints(before, before) == []
    first, second, third, fourth = complaints(before, {"C.a": two, "C.c": one, "C.d": plain})
    assert first.startswith("C.a: its default was 1 and is 2. Digests leave out defaults")
    assert second.startswith("C.b: this field is gone")
    assert third.startswith("C.c: Runtime is False and was True")
    assert fourth.startswith("C.d: this field is new")
    (moved,) = complaints({"C.a": one}, {"C.a": {**two, "before": 1}})
    assert moved.startswith("C.a: its default is now 2. Whoever left it out gets new digests")
    (wrong,) = complaints({"C.a": {**two, "before": 1}}, {"C.a": two})
    assert "mark the field with Before" in wrong


class _Moved(Config):
    a: Annotated[int, Before(1)] = 2
    b: int = 5


def test_digests_leave_out_what_was_done_before() -> None:
    """A config of before the field, which said nothing, has the digest of the value of then."""
    assert identity(_Moved()) == {"a": 2}
    assert identity(_Moved(a=1)) == {}
    assert identity(_Moved(a=3)) == {"a": 3}
    assert as_before(_Moved(b=4)) == _Moved(a=1, b=4)
    assert as_before(_Moved(a=2)) == _Moved(a=2)


def test_the_study_of_masks_keeps_what_its_masks_were() -> None:
    """The masks of `configs/journey/study.yaml`, whose results are in docs, are those of the defaults of then."""
    for given, then in (
        ({"recipe": "ggsm", "row_scale": "kept"}, {"recipe": "ggsm"}),
        ({"recipe": "hybrid_mask", "row_scale": "kept", "timing": "previous_step"}, {"recipe": "hybrid_mask"}),
        ({"recipe": "hybrid_gq", "joins": "state"}, {"recipe": "hybrid_gq"}),
    ):
        assert identity(build(Experiment, changed(EXPERIMENT, "mask", given), "example").mask) == then


if __name__ == "__main__":
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in described().items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"wrote {FILE}")
