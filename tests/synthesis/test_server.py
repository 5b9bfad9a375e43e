"""A server that is good, broken, slow, empty, busy or gone."""

import json
import threading
from pathlib import Path

import pytest

from ray_ggsm.config import InputError, NotNow, build
from ray_ggsm.synthesis.chat import Ask, Message, Refused, Reply
from ray_ggsm.synthesis.clients import ServerChat
from ray_ggsm.synthesis.config import OpenAIConfig
from ray_ggsm.synthesis.formats import Choice, Limits, schema_of
from tests.helpers.chat_server import chat_server

GOOD = '{"chosen": [0]}'


def config(url: str, **more: object) -> OpenAIConfig:
    values = {"kind": "openai", "base_url": url, "model": "m", "user_data_leave_the_cluster": True, "retries": 3}
    return build(OpenAIConfig, {**values, **more}, "test")


def asks(n: int) -> list[Ask]:
    return [
        Ask((Message("system", "s"), Message("user", f"{i}")), Choice, Limits(1, 1, positions=5), "m", 50, 0.5, 7)
        for i in range(n)
    ]


def found(url: str, n: int = 1, **more: object) -> dict[int, Reply | Refused]:
    return dict(ServerChat(config(url, **more), 4).replies(asks(n), lambda ask: None))


def test_requests_say_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    with chat_server(lambda messages, before: GOOD) as server:
        assert found(server.url, key_variable="A_KEY") == {0: Reply(GOOD, 100, len(GOOD))}
    (request,) = server.requests
    assert request["authorization"] == "Bearer secret"
    assert (request["model"], request["temperature"], request["seed"], request["max_tokens"]) == ("m", 0.5, 7, 50)
    assert request["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "0"}]
    assert request["response_format"]["json_schema"]["schema"] == schema_of(Choice, Limits(1, 1, positions=5))


@pytest.mark.parametrize("failure", [429, 500, 503, None])
def test_what_passes_is_waited_for(failure: int | None) -> None:
    with chat_server(lambda messages, before: GOOD if before else failure) as server:
        assert found(server.url, 5) == {n: Reply(GOOD, 100, len(GOOD)) for n in range(5)}
    assert all(times == 1 for times in server.answered.values())


@pytest.mark.parametrize("failure", [429, 500, None])
def test_what_does_not_pass_is_not_now_and_keeps_the_others(failure: int | None) -> None:
    def script(messages: list[dict[str, str]], before: int) -> str | int | None:
        return failure if messages[1]["content"] == "1" else GOOD

    with chat_server(script) as server:
        got, replies = {}, ServerChat(config(server.url, retries=1), 4).replies(asks(3), lambda ask: None)
        with pytest.raises(NotNow, match=r"answers \d+ after|does not answer"):
            got.update(replies)
    assert set(got) == {0, 2}


def test_a_server_that_is_too_slow_is_not_now() -> None:
    held = threading.Event()

    def script(messages: list[dict[str, str]], before: int) -> str:
        held.wait(60)
        return GOOD

    with chat_server(script) as server:
        with pytest.raises(NotNow, match="does not answer"):
            found(server.url, retries=0, timeout_s=0.2)
        held.set()


@pytest.mark.parametrize("code", [401, 403, 404])
def test_wrong_settings_are_named(code: int) -> None:
    wrong = pytest.raises(InputError, match=f"answers {code}.*OPENAI")
    with chat_server(lambda messages, before: code) as server, wrong:
        found(server.url)


def test_a_request_that_is_never_answered_is_refused() -> None:
    with chat_server(lambda messages, before: 400) as server:
        reply = found(server.url)[0]
    assert isinstance(reply, Refused)
    assert reply.reason.startswith("400")


def test_an_empty_reply_does_not_fit(tmp_path: Path) -> None:
    with chat_server(lambda messages, before: "") as server:
        assert found(server.url) == {0: Reply("", 100, 0)}


def test_nothing_is_sent_unless_the_config_says_so() -> None:
    with chat_server(lambda messages, before: GOOD) as server:
        with pytest.raises(InputError, match="user_data_leave_the_cluster: false"):
            found(server.url, user_data_leave_the_cluster=False)
        assert not server.requests
    with pytest.raises(InputError, match="user_data_leave_the_cluster: this key is required"):
        build(OpenAIConfig, {"kind": "openai", "base_url": "http://x/v1", "model": "m"}, "test")


def test_requests_go_out_side_by_side() -> None:
    """Four requests wait for each other: one at a time would never be answered."""
    together = threading.Barrier(4)

    def script(messages: list[dict[str, str]], before: int) -> str:
        together.wait(60)
        return json.dumps({"chosen": [0]})

    with chat_server(script) as server:
        assert len(found(server.url, 4)) == 4
