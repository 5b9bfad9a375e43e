"""The commands of jobs/tables.py. Exit codes: 0 done, 1 `verify` found problems, 2 the input is wrong."""

import argparse
import sys
from collections.abc import Sequence

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.tables import maintenance
from ray_ggsm.tables.reader import open_table


def run(description: str, arguments: Sequence[str] | None = None) -> int:
    """Parse arguments, do one command and return the exit code."""
    options = _parser(description).parse_args(arguments)
    try:
        return options.command(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


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


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("table", help="the table's location, local or s3://")
        sub.set_defaults(command=command)
        return sub

    add("history", _history, "list the versions, newest first")
    verify = add("verify", _verify, "check the files of the newest version against the log")
    verify.add_argument("--deep", action="store_true", help="read everything and compare page checksums")
    rollback = add("rollback", _rollback, "commit a new version that equals an earlier one")
    rollback.add_argument("version", type=int)
    rollback.add_argument("--bring-back-forgotten", action="store_true", help="even if users were forgotten since")
    vacuum = add("vacuum", _vacuum, "remove files that no version of the retention needs, and old unpublished files")
    vacuum.add_argument("--retention-hours", type=int, required=True, help="longer than the longest run; 168: a week")
    vacuum.add_argument("--dry-run", action="store_true", help="list the files, remove nothing")
    forget = add("forget", _forget, "commit a version without some users")
    forget.add_argument("--users-file", required=True, help="text file with one user_id per line, local or s3://")
    return parser


def _history(options: argparse.Namespace) -> int:
    print(f"{'version':>7}  {'time (UTC)':19}  {'operation':12}  {'rows':>13}  {'encoder':16}  run")
    for entry in open_table(options.table).history():
        rows = "" if entry["rows"] is None else f"{entry['rows']:,}"
        time = f"{entry['timestamp']:%Y-%m-%d %H:%M:%S}"
        encoder, name = entry["encoder"] or "", entry["run"] or ""
        print(f"{entry['version']:>7}  {time:19}  {entry['operation']:12}  {rows:>13}  {encoder:16}  {name}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    table = open_table(options.table)
    problems = table.verify(deep=options.deep)
    for problem in problems:
        print(problem)
    files = len(table.data_files())
    verdict = (
        f"{len(problems)} of {files} files have problems" if problems else f"all {files} files are as the log says"
    )
    print(f"version {table.version}: {verdict}")
    return 1 if problems else 0


def _rollback(options: argparse.Namespace) -> int:
    version = maintenance.rollback(options.table, options.version, bring_back_forgotten=options.bring_back_forgotten)
    print(f"version {version} has the rows of version {options.version}")
    return 0


def _vacuum(options: argparse.Namespace) -> int:
    removed = maintenance.vacuum(options.table, options.retention_hours, dry_run=options.dry_run)
    for path in removed:
        print(path)
    print(f"{len(removed)} files {'would be' if options.dry_run else 'were'} removed")
    return 0


def _forget(options: argparse.Namespace) -> int:
    done = maintenance.forget(options.table, read_users(options.users_file))
    print(
        f"version {done.version}: {done.users:,} users with {done.rows:,} rows forgotten, "
        f"{done.absent:,} users were not there"
    )
    if done.users:
        print("Earlier versions keep them until `vacuum` removes their files after the retention.")
    return 0
