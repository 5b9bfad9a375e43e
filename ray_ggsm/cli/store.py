"""The job `store`: commands that look after an event store."""

import argparse
import datetime as dt
from collections.abc import Mapping, Sequence

from ray_ggsm.cli import audit
from ray_ggsm.cli.commands import Commands, at_least
from ray_ggsm.cli.exit_codes import exit_code
from ray_ggsm.data.pseudonyms import read_key
from ray_ggsm.data.store import maintenance
from ray_ggsm.data.store.layout import require_layout
from ray_ggsm.data.store.manifest import Manifest, TableState, read_manifests, read_state
from ray_ggsm.tables.user_lists import read_users

DESCRIPTION = """Look after an event store: history, compact, expire, forget, audit, vacuum.

Reads   the store's manifests, logs and files; `forget` also a text file with one user_id per line
Writes  a new manifest of the store; `vacuum` removes files

  python jobs/store.py history s3://bucket/events
  python jobs/store.py expire s3://bucket/events --before 2025-01-01
"""


def run_command(arguments: Sequence[str], program: str | None = None) -> int:
    """Run one command and return the exit code; `program` is the name in its help."""
    commands = _commands(program)
    options = commands.parser.parse_args(arguments)
    return exit_code(
        lambda: options.command(options), commands.event_name(options, "store", ("compact", "expire", "forget"))
    )


def _commands(program: str | None) -> Commands:
    commands = Commands(program, DESCRIPTION, "store", "the store's location, local or s3://")
    add = commands.add
    add("history", _history, "list the manifests, newest first")
    compact = add("compact", _compact, "merge the files of each bucket that hold events of the same days")
    compact.add_argument("--days", type=at_least(1), default=7, help="days whose files become one (default 7)")
    expire = add("expire", _expire, "drop files whose events all lie before a day")
    expire.add_argument("--before", type=dt.date.fromisoformat, required=True, help="the day (UTC), 2025-01-31")
    forget = add("forget", _forget, "take users out, and never in again")
    forget.add_argument("--users-file", required=True, help="text file with one user_id per line, local or s3://")
    forget.add_argument("--key-file", required=True, help="secret key of the list of forgotten users")
    forget.add_argument("--request", help="your name for it, such as the number of a letter; no id: the audit keeps it")
    told = add("audit", _audit, "list who has forgotten how many users when, oldest first")
    told.add_argument("--user", help="only what is about this user, as the source has the id; needs --key-file")
    told.add_argument("--key-file", help="key that the user was forgotten with")
    vacuum = add("vacuum", _vacuum, "remove files that the newest manifest does not need")
    longer = "longer than the longest run; 168: a week"
    vacuum.add_argument("--retention-hours", type=at_least(0), required=True, help=longer)
    vacuum.add_argument("--dry-run", action="store_true", help="list the files, remove nothing")
    return commands


def _history(options: argparse.Namespace) -> int:
    require_layout(options.store)
    print(f"{'manifest':>8}  {'operation':9}  {'day':10}  {'files':>7}  {'records':>13}  {'rejected':>9}  all records")
    for each in reversed(read_manifests(options.store)):
        records = sum(entry.rows for entry in each.added)
        rejected = sum(n for entry in each.added for n in entry.rejected.values())
        total = sum(table.rows for table in each.tables.values())
        print(
            f"{each.sequence:>8}  {each.operation:9}  {each.day or '':10}  {len(each.added):>7,}  {records:>13,}  "
            f"{rejected:>9,}  {total:,}"
        )
    return 0


def _compact(options: argparse.Namespace) -> None:
    from ray_ggsm.on_ray.store import compact

    _say(compact(options.store, options.days), "there is nothing to merge")


def _expire(options: argparse.Namespace) -> None:
    from ray_ggsm.on_ray.store import expire

    _say(expire(options.store, options.before), f"no file ends before {options.before}")


def _forget(options: argparse.Namespace) -> None:
    from ray_ggsm.on_ray.store import forget

    users, key = read_users(options.users_file), read_key(options.key_file)
    manifest = forget(options.store, users, options.key_file)
    before = read_state(options.store, manifest.sequence - 1)
    gone = _records(before.tables) - _records(manifest.tables)
    audit.add_line(options.store, users, key, options.request, gone, manifest.sequence)
    _say(manifest, "")
    print(f"{len(manifest.suppressed):,} users are new on the list of the forgotten; ingest needs its key (key_file)")
    print("Earlier manifests keep their records until `vacuum` removes their files after the retention.")


def _audit(options: argparse.Namespace) -> None:
    require_layout(options.store)
    audit.show_lines(options.store, options.user, None if options.key_file is None else read_key(options.key_file))


def _records(tables: Mapping[str, TableState]) -> int:
    """Records of all tables, rejected ones included."""
    return sum(table.rows for table in tables.values())


def _vacuum(options: argparse.Namespace) -> None:
    require_layout(options.store)
    removed = maintenance.vacuum(options.store, options.retention_hours, dry_run=options.dry_run)
    for path in removed:
        print(path)
    print(f"{len(removed)} files {'would be' if options.dry_run else 'were'} removed")


def _say(manifest: Manifest | None, nothing: str) -> None:
    if manifest is None:
        print(nothing)
        return
    print(f"manifest {manifest.sequence}: {_records(manifest.tables):,} records in {len(manifest.tables)} tables")
