"""What is refused, and the card of a run against the files that it is filled from."""

import json
import math
import runpy
import tomllib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from ray_ggsm import storage
from ray_ggsm.cli.export import ExportConfig, export, preview
from ray_ggsm.config import InputError, build
from ray_ggsm.data.summary import DataSummary, KeptEvents
from ray_ggsm.evaluation.counts import SplitCounts
from ray_ggsm.evaluation.metrics import Estimate
from ray_ggsm.evaluation.privacy import Attack, Privacy
from ray_ggsm.experiment import Experiment
from ray_ggsm.exporting.manifest import Manifest, mask_digest
from ray_ggsm.exporting.onnx_graph import check_onnx
from ray_ggsm.exporting.standard_modules import check_standard
from ray_ggsm.masks.fixed import BidirectionalConfig, CausalConfig, HybridGQConfig
from ray_ggsm.masks.ggsm import GGSMConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.stage_results import EvaluateResult, PrepareResult, TrainResult
from ray_ggsm.stages import Pipeline
from tests.exporting.conftest import Place
from tests.helpers import ROOT
from tests.helpers.clicks import click_config, write_click_log, write_config

OPEN = BidirectionalConfig(recipe="bidirectional")
GGSM = GGSMConfig(recipe="ggsm", total_steps=10)


def test_onnx_refuses_what_a_graph_cannot_give(place: Place) -> None:
    half_open = SavedEncoder.read(place.language_model(GGSM, 6))
    with pytest.raises(InputError, match=r"half-open \(alpha 0.50\)"):
        check_onnx(half_open, finished_mask=False)
    check_onnx(half_open, finished_mask=True)
    with pytest.raises(InputError, match="computes in bfloat16"):
        check_onnx(SavedEncoder.read(place.language_model(OPEN, dtype="bfloat16")), finished_mask=False)
    with pytest.raises(InputError, match="blocks"):
        check_onnx(SavedEncoder.read(place.language_model(HybridGQConfig(recipe="hybrid_gq"))), finished_mask=False)
    closed = SavedEncoder.read(place.language_model(GGSM, 2))
    with pytest.raises(InputError, match=r"half-open \(alpha 0.00\)"):
        check_onnx(closed, finished_mask=False)
    with pytest.raises(InputError, match="no bags of contents"):
        check_onnx(SavedEncoder.read(place.language_model(OPEN, fusion={"bag": {}})), finished_mask=False)
    check_onnx(SavedEncoder.read(place.language_model(GGSM, 10)), finished_mask=False)
    check_onnx(SavedEncoder.read(place.language_model(CausalConfig(recipe="causal"), 5)), finished_mask=False)


def test_standard_modules_refuse_event_vectors(place: Place) -> None:
    with pytest.raises(InputError, match="kind llm reads event vectors"):
        check_standard(SavedEncoder.read(place.language_model(OPEN)))


def test_instructions_that_exports_do_not_take(place: Place) -> None:
    encoder = SavedEncoder.read(place.language_model(OPEN))
    with pytest.raises(InputError, match="soft prompt"):
        Manifest.of("mlflow", encoder, None, False, "prompt:/somewhere")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": "card", "encoder": "e"}, "card needs experiment"),
        ({"target": "mlflow", "experiment": "e.yaml"}, "mlflow needs encoder"),
        ({"target": "onnx", "encoder": "e", "licence": "mit"}, "belong to a card"),
        ({"target": "card", "experiment": "e.yaml", "mask": "inference"}, "says mask and instruction"),
    ],
)
def test_configs_that_say_too_much_or_too_little(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(ExportConfig, {**values, "output": "out"}, "test")


def test_an_output_that_is_there_is_kept(place: Place, tmp_path: Path) -> None:
    encoder = place.language_model(OPEN)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="is there already"):
        export(ExportConfig(target="sentence_transformers", encoder=encoder, output=str(tmp_path / "out")))
    config = ExportConfig(target="sentence_transformers", encoder=encoder, output=str(tmp_path / "other"))
    assert SavedEncoder.read(encoder).digest in preview(config)
    assert not (tmp_path / "other").exists()


