"""The job `access`: what each role may do in the object store, as policies of AWS IAM, which MinIO reads, too.

Nobody gets more than the role's jobs need, which tests/cli/test_access.py finds out with these jobs. What must never
change, such as the list of forgotten users, can be added to, and nobody may remove or overwrite it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import Field, JsonValue

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Location

SCHEME = "s3://"


class AccessConfig(Config):
    """Where everything is."""

    policies: Location
    """Directory that gets a file per role."""
    events: tuple[str, ...] = ()
    """Places of the event files, which name users as the source does; best in a bucket of their own."""
    store: str | None = None
    """The event store."""
    output: str | None = None
    """Place of the stages of experiments: rows, encoders, event vectors."""
    event_vectors: str | None = None
    """The vectors of event texts that a refresh adds to."""
    configs: str | None = None
    """Configs of jobs."""
    tables: tuple[str, ...] = Field(min_length=1)
    """Embedding tables."""


@dataclass(frozen=True)
class Rights:
    """What a role may do below a place, as patterns of names; `*` stands for any text."""

    read: tuple[str, ...] = ("*",)
    write: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    """Written only where there is nothing of the name."""
    remove: tuple[str, ...] = ()


ALL = ("*",)
LOGS = "_delta_log/*"
MAPS, INDICES = "_maps/*", "_index/*"
LISTS = ("_suppressed/*", "_tags/*", "_audit/*")
VACUUMED = ("data/*", "staging/*", "runs/*")
PUBLISHED = Rights(read=("data/*", LOGS, "_suppressed/*", "_tags/*", MAPS, INDICES, "runs/*"))
ROLES: Mapping[str, Mapping[str, Rights]] = {
    "reader": {"tables": PUBLISHED},
    "analyst": {"configs": Rights(), "store": Rights(), "output": Rights(write=ALL), "tables": PUBLISHED},
    "ingest": {
        "configs": Rights(),
        "events": Rights(),
        "store": Rights(
            write=("tables/*", "ingest.lock*"), add=("store.json", "manifests/*"), remove=("ingest.lock*",)
        ),
    },
    "trainer": {"configs": Rights(), "store": Rights(), "output": Rights(write=ALL, remove=ALL)},
    "refresh": {
        "configs": Rights(),
        "store": Rights(),
        "output": Rights(),
        "event_vectors": Rights(write=ALL),
        "tables": Rights(
            write=(*VACUUMED, LOGS, MAPS, INDICES, "refresh.lock*"), remove=("staging/*", "refresh.lock*")
        ),
    },
    "forget": {
        "store": Rights(
            write=("tables/*", "ingest.lock*"),
            add=("manifests/*", "_audit/*"),
            remove=("ingest.lock*",),
        ),
        "tables": Rights(write=("data/*", LOGS), add=LISTS),
    },
    "vacuum": {
        "store": Rights(write=("tables/*/_delta_log/*",), remove=("tables/*/_store_bucket=*",)),
        "tables": Rights(remove=(*VACUUMED, INDICES)),
    },
}
"""Role -> field of the config -> rights there.

`reader` reads published vectors, no dead letters; `analyst` does so, too, for jobs/drift.py, monitor.py and
lookalike.py, which write below `output`; `ingest` is jobs/ingest.py and `store.py compact` and `expire`;
`trainer` all jobs of an experiment; `refresh` jobs/refresh.py and `tables.py index`; `forget` forgets, rolls back and
tags; `vacuum` vacuums.
"""


def access(config: AccessConfig) -> None:
    """Write the policy of every role."""
    for role in ROLES:
        file = storage.join(config.policies, f"{role}.json")
        storage.write_json(file, policy(config, role))
        print(f"access: {file}", flush=True)


def preview(config: AccessConfig) -> str:
    """What every role may do, in words; raises like `policy`."""
    lines = []
    for role in ROLES:
        policy(config, role)
        for place, rights in _places(config, role):
            may = {name: getattr(rights, name) for name in ("read", "write", "add", "remove")}
            told = "; ".join(f"{name} {', '.join(patterns)}" for name, patterns in may.items() if patterns)
            lines.append(f"{role:8} {place}: {told}")
    return "\n".join(lines)


def policy(config: AccessConfig, role: str) -> dict[str, JsonValue]:
    """The policy of one role, as JSON.

    Raises:
        InputError: a place is not on S3.
    """
    statements: list[JsonValue] = []
    buckets = set()
    for place, rights in _places(config, role):
        if not place.startswith(SCHEME):
            raise InputError(f"{place}: expected an s3:// location; policies are for S3 and what speaks its protocol")
        arn = f"arn:aws:s3:::{place.removeprefix(SCHEME).rstrip('/')}"
        buckets.add(arn.split("/")[0])
        statements += list(_statements(arn, rights))
    # with a condition on the prefix, S3 answers 403 for what is not there: listing is allowed bucket by bucket
    listing = _statement(["s3:ListBucket", "s3:GetBucketLocation"], sorted(buckets))
    return {"Version": "2012-10-17", "Statement": [listing, *statements]}


def _places(config: AccessConfig, role: str) -> Iterator[tuple[str, Rights]]:
    for field, rights in ROLES[role].items():
        value = getattr(config, field)
        for place in (value,) if isinstance(value, str) else value or ():
            yield place, rights


def _statements(arn: str, rights: Rights) -> Iterator[JsonValue]:
    parts = ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    directories = [p.removesuffix("/*") for p in rights.read if p.endswith("/*")]  # clients ask whether they are files
    for actions, patterns in (
        (["s3:GetObject"], [*rights.read, *directories]),
        (["s3:PutObject", *parts], rights.write),
        (["s3:DeleteObject"], rights.remove),
    ):
        if patterns:
            yield _statement(actions, [f"{arn}/{pattern}" for pattern in patterns])
    if rights.add:
        once: JsonValue = {"Null": {"s3:if-none-match": "false"}}
        yield {**_statement(["s3:PutObject"], [f"{arn}/{p}" for p in rights.add]), "Condition": once}


def _statement(actions: list[str], resources: list[str]) -> dict[str, JsonValue]:
    return {"Effect": "Allow", "Action": [*actions], "Resource": [*resources]}
