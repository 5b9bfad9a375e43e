"""What files change in a store: a name stands for its last content, and a content that goes is nobody's double."""

from collections.abc import Mapping, Sequence

from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.store.arrivals import Look
from ray_ggsm.data.store.changes import TableChange, plan
from ray_ggsm.data.store.manifest import FileEntry, State, TableState, file_key

COLUMNS = {"uid": "VARCHAR", "ts": "TIMESTAMP WITH TIME ZONE"}


def state_of(known: Mapping[str, str], days: Mapping[str, str], time: str | None) -> State:
    """A store that has these files: name -> content."""
    entries = [
        FileEntry(table="t", path=path, digest=content, stamp=content, day=days.get(path), rows=1)
        for path, content in known.items()
    ]
    table = TableState(version=0, user="uid", time=time, columns=COLUMNS, texts=(), rows=len(known))
    files = {file_key("t", entry.path): entry for entry in entries}
    sequences = dict.fromkeys(files, 1)
    return State(
        sequence=1, run="r", tables={"t": table}, files=files, sequences=sequences, days=(), suppressed=(), key_id=None
    )


def change(
    known: Mapping[str, str],
    found: Sequence[tuple[str, str]],
    days: Mapping[str, str] | None = None,
    day: str | None = None,
    time: str | None = "ts",
) -> TableChange:
    """What these files, name and content, change."""
    looks = [Look(path, content, content, COLUMNS, True, False, 1) for path, content in found]
    config = TableConfig(files="*", user="uid", time=time)
    return plan(state_of(known, days or {}, time), "t", config, looks, None, day)


def test_a_changed_name_loses_its_rows_although_its_new_content_is_known() -> None:
    """A producer takes back part-7: only its header is left, which another file without records has, too."""
    found = change({"part-1": "header", "part-7": "wrong rows"}, [("part-7", "header")])
    assert found.replaced == ("part-7",)
    assert (found.arriving, found.twice) == ((), (("part-7", "part-1"),))


def test_a_content_that_moves_to_another_name_is_not_lost() -> None:
    """Whatever the order of the names, and in longer rows of names, too."""
    for before, after in (("a", "b"), ("b", "a")):
        known = {before: "two days ago", after: "yesterday"}
        found = change(known, sorted([(before, "yesterday"), (after, "today")]))
        assert sorted(found.replaced) == ["a", "b"]
        assert sorted((each.path, each.digest) for each in found.arriving) == sorted(
            [(before, "yesterday"), (after, "today")]
        )
        assert found.twice == ()
    rolled = change({"log.2": "x", "log.1": "y", "log": "z"}, [("log", "new"), ("log.1", "z"), ("log.2", "y")])
    assert {each.digest for each in rolled.arriving} == {"new", "y", "z"}
    swapped = change({"a": "x", "b": "y"}, [("a", "y"), ("b", "x")])
    assert ({each.digest for each in swapped.arriving}, set(swapped.replaced)) == ({"x", "y"}, {"a", "b"})


def test_a_content_that_stays_is_not_taken_twice() -> None:
    found = change({"a": "x", "b": "y"}, [("a", "x"), ("c", "x"), ("d", "z"), ("e", "z")])
    assert found.twice == (("c", "a"), ("e", "d"))
    assert ([each.path for each in found.arriving], found.replaced) == (["d"], ())


def test_static_facts_are_taken_again_on_another_day() -> None:
    """Good facts, then bad ones, then the good ones again: these are the newest."""
    known, days = {"f-1": "good", "f-2": "bad"}, {"f-1": "2025-03-01", "f-2": "2025-03-02"}
    found = change(known, [("f-3", "good"), ("f-3-copy", "good")], days, "2025-03-03", time=None)
    assert ([each.path for each in found.arriving], found.twice) == (["f-3"], (("f-3-copy", "f-3"),))
    assert change(known, [("f-2-copy", "bad")], days, "2025-03-02", time=None).twice == (("f-2-copy", "f-2"),)
    assert change(known, [("x", "good")], days, None, time=None).twice == (("x", "f-1"),), "it holds from its day on"
    assert change(known, [("x", "good")], days, "2025-03-03").twice == (("x", "f-1"),), "events have times"
