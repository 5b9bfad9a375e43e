"""Jobs with commands instead of a config: their arguments."""

import argparse
from collections.abc import Callable, Collection


class Commands:
    """The parser of a job whose commands each work on one place."""

    def __init__(self, program: str | None, description: str, place: str, where: str) -> None:
        """Takes the name in help, the description, and the name of the place's argument with its help."""
        self.parser = argparse.ArgumentParser(
            prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self._commands = self.parser.add_subparsers(required=True, metavar="COMMAND")
        self._place, self._where = place, where

    def add(self, name: str, command: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        """Add a command; returns its parser."""
        sub = self._commands.add_parser(name, help=text, description=text)
        sub.add_argument(self._place, help=self._where)
        sub.set_defaults(command=command, command_name=name)
        return sub

    def event_name(self, options: argparse.Namespace, job: str, which: Collection[str]) -> str | None:
        """The name of a command on its place in events (`tables.forget.users`), if it is one of `which`; else None."""
        place = getattr(options, self._place).rstrip("/").rsplit("/", 1)[-1]
        return f"{job}.{options.command_name}.{place}" if options.command_name in which else None


def at_least(least: int) -> Callable[[str], int]:
    """A type of arguments: whole numbers from `least` on."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more, found {text}")
        return int(text)

    return number
