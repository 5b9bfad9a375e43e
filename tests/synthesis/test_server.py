"""A server that is good, broken, slow, empty, busy or gone."""

import json
import threading

import pytest

from ray_ggsm.config import InputError, NotNow, build
from ray_ggsm.synthesis.chat import Ask, Message, Refused, Reply
from ray_ggsm.synthesis.config import OpenAIConfig
from ray_ggsm.synthesis.formats import Choice, Limits, schema_of
from ray_ggsm.synthesis.server import ServerChat
from tests.helpers.chat_server import Answer, chat_server, reply

GOOD = '{"chosen": [0]}'


def config(url: str, **more: object) -> OpenAIConfig:
    values = {"kind": "openai", "base_url": url, "model": "m", "user_data_leave_the_cluster": True, "retries": 3}
    return build(OpenAIConfig, {**values, **more}, "test")


def asks(n: int) -> list[Ask]:
    return [
        Ask((Message("system", "s"), Message("user", f"{i}")), Choice, Limits(1, 1, positions=5), "m", 50, 0.5, 7)
        for i in range(n)
    ]


class Desk:
    """Keeps what comes, and adds up tokens."""

    def __init__(self) -> None:
        self.replies: dict[int, Reply | Refused] = {}
        self.admitted = self.settled = self.used = 0

    def admit(self, ask: Ask) -> None:
        self.admitted += ask.estimate

    def settle(self, ask: Ask, used: int) -> None:
        self.settled += ask.estimate
        self.used += used

    def answered(self, ask: Ask, reply: Reply | Refused) -> None:
        self.replies[int(ask.messages[1].content)] = reply


def found(url: str, n: int = 1, desk: Desk | None = None, **more: object) -> dict[int, Reply | Refused]:
    desk = desk or Desk()
    ServerChat(config(url, **more), 4).answer(asks(n), desk)
    assert desk.admitted == desk.settled
    return desk.replies


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
    together = threading.Barrier(3)

    def script(messages: list[dict[str, str]], before: int) -> Answer:
        if not before:
            together.wait(60)
        return failure if messages[1]["content"] == "1" else GOOD

    with chat_server(script) as server:
        desk = Desk()
        with pytest.raises(NotNow, match=r"(answers \d+|does not answer) \(.*\) after 1 further tries"):
            found(server.url, 3, desk, retries=1)
    assert set(desk.replies) == {0, 2}
    assert desk.admitted == desk.settled, "each try is admitted and settled"


def test_each_try_is_paid_for() -> None:
    """A server that answers 500, or nothing, may have worked all the same."""
    for failure, billed in ((500, True), (503, False), (429, False), (None, True)):
        with chat_server(lambda messages, before, f=failure: GOOD if before == 2 else f) as server:
            desk = Desk()
            assert found(server.url, 1, desk) == {0: Reply(GOOD, 100, len(GOOD))}
        (ask,) = asks(1)
        assert desk.admitted == 3 * ask.estimate
        assert desk.used == 100 + len(GOOD) + billed * 2 * ask.estimate


@pytest.mark.parametrize("body", [b"", b"<html>Welcome</html>", b'{"choices": [{', b'{"choices": [{}]}', b"[]", b"{}"])
def test_what_is_no_reply_is_not_now_and_is_named(body: bytes) -> None:
    with chat_server(lambda messages, before: body if messages[1]["content"] == "1" else GOOD) as server:
        desk = Desk()
        with pytest.raises(NotNow, match=r"base_url: http://.* answers with what is no reply \(.+\)") as raised:
            found(server.url, 2, desk, retries=0)
        assert desk.replies == {0: Reply(GOOD, 100, len(GOOD))}
    assert (body.decode() or "an empty page") in str(raised.value)


def test_an_error_with_code_200_is_that_error() -> None:
    def error(code: object) -> bytes:
        return json.dumps({"error": {"message": "told so", "code": code}}).encode()

    with chat_server(lambda messages, before: GOOD if before else error(429)) as server:
        assert found(server.url) == {0: Reply(GOOD, 100, len(GOOD))}
    with chat_server(lambda messages, before: error("overloaded")) as server, pytest.raises(NotNow, match="told so"):
        found(server.url, retries=0)
    with chat_server(lambda messages, before: error(400)) as server:
        (refused,) = found(server.url).values()
    assert isinstance(refused, Refused)
    assert "told so" in refused.reason


def test_numbers_and_characters_that_lack_are_put_up_with() -> None:
    body = reply(GOOD + "\ud800") | {"usage": {"prompt_tokens": None, "completion_tokens": None}}
    (ask,) = asks(1)
    with chat_server(lambda messages, before: json.dumps(body).encode()) as server:
        (got,) = found(server.url).values()
    assert got == Reply(GOOD + "?", ask.estimate - 50, 50)
    assert got.tokens == ask.estimate


def test_a_reply_that_was_cut_says_so() -> None:
    with chat_server(lambda messages, before: json.dumps(reply('{"ch', "length")).encode()) as server:
        assert found(server.url) == {0: Reply('{"ch', 100, 4, cut=True)}


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


@pytest.mark.parametrize("first", [True, False])
def test_a_request_that_is_forbidden_ends_no_job(first: bool) -> None:
    """403 for what one user did, from a server that answers others."""

    def script(messages: list[dict[str, str]], before: int) -> Answer:
        return 403 if messages[-1]["content"] == ("0" if first else "2") else GOOD

    with chat_server(script) as server:
        got = found(server.url, 1 if first else 3)
    refused = got.pop(0 if first else 2)
    assert isinstance(refused, Refused)
    assert "403" in refused.reason
    assert all(isinstance(each, Reply) for each in got.values())


def test_a_key_that_expires_stops_the_job() -> None:
    """The first request is answered, then none: these once were refusals, and the job ended well."""

    def script(messages: list[dict[str, str]], before: int) -> Answer:
        return GOOD if messages[-1]["content"] == "0" else 401

    with chat_server(script) as server, pytest.raises(InputError, match=r"answers 401.*OPENAI"):
        ServerChat(config(server.url), 1).answer(asks(3), Desk())


def test_a_request_that_is_never_answered_is_refused() -> None:
    with chat_server(lambda messages, before: 400) as server:
        (refused,) = found(server.url).values()
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("400")


@pytest.mark.parametrize("text", ["", None])
def test_an_empty_reply_is_none_and_costs_what_it_costs(text: str | None) -> None:
    with chat_server(lambda messages, before: json.dumps(reply(text)).encode()) as server:
        desk = Desk()
        assert found(server.url, 1, desk) == {0: Refused("an empty reply (finish_reason stop)", 100, 0)}
    assert desk.used == 100


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
