"""The job `tables`: commands that look after an embedding table.

`verify` exits with 1 when it finds problems, and `forget` and `user` with 5 when a user was not there.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import get_args

import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.cli import audit
from ray_ggsm.cli.commands import Commands, at_least
from ray_ggsm.cli.exit_codes import INCOMPLETE, exit_code
from ray_ggsm.config import InputError
from ray_ggsm.data.pseudonyms import read_key
from ray_ggsm.hashing import pseudonym
from ray_ggsm.log import show
from ray_ggsm.tables import maintenance, tagging
from ray_ggsm.tables.describe import feast_view, register_iceberg
from ray_ggsm.tables.metrics import metrics
from ray_ggsm.tables.missing import missing
from ray_ggsm.tables.neighbours.build import build_index
from ray_ggsm.tables.neighbours.layout import IndexManifest, IndexSettings
from ray_ggsm.tables.reader import open_table
from ray_ggsm.tables.tags import read_entry
from ray_ggsm.tables.user_lists import read_lines

DESCRIPTION = """Look after an embedding table: its versions, tags, files, forgotten users, metrics, one user's data.

Reads   the table's log and files; `forget` also a text file with one user_id per line
Writes  new versions of the table; `vacuum` removes files; `metrics` a text, `user` a file about one user,
        `missing` a file of users without a vector; `index` an index below the table; `describe` a file, or an entry of
        a catalog

  python jobs/tables.py history s3://bucket/users
  python jobs/tables.py vacuum s3://bucket/users --retention-hours 168 --dry-run
