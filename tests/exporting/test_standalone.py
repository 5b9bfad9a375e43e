"""Event vectors of an export, which several threads may ask for at once."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.exporting import standalone
from ray_ggsm.exporting.standalone import TextVectors


class Lengths:
    """An event encoder whose vectors are the texts' lengths."""

    width = 1

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text)] for text in texts], dtype=np.float16)


class Interrupted(dict[str, np.ndarray]):
    """Known texts; while one thread looks whether `bbb` is among them, another asks for `cc` and makes room."""

    vectors: TextVectors

    def __contains__(self, text: object) -> bool:
        if text == "bbb":
            assert self.vectors(pa.array(["cc"])).tolist() == [[2]]
            assert self.vectors._known is not self
        return super().__contains__(text)


def test_a_text_that_another_thread_forgets_is_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standalone, "MOST_TEXTS", 0)
    vectors, known = TextVectors(Lengths()), Interrupted(a=np.array([1], np.float16))
    vectors._known, known.vectors = known, vectors
    assert vectors(pa.array(["a", "bbb", "a"])).tolist() == [[1], [3], [1]]
