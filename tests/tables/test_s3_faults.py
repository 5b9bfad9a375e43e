"""An object store that fails now and then changes nothing; one that refuses ends with a sentence."""

import pytest
from deltalake.exceptions import DeltaError

from ray_ggsm import delta, storage
from ray_ggsm.cli.exit_codes import passing_error, user_error
from ray_ggsm.tables import maintenance, open_table
from tests.helpers.s3_server import faults
from tests.helpers.tables import put, rows


def test_errors_slow_answers_and_dropped_connections(s3, s3_server):
    with faults(s3_server, error=0.1, slow=0.05, drop=0.05) as counts:
        for version, users in enumerate((40, 60)):
            put(s3, rows(users), f"r{version}")
        table = open_table(s3)
        assert sorted(table.read()["user_id"].to_pylist()) == sorted(rows(60)["user_id"].to_pylist())
        assert len(table.read(version=0)) == 40
        assert table.read(user_ids=["u7"])["user_id"].to_pylist() == ["u7"]
        assert table.verify(deep=True) == []
        maintenance.rollback(s3, 0)
        storage.write_text(f"{s3}/notes.txt", "here")
        assert storage.read_text(f"{s3}/notes.txt") == "here"
    assert counts.keys() == {"error", "slow", "drop"}, "all faults were seen"
    assert len(open_table(s3).read()) == 40


@pytest.mark.parametrize(
    ("message", "repeated"), [("Error interacting with object store: body error", True), ("x", False)]
)
def test_what_the_log_repeats(message, repeated):
    answers = iter([DeltaError(message), "done"])

    def work():
        if isinstance(answer := next(answers), DeltaError):
            raise answer
        return answer

    if repeated:
        assert delta.retried(work) == "done"
    else:
        with pytest.raises(DeltaError, match=message):
            delta.retried(work)


@pytest.mark.parametrize(("refusal", "step"), [("expired", "write"), ("expired", "read"), ("readonly", "write")])
def test_refusals(s3, s3_server, refusal, step):
    put(s3, rows(10), "r0")
    with faults(s3_server, **{refusal: 1.0}), pytest.raises(Exception) as failure:  # noqa: PT011
        put(s3, rows(12), "r1") if step == "write" else open_table(s3).read()
    told = passing_error(failure.value) if refusal == "expired" else user_error(failure.value)
    assert told, repr(failure.value)
    assert len(open_table(s3).read()) == 10


def test_a_path_is_no_refusal():
    assert not storage.refused(FileNotFoundError(2, "No such file", "/data/403/Forbidden.parquet"))
    assert storage.refused(OSError("AWS Error ACCESS_DENIED during PutObject operation"))