"""


_KEY_FILE = "key that users were forgotten with; needed if that was after the version"


def run_command(arguments: Sequence[str], program: str | None = None) -> int:
    """Run one command and return the exit code; `program` is the name in its help."""
    commands = _commands(program)
    options = commands.parser.parse_args(arguments)
    return exit_code(lambda: options.command(options), commands.event_name(options, "tables", ("rollback", "forget")))


def _commands(program: str | None) -> Commands:
    commands = Commands(program, DESCRIPTION, "table", "the table's location, local or s3://")
    add = commands.add
    add("history", _history, "list the versions, newest first")
    _add_versions(commands)
    _add_forgetting(commands)
    tag = add("tag", _tag, "name a version, so that vacuum keeps it")
    tag.add_argument("name", help="a letter, then letters, digits, '.', '_' and '-'")
    tag.add_argument("--version", type=int, help="number of the version (default: the newest)")
    tag.add_argument("--move", action="store_true", help="even if the tag names a version already")
    tag.add_argument("--key-file", help=_KEY_FILE)
    untag = add("untag", _untag, "take a tag away")
    untag.add_argument("name")
    add("tags", _tags, "list the tags")
    gauges = add("metrics", _metrics, "gauges of the newest version in Prometheus' text format, from the log alone")
    gauges.add_argument("--output", help="file to write, whole or not at all (default: the terminal)")
    without = add("missing", _missing, "count the users of the newest version's input without a vector, by reason")
    without.add_argument("--output", help="Parquet file to write: who they are, and why")
    _add_index_and_describe(commands)
    _add_user(commands)
    return commands


def _add_versions(commands: Commands) -> None:
    add = commands.add
    verify = add("verify", _verify, "check the files of the newest version against the log")
    verify.add_argument("--deep", action="store_true", help="read everything and compare page checksums")
    rollback = add("rollback", _rollback, "commit a new version that equals an earlier one, less forgotten users")
    rollback.add_argument("version", type=_version, help="number of the version, or name of a tag")
    rollback.add_argument("--key-file", help=_KEY_FILE)
    vacuum = add("vacuum", _vacuum, "remove files that no version of the retention and no tag needs, and old leftovers")
    vacuum.add_argument("--retention-hours", type=int, required=True, help="longer than the longest run; 168: a week")
    vacuum.add_argument("--dry-run", action="store_true", help="list the files, remove nothing")


def _add_forgetting(commands: Commands) -> None:
    add = commands.add
    forget = add("forget", _forget, "take users out of the newest version and of tags, and never in again")
    forget.add_argument("--users-file", required=True, help="text file with one user_id per line, local or s3://")
    forget.add_argument(
        "--key-file",
        required=True,
        help="secret key of the list of forgotten users; that of data.users.key_file, if the table has pseudonyms",
    )
    forget.add_argument("--request", help="your name for it, such as the number of a letter; no id: the audit keeps it")
    told = add("audit", _audit, "list who has forgotten how many users when, oldest first")
    told.add_argument("--user", help="only what is about this user, as the source has the id; needs --key-file")
    told.add_argument("--key-file", help="key that the user was forgotten with")


def _add_user(commands: Commands) -> None:
    user = commands.add("user", _user, "write all that is known of one user to a file")
    user.add_argument("--user", required=True, help="the user_id, as the source has it")
    user.add_argument("--output", required=True, help="JSON file to write, local or s3://")
    user.add_argument(
        "--key-file", help="key of the table's pseudonyms (data.users.key_file) or of its list of forgotten users"
    )
    user.add_argument("--rows", help="also from these Parquet files of user rows, for example 'rows/*.parquet'")
    user.add_argument("--store", help="also from the event store at this location")


def _add_index_and_describe(commands: Commands) -> None:
    describe = commands.add("describe", _describe, "describe the newest version for Feast, or in an Iceberg catalog")
    describe.add_argument("--feast", metavar="FILE", help="Python file to write, with a FeatureView")
    describe.add_argument(
        "--iceberg", metavar="URI", help="SQL catalog to put it into, such as sqlite:////data/catalog.db"
    )
    describe.add_argument("--name", default="users", help="name of the view or table there (default: users)")
    index = commands.add("index", _index, "build an index of nearest users, and measure it against exact search")
    index.add_argument("--version", type=_version, help="number of the version, or name of a tag (default: the newest)")
    index.add_argument("--instruction", default="default", help="whose rows are indexed")
    for name, field in IndexSettings.model_fields.items():
        choices = get_args(field.annotation) or None
        kind: Callable[[str], object] = str if choices else at_least(1)
        option = f"--{name.replace('_', '-')}"
        index.add_argument(option, type=kind, choices=choices, default=field.default, help=field.description)


def _version(text: str) -> int | str:
    """The number of a version, or the name of a tag."""
    return int(text) if text.lstrip("-").isdigit() else text


def _key(options: argparse.Namespace) -> bytes | None:
    return None if options.key_file is None else read_key(options.key_file)


def _history(options: argparse.Namespace) -> int:
    table = open_table(options.table)
    print(f"{'version':>7}  {'time (UTC)':19}  {'operation':12}  {'rows':>13}  {'encoder':16}  run")
    for commit in table.history():
        rows = "" if commit.rows is None else f"{commit.rows:,}"
        time = f"{commit.timestamp:%Y-%m-%d %H:%M:%S}"
        encoder, name = commit.encoder or "", commit.run or ""
        print(f"{commit.version:>7}  {time:19}  {commit.operation:12}  {rows:>13}  {encoder:16}  {name}")
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
    version = maintenance.rollback(options.table, options.version, key=_key(options))
    name = f"version {options.version}" if isinstance(options.version, int) else f"tag '{options.version}'"
    print(f"version {version} has the rows of {name}")
    return 0


def _vacuum(options: argparse.Namespace) -> int:
    removed = maintenance.vacuum(options.table, options.retention_hours, dry_run=options.dry_run)
    for path in removed:
        print(path)
    print(f"{len(removed)} files {'would be' if options.dry_run else 'were'} removed")
    return 0


def _forget(options: argparse.Namespace) -> int:
    lines, key = read_lines(options.users_file), read_key(options.key_file)
    users = list(lines.values())
    forgotten = maintenance.forget(options.table, users, key)
    audit.add_line(options.table, users, key, options.request, forgotten.rows, forgotten.version)
    print(
        f"version {forgotten.version}: {forgotten.users:,} users with {forgotten.rows:,} rows forgotten, "
        f"{len(forgotten.absent):,} users were not there"
    )
    for name in forgotten.tags:
        print(f"tag {name}: without them, too")
    absent = set(forgotten.absent)
    for number, user in lines.items():
        if user in absent:
            print(f"not there: line {number} of {options.users_file}")  # no ids in logs
    print("All of them are on the list of the forgotten; a refresh needs its key (forgotten_key_file).")
    if forgotten.users:
        print("Earlier versions keep them until `vacuum` removes their files after the retention.")
    return INCOMPLETE if absent else 0


def _audit(options: argparse.Namespace) -> None:
    open_table(options.table)
    audit.show_lines(options.table, options.user, _key(options))


def _tag(options: argparse.Namespace) -> None:
    before = read_entry(options.table, options.name).version
    made = tagging.tag(options.table, options.name, options.version, move=options.move, key=_key(options))
    was = "" if before is None else f"; before: version {before}"
    print(f"tag {options.name}: version {made.version}, {made.rows:,} rows in {len(made.files):,} files{was}")


def _untag(options: argparse.Namespace) -> None:
    found = tagging.untag(options.table, options.name)
    print(
        f"tag {options.name} named version {found.version}; its files go with the next vacuum unless others need them"
    )


def _tags(options: argparse.Namespace) -> None:
    print(f"{'tag':24}  {'version':>7}  {'rows':>13}")
    for name, found in open_table(options.table).tags().items():
        print(f"{name:24}  {found.version:>7}  {found.rows:>13,}")


def _metrics(options: argparse.Namespace) -> None:
    text = metrics(open_table(options.table))
    if options.output is None:
        show(text)
    else:
        storage.write_text(options.output, text)


def _missing(options: argparse.Namespace) -> None:
    table = open_table(options.table)
    found = missing(table)
    users = len(found["user_id"].drop_null().unique())
    nameless = found["user_id"].null_count
    print(
        f"version {table.version}: {users:,} users of its input without a vector, {nameless:,} rows without a user_id"
    )
    for reason in found["reason"].unique().to_pylist():
        rows = found.filter(pc.equal(found["reason"], reason))["user_id"]
        print(f"  {reason:24}  {len(rows.drop_null().unique()) + rows.null_count:>13,}")
    if options.output is not None:
        storage.write_parquet(options.output, found, "zstd")
        print(f"{options.output}: {len(found):,} rows")


def _describe(options: argparse.Namespace) -> None:
    if not options.feast and not options.iceberg:
        raise InputError("describe: give --feast FILE or --iceberg URI")
    table = open_table(options.table)
    if options.feast:
        storage.write_text(options.feast, feast_view(table, options.name))
        print(f"{options.feast}: version {table.version} as the FeatureView '{options.name}'")
    if options.iceberg:
        files = register_iceberg(table, options.iceberg, options.name)
        print(f"ray_ggsm.{options.name}: version {table.version}, {files:,} files")


def _index(options: argparse.Namespace) -> None:
    settings = IndexSettings(**{name: getattr(options, name) for name in IndexSettings.model_fields})
    build: Callable[..., IndexManifest] = build_index
    if os.environ.get("RAY_ADDRESS"):
        from ray_ggsm.on_ray.neighbours import build_on_cluster  # other commands do without Ray

        build = build_on_cluster
    made = build(open_table(options.table), options.version, options.instruction, settings)
    print(f"version {made.version}: {made.rows:,} rows of '{made.instruction}' in {len(made.shards)} shards")
    if (found := made.quality) is not None:
        print(
            f"recall of the {found.k} nearest of {found.queries} of its users: {found.recall:.4f}; "
            f"{found.queries_per_second:,.0f} queries/s alone (exact: {found.exact_queries_per_second:,.1f} together)"
        )


def _user(options: argparse.Namespace) -> int:
    from ray_ggsm.cli.user_export import export_user

    user = options.user.strip(" ")
    if not user:
        raise InputError("--user: expected a user_id, found nothing")
    key = _key(options)
    name = None if key is None else pseudonym(user, key)
    found, records = export_user(
        open_table(options.table, key), user, name, options.output, options.rows, options.store
    )
    print(
        f"{options.output}: {records:,} rows and records, of {len(found.versions):,} versions of the table and others"
    )
    if found.unreadable:
        print(f"{len(found.unreadable):,} versions can no longer be read; the file names them")
    if found.forgotten:
        held = f"{len(found.held_versions):,} versions and {len(found.held_files):,} files of dead letters"
        print(f"forgotten: {held} hold rows of this user until `vacuum` removes them; the file names them")
    elif found.forgotten is None:
        print("Users of this table were forgotten; without --key-file nobody can tell whether this is one of them.")
    if not records and not found.forgotten:
        print("not there: nothing is known of this user; is it the right id, and does the data have pseudonyms?")
    return 0 if records else INCOMPLETE
