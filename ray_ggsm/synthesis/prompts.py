"""The prompts: text files with named variables ($count). A directory of one's own may replace any of them.

What users did never becomes part of a prompt: it goes into a second message, as JSON in which no character can end a
string, a tag or a chat template's turn.
"""

import json
import re
from importlib.resources import files
from string import Template

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest

NAMES = ("scenarios", "choose", "write", "induce", "merge", "revise")
"""All prompts."""
VARIABLES = ("count",)
"""What a prompt may use: the number of items that the reply lists, at most."""


class Prompts:
    """All prompts of a run."""

    def __init__(self, directory: str | None = None) -> None:
        """Read them; a file `<name>.txt` in `directory`, local or s3://, replaces the package's own.

        Raises:
            InputError: a file has no name of a prompt, or an unknown variable.
        """
        self.texts = {name: files(__package__).joinpath("prompts", f"{name}.txt").read_text() for name in NAMES}
        for file in storage.list_files(directory, ".txt") if directory else ():
            name = file.rsplit("/", 1)[-1].removesuffix(".txt")
            if name not in NAMES:
                raise InputError(f"{file}: expected the name of a prompt ({', '.join(NAMES)})")
            self.texts[name] = storage.read_text(file)
            _check(file, self.texts[name])
        self.digests = {name: digest(text) for name, text in self.texts.items()}
        """Version of each prompt."""

    def filled(self, name: str, **values: int) -> str:
        """The text of a prompt."""
        return Template(self.texts[name]).substitute(values)


def _check(file: str, text: str) -> None:
    template = Template(text)
    if not template.is_valid():
        raise InputError(f"{file}: a $ stands for itself as $$, and a variable is written as $name")
    if unknown := sorted({*template.get_identifiers()} - {*VARIABLES}):
        raise InputError(f"{file}: unknown variable ${unknown[0]}; a prompt has {', '.join(VARIABLES)}")


def as_data(**values: object) -> str:
    """Values as a JSON document without <, >, &, | and non-ASCII characters, which are escaped: nothing in it can be
    read as a tag or as the end of a turn."""
    return re.sub(r"[<>&|]", lambda found: f"\\u{ord(found.group()):04x}", json.dumps(values, ensure_ascii=True))
