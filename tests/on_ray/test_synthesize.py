"""Questions and answers, end to end: counted or of a scripted server, with budgets and outages, and trained on."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ray_ggsm.building import lock
from ray_ggsm.config import InputError, NotNow, build
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.synthesis.config import SynthesizeConfig
from ray_ggsm.on_ray.synthesize import preview, synthesize
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline
from ray_ggsm.training.questions import QuestionsConfig, newest_questions
from tests.helpers.chat_server import Answer, chat_server, good

ROWS, IN_FLIGHT = 24, 4


@pytest.fixture
def config(finished: Experiment, tmp_path: Path) -> Callable[..., SynthesizeConfig]:
    """A config for the rows of the shared run."""
    file = tmp_path / "experiment.json"
    file.write_text(finished.model_dump_json())

    def make(client: dict[str, Any], **more: Any) -> SynthesizeConfig:
        values = {
            "experiment": str(file), "output": str(tmp_path / "questions"), "rows": ROWS, "rows_per_part": 8,
            "client": client, "pairs": {"per_user": 2, "calibration": 10, "scenarios": 5},
            "ray": {"embed_workers": 2}, **more,
        }  # fmt: skip
        return build(SynthesizeConfig, values, "test")

    return make


def server_client(url: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": "openai", "base_url": url, "model": "scripted", "user_data_leave_the_cluster": True,
        "in_flight": IN_FLIGHT, "retries": 0, "max_reply_tokens": 200, **more,
    }  # fmt: skip


def tables(directory: str) -> list[dict[str, Any]]:
    return [row for file in sorted(Path(directory).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_counted_pairs_are_written_once_and_trained_on(
    config: Callable, finished: Experiment, experiment: Callable, beside: Callable
) -> None:
    mine = config({"kind": "rules"}, rows=None, difficulty={"embedding": finished.model.event_encoder.model_dump()})
    assert "counted; no request is made" in preview(mine)
    result = synthesize(mine)
    rows = tables(result.rows)
    assert len(rows) == result.pairs == result.counts.pairs > 0
    assert all(row["query"] and row["answer"] and row["future"] is not None for row in rows)
    assert result.difficulty is not None
    assert result.difficulty.pairs == 10
    assert "Questions and answers" in Path(result.rows).parent.joinpath("quality.html").read_text()
    before = {file: file.stat().st_mtime_ns for file in Path(result.rows).glob("*.parquet")}
    again = synthesize(mine)
    newest = newest_questions(QuestionsConfig(output=mine.output))
    assert newest is not None
    assert again.digest == result.digest == newest.digest
    assert before == {file: file.stat().st_mtime_ns for file in Path(result.rows).glob("*.parquet")}

    questions = {"output": mine.output, "share": 0.5}
    asked = experiment(output=beside("prepare-", "event_vectors"), training__steps=2, training__questions=questions)
    stage = Path(train(Pipeline.of(asked)))
    log = json.loads((stage / "log.json").read_text())
    assert all(entry["instruction_tokens_cut"] > 0 for entry in log)  # 64 tokens, one per byte here
    assert SavedEncoder.read(str(stage / "encoder")).description.text_answers is True
    fewer = finished.data.model_dump(mode="json")["features"][:1]
    strange = experiment(output=str(Path(asked.output) / "x"), training__questions=questions, data__features=fewer)
    prepare(Pipeline.of(strange))
    with pytest.raises(InputError, match="have other events or features than those in"):
        train(Pipeline.of(strange))
    salted = experiment(output=str(Path(asked.output) / "y"), training__questions=questions, data__users={"salt": "z"})
    prepare(Pipeline.of(salted))
    with pytest.raises(InputError, match=r"other users are test users \(data\.users\); run jobs/synthesize\.py"):
        train(Pipeline.of(salted))
    other = experiment(output=asked.output, training__steps=2)
    assert Pipeline.of(other).train.location != Pipeline.of(asked).train.location


def test_training_without_questions_says_what_to_run(experiment: Callable, beside: Callable, tmp_path: Path) -> None:
    asked = experiment(output=beside("prepare-"), training__questions={"output": str(tmp_path / "nothing")})
    with pytest.raises(InputError, match=r"training\.questions: .* run jobs/synthesize\.py"):
        train(Pipeline.of(asked))


def test_a_budget_stops_and_a_larger_one_goes_on(config: Callable) -> None:
    with chat_server(lambda messages, before: good(messages)) as server:
        small = config(server_client(server.url), budget={"tokens": 8_000, "reply_price": 1.0})
        assert "requests" in preview(small)
        with pytest.raises(Exception, match=r"budget\.tokens: 8,000 tokens are spent"):
            synthesize(small)
        spent = json.loads((Path(small.output) / "spent.json").read_text())["tokens"]
        assert 0 < spent == tokens_of(small.output) <= 8_000
        result = synthesize(config(server_client(server.url)))
    # 1 for the pool, then three for each row, of which rows of the calibration set have two before
    assert result.counts.requests["asked"] + result.counts.requests["found"] >= 3 * ROWS
    assert set(server.answered.values()) == {1}
    assert len(server.requests) == 1 + 3 * ROWS
    assert result.pairs == 2 * ROWS == len(tables(result.rows))
    assert result.counts.requests["reply_tokens"] > 0


def test_an_outage_loses_nothing_and_asks_nothing_twice(config: Callable) -> None:
    down = [True]

    def script(messages: list[dict[str, str]], before: int) -> Answer:
        return 503 if down[0] and len(server.requests) > 30 else good(messages)

    with chat_server(script) as server:
        mine = config(server_client(server.url))
        with pytest.raises(Exception, match="answers 503") as raised:
            synthesize(mine)
        assert any(isinstance(error, NotNow) for error in causes(raised.value))
        down[0] = False
        result = synthesize(mine)
    assert set(server.answered.values()) == {1}
    assert result.pairs == 2 * ROWS


@pytest.mark.parametrize(("status", "error", "sentence"), [(503, NotNow, "answers 503"), (401, InputError, "401")])
def test_one_request_that_fails_costs_no_other_its_reply(
    status: int, error: type[Exception], sentence: str, config: Callable, tmp_path: Path
) -> None:
    """The other worker goes on. Both have the prompts from the driver, whose directory they may not see."""
    mine, moved = tmp_path / "prompts", tmp_path / "moved"
    mine.mkdir()
    (mine / "revise.txt").write_text("Check each pair, all $count.")
    failing: list[str] = []

    def script(messages: list[dict[str, str]], before: int) -> Answer:
        if mine.exists() and not failing:
            mine.rename(moved)
        if len(messages) == 1:  # whether the server answers anything
            return status
        if "Check each pair" not in messages[0]["content"] or failing == ["none"]:
            return good(messages)
        assert messages[0]["content"] == "Check each pair, all 2."
        if not failing:
            failing.append(messages[1]["content"])
        if messages[1]["content"] == failing[0]:
            return status
        time.sleep(0.5)
        return good(messages)

    with chat_server(script) as server:
        settings = config(server_client(server.url), prompts=str(mine))
        with pytest.raises(error, match=sentence):
            synthesize(settings)
        moved.rename(mine)
        failing[:] = ["none"]
        result = synthesize(settings)
    assert set(server.answered.values()) == {1}
    assert result.pairs == 2 * ROWS


def test_two_runs_do_not_share_an_output(config: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = config({"kind": "rules"})
    file = Path(mine.output, "synthesize.lock")
    file.parent.mkdir()
    holder = lock.Holder.this_process()
    holder.write(str(file))
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.0)
    read = lock.Holder.read

    def renewed(location: str) -> lock.Holder | None:
        """The other run writes its lock again just before anybody reads it."""
        nonlocal holder
        holder = holder.model_copy(update={"renewed": holder.renewed + 1})
        holder.write(location)
        return read(location)

    monkeypatch.setattr(lock.Holder, "read", renewed)
    with pytest.raises(NotNow, match="another run with this output is running"):
        synthesize(mine)
    assert read(str(file)).token == holder.token
    assert not Path(mine.output, "questions.json").exists()


def test_what_was_refused_is_asked_again_by_the_next_run(config: Callable) -> None:
    run = 1

    def script(messages: list[dict[str, str]], before: int) -> Answer:
        refused = run == 1 or (run == 2 and json.loads(messages[1]["content"])["history"][0][0] in "02468")
        return 400 if "Write one question" in messages[0]["content"] and refused else good(messages)

    with chat_server(script) as server:
        mine = config(server_client(server.url))
        with pytest.raises(InputError, match=r"no pair was written; write: refused \(\d+, for example: 400 .*scripted"):
            synthesize(mine)
        assert newest_questions(QuestionsConfig(output=mine.output)) is None
        run = 2
        some = synthesize(mine)
        assert 0 < some.pairs == 2 * (ROWS - some.counts.failed["write: refused"]) < 2 * ROWS
        run = 3
        result = synthesize(mine)
    assert (result.pairs, result.counts.failed) == (2 * ROWS, {})
    assert len(tables(result.rows)) == 2 * ROWS
    assert set(server.answered.values()) == {1}


def test_replies_that_do_not_fit_are_in_the_table_of_failures(config: Callable) -> None:
    def script(messages: list[dict[str, str]], before: int) -> str:
        broken = "Check each pair" in messages[0]["content"] and len(messages[1]["content"]) % 2
        return "{broken" if broken else good(messages)

    with chat_server(script) as server:
        result = synthesize(config(server_client(server.url)))
        replies = str(Path(result.rows).parents[1] / "replies")
        replay = {"kind": "replay", "model": "scripted", "max_reply_tokens": 200, "replies": replies}
        recorded = synthesize(config(replay))
    failed = tables(str(Path(result.rows).parent / "failed"))
    assert failed
    assert {(row["step"], row["reason"], row["raw"]) for row in failed} == {("revise", "reply_does_not_fit", "{broken")}
    assert result.counts.failed == {"revise: reply_does_not_fit": len(failed)}
    assert result.pairs == 2 * (ROWS - len(failed))
    assert tables(recorded.rows) == tables(result.rows)


def tokens_of(output: str) -> int:
    """Tokens of all replies that are kept."""
    replies = [json.loads(file.read_text()) for file in Path(output).glob("replies/*/*.json")]
    return sum(reply["prompt_tokens"] + reply["reply_tokens"] for reply in replies)


def causes(error: BaseException | None) -> list[BaseException]:
    """The error, and all that stand behind it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = getattr(error, "cause", None) or error.__cause__
    return found
