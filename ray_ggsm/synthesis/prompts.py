"""The prompts: text files with named variables ($count). A directory of one's own may replace any of them.

What users did never becomes part of a prompt: it goes into a second message, as JSON in which no character can end a
string, a tag or a chat template's turn.
"""

import json
import re
import unicodedata
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
            InputError: there is no such file, two have one name, or a file has no name of a prompt, or an unknown
                variable.
        """
        self.texts = {name: files(__package__).joinpath("prompts", f"{name}.txt").read_text() for name in NAMES}
        for name, file in _own(directory).items() if directory is not None else ():
            self.texts[name] = storage.read_text(file)
            _check(file, self.texts[name])
        self.digests = {name: digest(text) for name, text in self.texts.items()}
        """Version of each prompt."""

    def filled(self, name: str, **values: int) -> str:
        """The text of a prompt."""
        return Template(self.texts[name]).substitute(values)


def _own(directory: str) -> dict[str, str]:
    """Prompt -> its file in a directory."""
    found: dict[str, str] = {}
    for file in storage.list_files(directory, ".txt"):
        name = file.rsplit("/", 1)[-1].removesuffix(".txt")
        if name not in NAMES:
            raise InputError(f"{file}: expected the name of a prompt ({', '.join(NAMES)})")
        if name in found:
            raise InputError(f"prompts: {found[name]} and {file} are both the prompt {name}; leave one of them")
        found[name] = file
    if not found:
        raise InputError(
            f"prompts: {directory} has no prompt; expected at least one file <name>.txt ({', '.join(NAMES)}); leave"
            " `prompts` out for those of the package"
        )
    return found


def _check(file: str, text: str) -> None:
    template = Template(text)
    if not template.is_valid():
        raise InputError(f"{file}: a $ stands for itself as $$, and a variable is written as $name")
    if unknown := sorted({*template.get_identifiers()} - {*VARIABLES}):
        raise InputError(f"{file}: unknown variable ${unknown[0]}; a prompt has {', '.join(VARIABLES)}")


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_DOUBTFUL = re.compile(r"[<>&|\[\]]|[^ -~]")


def as_data(**values: object) -> str:
    """Values as a JSON document that nothing in their strings can leave: <, >, &, |, [ and ] are escaped there, and so
    is all beyond ASCII but letters, marks and digits. No tag can be read in it, and no turn of a chat template but one
    of plain words (`can_hold`)."""
    document = json.dumps(values, ensure_ascii=False)
    return _STRING.sub(lambda string: _DOUBTFUL.sub(lambda found: _escaped(found.group()), string.group()), document)


def can_hold(text: str) -> bool:
    """Whether a string of `as_data` can hold this text as it is, so that what users typed could be taken for it."""
    return bool(text.strip()) and text.strip(" ") in as_data(text=text)


def _escaped(character: str) -> str:
    if character.isascii():
        return f"\\u{ord(character):04x}"
    return character if unicodedata.category(character)[0] in "LMN" else json.dumps(character)[1:-1]