def test_the_digest_of_a_mask_covers_what_it_depends_on(place: Place) -> None:
    def of(mask, step: int, finished: bool = False) -> str | None:
        return mask_digest(SavedEncoder.read(place.language_model(mask, step)).description, finished)

    found = [of(GGSM, 6), of(GGSM, 7), of(GGSM, 6, True), of(OPEN, 6)]
    assert len({*found}) == 4
    assert of(OPEN, 6) == of(OPEN, 7), "a mask that never changes does not depend on the step"
    assert of(GGSM, 6) == found[0]


@pytest.fixture
def run(tmp_path: Path, tiny_decoder: str, tiny_event_encoder: str) -> tuple[str, Pipeline]:
    """The config file of a run that is prepared and trained, and its pipeline."""
    write_click_log(tmp_path / "clicks.csv")
    values = click_config(str(tmp_path / "clicks.csv"), str(tmp_path / "out"), tiny_decoder, tiny_event_encoder)
    values["notes"] = ["The clicks are made up."]
    pipeline = Pipeline.of(build(Experiment, values, "test"))
    splits, labels = values["data"]["splits"], values["data"]["labels"]
    summary = DataSummary(
        rows={split: 1100 + n for n, split in enumerate(splits)},
        label_rates={split: dict.fromkeys(labels, 0.125) | {"busy": None} for split in splits},
        labels_defined={split: {"buys": 1048, "busy": 0} for split in splits},
        features=("events_7", "events_30", "spend"),
        modalities={"view": KeptEvents(keep=20), "buy": KeptEvents(keep=10)},
        events_cut={"view": 31, "buy": 0},
        distinct_texts={"view": 9, "buy": 9},
        dead_letters={"bad_time": 1},
        source={},
        thresholds={"busy": 4.5},
        vocabularies={},
    )
    storage.write_json(pipeline.prepare.path("stage.json"), PrepareResult(summary=summary).model_dump(mode="json"))
    encoder = Place(tmp_path / "place", tiny_decoder, tiny_event_encoder).language_model(GGSM, 6)
    storage.upload(encoder, pipeline.train.encoder)
    storage.write_json(pipeline.train.path("stage.json"), TrainResult(steps=6).model_dump(mode="json"))
    return write_config(tmp_path / "run.yaml", values), pipeline


def evaluated(pipeline: Pipeline, intervals: bool = True) -> dict:
    """Made-up results of a finished evaluation, which are returned."""
    rng = np.random.default_rng(0)

    def value() -> dict[str, float]:
        auc = float(rng.uniform(0.5, 0.95))
        return {"auc": auc, "cv_auc": 0.1} | ({"auc_low": auc - 0.03, "auc_high": auc + 0.02} if intervals else {})

    vectors, probes, labels = ("encoder", "untrained", "handcrafted"), ("linear", "lightgbm"), ("buys", "busy")
    found = {v: {p: {label: value() for label in labels} for p in probes} for v in vectors}
    means = {v: {p: value() for p in probes} for v in vectors} if intervals else {}
    storage.write_json(pipeline.evaluate.results_file, found | ({"mean_auc": means} if intervals else {}))
    auc = {v: {p: {label: r["auc"] for label, r in each.items()} for p, each in ps.items()} for v, ps in found.items()}
    counts = {split: SplitCounts(rows=1234, without_vector=0, labels={}) for split in ("probe", "test")}
    result = EvaluateResult(auc=auc, counts=counts)
    storage.write_json(pipeline.evaluate.path("stage.json"), result.model_dump(mode="json"))
    return found | {"mean": means}


def card_of(config: str, output: Path, **more) -> ModelCard:
    export(ExportConfig(target="card", experiment=config, output=str(output), **more))
    return ModelCard.load(output / "README.md")


