"""Changes of an event store that take in nothing: compact, expire, forget. One Ray task per file that is written."""

import datetime as dt
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import ray

from ray_ggsm import storage
from ray_ggsm.building.lock import held
from ray_ggsm.config import InputError
from ray_ggsm.data.pseudonyms import key_id, pseudonym, read_key
from ray_ggsm.data.store import maintenance
from ray_ggsm.data.store.columns import REJECTED
from ray_ggsm.data.store.layout import LOCKED_FOR, lock_file, require_layout
from ray_ggsm.data.store.log import StoreFile
from ray_ggsm.data.store.manifest import Manifest, State, check_key, read_state
from ray_ggsm.data.store.seal import apply
from ray_ggsm.experiment import RayConfig
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.places import check_place


def compact(location: str, days: int) -> Manifest | None:
    """Merge the files of each bucket that hold events of the same span of days; None: there is nothing to merge.

    Raises:
        InputError: there is no store.
        NotNow: another change of the store is running.
    """
    location = _place(location)
    with started(RayConfig()), held(lock_file(location), LOCKED_FOR):
        check_place("store", location)
        state = read_state(location)
        manifest = _next(state, "compact")
        merge = ray.remote(num_cpus=1)(maintenance.merge)
        removed: dict[str, list[StoreFile]] = {}
        tasks: dict[str, list[ray.ObjectRef]] = {}
        for name, files in maintenance.files_of(location, state.tables).items():
            groups = maintenance.to_merge(files, days)
            removed[name] = [file for group in groups for file in group]
            tasks[name] = [merge.remote(location, name, state.tables[name], g, manifest.run) for g in groups]
        if not any(removed.values()):
            return None
        added = {name: [f for some in ray.get(each) for f in some] for name, each in tasks.items()}
        return apply(location, manifest, added, removed)


def expire(location: str, before: dt.date) -> Manifest | None:
    """Drop files whose events all lie before a day (UTC), with the rejected records that came with them; None: there
    are none.

    Raises:
        InputError: there is no store.
        NotNow: another change of the store is running.
    """
    location, instant = _place(location), dt.datetime.combine(before, dt.time(), dt.UTC)
    with held(lock_file(location), LOCKED_FOR):
        state = read_state(location)
        files = maintenance.files_of(location, state.tables)
        removed = {name: maintenance.ended(some, instant) for name, some in files.items()}
        if not any(removed.values()):
            return None
        gone = {name: maintenance.ended_changes(some, files[name]) for name, some in removed.items()}
        manifest, rejected = _next(state, "expire"), state.tables[REJECTED]
        with ThreadPoolExecutor(16) as pool:
            again = pool.map(
                lambda file: maintenance.without_changes(location, rejected, file, gone, manifest.run), files[REJECTED]
            )
            kept = [
                (file, written) for file, written in zip(files[REJECTED], again, strict=True) if written is not None
            ]
        removed[REJECTED] = [file for file, _ in kept]
        return apply(location, manifest, {REJECTED: [f for _, some in kept for f in some]}, removed)


def forget(location: str, users: Sequence[str], key_file: str) -> Manifest:
    """Take users out, and put their keyed hashes on the list of those whom no later run takes in.

    Args:
        location: the store.
        users: ids, as in the source.
        key_file: the key of the list, which every later run needs.

    Raises:
        InputError: there is no store, or the list has another key.
        NotNow: another change of the store is running.
    """
    location, key = _place(location), read_key(key_file)
    with started(RayConfig()), held(lock_file(location), LOCKED_FOR):
        check_place("store", location)
        state = read_state(location)
        check_key(state, key, "--key-file")
        hashed_with = None if _names_by_pseudonyms(location, key) else key
        names = sorted({pseudonym(user, key) for user in users} - set(state.suppressed))
        update = {"suppressed": tuple(names), "key_id": key_id(key)}
        manifest = _next(state, "forget").model_copy(update=update)
        without = ray.remote(num_cpus=1)(maintenance.without_users)
        tasks = [
            (name, file, without.remote(location, name, state.tables[name], file, names, hashed_with, manifest.run))
            for name, files in maintenance.files_of(location, state.tables).items()
            for file in files
        ]
        added: dict[str, list[StoreFile]] = {}
        removed: dict[str, list[StoreFile]] = {}
        for name, file, task in tasks:
            written = ray.get(task)
            if written is not None:
                removed.setdefault(name, []).append(file)
                added.setdefault(name, []).extend(written)
        return apply(location, manifest, added, removed)


def _place(location: str) -> str:
    location = storage.absolute(location)
    require_layout(location)
    return location


def _names_by_pseudonyms(location: str, key: bytes) -> bool:
    """Whether the store names users by pseudonyms; raises `InputError` if these have another key."""
    named_by = require_layout(location).key_id
    if named_by not in (None, key_id(key)):
        raise InputError(
            f"--key-file: {location} names users by pseudonyms of the key {named_by}, found {key_id(key)}; give the "
            "file that `ingest` has (key_file)"
        )
    return named_by is not None


def _next(state: State, operation: str) -> Manifest:
    if not state.sequence:
        raise InputError("the store is empty; jobs/ingest.py fills it")
    return Manifest(sequence=state.sequence + 1, operation=operation, tables=state.tables)
