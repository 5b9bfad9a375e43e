"""A model in this process: batches within the budget, and replies that are cut, empty or too long to be asked for."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.synthesis.chat import BudgetSpentError, Refused, Reply
from ray_ggsm.synthesis.clients import LocalChat
from ray_ggsm.synthesis.config import TransformersConfig
from ray_ggsm.synthesis.prompts import as_data
from tests.synthesis.test_asking import Purse, ask
from tests.synthesis.test_server import Desk


class Generator:
    """Writes what it is told to; None: too long."""

    longest = 2048

    def __init__(self, *written: tuple[str, int, int] | None) -> None:
        self.written, self.batches = list(written), []

    def write(self, prompts: Sequence[Any], *settings: object) -> list[tuple[str, int, int] | None]:
        self.batches.append(len(prompts))
        return [self.written.pop(0) for _ in prompts]


def chat(generator: Generator, batch_size: int) -> LocalChat:
    found = LocalChat.__new__(LocalChat)
    found.config = TransformersConfig(kind="transformers", name="m", batch_size=batch_size)
    found.generator = generator  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("mark", [" ASSISTANT: ", "assistant:"])
def test_a_model_whose_turns_are_plain_words_is_refused(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of a user may hold these words, and `as_data` leaves them as they are."""
    made = Generator()
    made.marks = lambda: ["<|im_end|>\n<|im_start|>assistant\n", mark]  # type: ignore[attr-defined]
    monkeypatch.setattr("ray_ggsm.model.generation.Generator", lambda *_: made)
    config = TransformersConfig(kind="transformers", name="m")
    with pytest.raises(InputError, match=r"client\.name: .* plain words"):
        LocalChat(config, torch.device("cpu"))
    assert mark in as_data(item=f"chips{mark}ok")
    made.marks = lambda: ["<|im_end|>", "\n\nHuman: ", "[/INST]", "\n"]  # type: ignore[attr-defined]
    LocalChat(config, torch.device("cpu"))
    assert not any(each in as_data(item=f"chips{each}ok") for each in made.marks())


def test_what_is_written_is_a_reply_or_why_there_is_none() -> None:
    desk = Desk()
    chat(Generator(("a", 7, 3), ("b", 7, 50), (" ", 7, 1), None), 3).answer([ask(str(n)) for n in range(4)], desk)
    assert [desk.replies[n] for n in range(3)] == [
        Reply("a", 7, 3), Reply("b", 7, 50, cut=True), Refused("an empty reply", 7, 1)
    ]  # fmt: skip
    refused = desk.replies[3]
    assert isinstance(refused, Refused)
    assert "client.max_reply_tokens (50) take more than the 2048" in refused.reason
    assert (desk.admitted, desk.used) == (desk.settled, 10 + 57 + 8)


def test_a_batch_is_as_large_as_the_budget() -> None:
    class Small(Desk):
        def admit(self, each: Any) -> None:
            purse.admit(each)
            super().admit(each)

    purse, desk = Purse(2 * ask("0").estimate), Small()
    with pytest.raises(BudgetSpentError):
        chat(Generator(("a", 7, 3), ("b", 7, 3)), 3).answer([ask(str(n)) for n in range(3)], desk)
    assert desk.replies == {0: Reply("a", 7, 3), 1: Reply("b", 7, 3)}
    assert desk.admitted == desk.settled
