"""Lists of users in text files: users to forget, seed users of a look-alike search."""

from ray_ggsm import storage
from ray_ggsm.config import InputError


def read_users(file: str) -> list[str]:
    """The user ids of a text file, one per line.

    Raises:
        InputError: no such text file, or no user in it.
    """
    try:
        text = storage.read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: expected a text file with one user_id per line ({error})") from error
    users = [line for line in text.splitlines() if line]
    if not users:
        raise InputError(f"{file}: there is no user_id in this file")
    return users