def test_the_card_has_the_numbers_of_the_run(run: tuple[str, Pipeline], tmp_path: Path) -> None:
    config, pipeline = run
    found = evaluated(pipeline)
    card = card_of(config, tmp_path / "card", licence="apache-2.0")
    assert (card.data.license, card.data.model_name) == ("apache-2.0", "clicks")
    listed = {each.metric_name: each for each in card.data.eval_results}
    assert len(listed) == 4
    for probe, title in {"linear": "linear probe", "lightgbm": "LightGBM probe"}.items():
        for label in ("buys", "busy"):
            each = listed[f"AUC of '{label}', {title}"]
            assert math.isclose(each.metric_value, found["encoder"][probe][label]["auc"], abs_tol=1e-12)
            assert each.dataset_split == "test"
            cells = [
                f"{r['auc']:.4f} [{r['auc_low']:.4f}, {r['auc_high']:.4f}]"
                for r in (found[v][probe][label] for v in ("encoder", "untrained", "handcrafted"))
            ]
            assert f"| {label} | {' | '.join(cells)} |" in card.text
        mean = found["mean"]["encoder"][probe]
        assert f"| mean | {mean['auc']:.4f} [{mean['auc_low']:.4f}, {mean['auc_high']:.4f}] |" in card.text
    encoder = SavedEncoder.read(pipeline.train.encoder)
    for said in (
        encoder.digest,
        mask_digest(encoder.description, False),
        "half-open, as training left it at step 6",
        "opened to alpha 0.5 of 1",
        "on `test` (1,234 rows)",
        "| pretrain | train | train | 1,100 | 2, 2024-02-01 to 2024-02-15 |",
        "| test | score | test | 1,102 | 2024-03-28 |",
        "12.5% of 1,048 | 12.5% of 1,048 | 12.5% of 1,048 |",
        "none of 0",
        "bad_time 1",
        "- The clicks are made up.",
        "row definition: `unknown",
    ):
        assert said in card.text, said
    with pytest.raises(InputError, match="is there already"):
        card_of(config, tmp_path / "card")


def test_a_card_says_what_the_attacks_found(run: tuple[str, Pipeline], tmp_path: Path) -> None:
    config, pipeline = run
    evaluated(pipeline)
    at_chance, above = Estimate(0.5, 0.45, 0.55), Estimate(0.71, 0.66, 0.76)
    attack = Attack(encoder=above, untrained=at_chance, difference=Estimate(0.21, 0.14, 0.28))
    privacy = Privacy({"linear probe": attack}, trained=400, others=300)
    found = storage.read_json(pipeline.evaluate.results_file)
    storage.write_json(pipeline.evaluate.results_file, found | {"privacy": asdict(privacy)})
    card = card_of(config, tmp_path / "card")
    assert f"- Whether a vector tells that its user was trained on: {privacy.verdict}\n" in card.text
    assert "This fails" in privacy.verdict


def test_a_card_says_what_it_does_not_know(run: tuple[str, Pipeline], tmp_path: Path) -> None:
    config, pipeline = run
    card = card_of(config, tmp_path / "trained")
    assert card.data.license is None
    assert not card.data.eval_results
    assert "- Whether a vector tells that its user was trained on: this card does not know.\n" in card.text
    assert "Not evaluated: unknown: the run does not record it." in card.text
    evaluated(pipeline, intervals=False)
    older = card_of(config, tmp_path / "older")
    assert older.text.count("(interval unknown)") == 12
    assert "| mean | unknown | unknown | unknown |" in older.text


def test_a_card_needs_a_trained_encoder(run: tuple[str, Pipeline], tmp_path: Path) -> None:
    config, pipeline = run
    storage.remove(pipeline.train.path("stage.json"))
    with pytest.raises(InputError, match=r"run jobs/train\.py .* with --config "):
        card_of(config, tmp_path / "card")
    assert json.loads(Path(pipeline.prepare.path("stage.json")).read_text())["seconds"] == 0.0


def test_every_target_has_a_line_that_installs_it() -> None:
    """benchmarks/export_parity.py executes these lines."""
    parity = runpy.run_path(str(ROOT / "benchmarks" / "export_parity.py"))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = {what: parity["pip_lines"](section) for what, section in parity["SECTIONS"].items()}
    assert lines == {
        "sentence_transformers": ["pip install '.[text]'"],
        "texts": ["pip install 'sentence-transformers>=6'"],
        "mlflow": ["pip install '.[mlflow]'"],
        "onnx": ["pip install '.[onnx]'"],
    }
    assert {"text", "mlflow", "onnx"} <= extras.keys()
    assert extras["text"] == ["sentence-transformers>=6"]
