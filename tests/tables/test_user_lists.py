"""Lists of users as people save them."""

from pathlib import Path

import pytest

from ray_ggsm.config import InputError
from ray_ggsm.tables.user_lists import read_users


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ufeffann\r\nbob\r\n", ["ann", "bob"]),
        ("ann \n\n  bob", ["ann", "bob"]),
        ("a\u2028b\nc\u0085d\ne\ff\n", ["a\u2028b", "c\u0085d", "e\ff"]),
        ('"ann"\n', ['"ann"']),
    ],
)
def test_a_line_is_a_user(tmp_path: Path, content: str, expected: list[str]) -> None:
    (tmp_path / "users.txt").write_bytes(content.encode())
    assert read_users(str(tmp_path / "users.txt")) == expected


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe"])
def test_no_users(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "users.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"users\.txt"):
        read_users(str(tmp_path / "users.txt"))
