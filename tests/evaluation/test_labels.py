"""Label tables: what is read, and what is refused."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.evaluation import labels
from tests.helpers.label_tables import AS_OF, DAY, label_table


def test_labels_from_before_as_of_are_refused():
    table = label_table(["a", "b", "c"])
    fine = table.append_column("observed_from", pa.array([DAY, DAY + timedelta(days=3), DAY], AS_OF))
    assert labels.check_labels(fine, "labels").equals(labels.check_labels(table, "labels"))
    early = [DAY, DAY - timedelta(microseconds=1), None]
    leaked = table.append_column("observed_from", pa.array(early, AS_OF))
    with pytest.raises(
        InputError, match=r"2 labels were observed before their as_of.*row 1 .*2017-08-28 23:59:59.999999"
    ):
        labels.check_labels(leaked, "labels")
    elsewhere = pa.array(early, AS_OF).cast(pa.timestamp("ns", tz="America/New_York"))
    with pytest.raises(InputError, match=r"2 labels were observed before"):
        labels.check_labels(table.append_column("observed_from", elsewhere), "labels")
    with pytest.raises(InputError, match=r"'observed_from' must be a timestamp with time zone UTC, found string"):
        labels.check_labels(table.append_column("observed_from", pa.array(["2017"] * 3)), "labels")


def test_one_table_for_both_roles(tmp_path):
    file = str(tmp_path / "all.parquet")
    table = label_table(["a", "b", "c", "d"]).append_column("role", pa.array(["fit", "score", "fit", "score"]))
    pq.write_table(table, file)
    assert labels.read_labels(file, "score")["user_id"].to_pylist() == ["b", "d"]
    assert labels.read_labels(file, "fit").column_names == ["user_id", "as_of", "buys"]
    with pytest.raises(InputError, match=r"no row has role 'socre'; the column 'role' holds: fit, score"):
        labels.read_labels(file, "socre")
    lists = table.set_column(table.column_names.index("role"), "role", pa.array([["fit"], ["score"]] * 2))
    pq.write_table(lists, file)
    with pytest.raises(InputError, match=r"column 'role' must be a string \(fit or score\), found list<"):
        labels.read_labels(file, "fit")


def test_a_label_may_be_called_role(tmp_path):
    pq.write_table(label_table(["a", "b"], role=[True, False]), tmp_path / "l.parquet")
    assert labels.read_labels(str(tmp_path / "l.parquet"), "score").column_names == ["user_id", "as_of", "role"]


def test_reading_a_directory_and_what_is_no_table(tmp_path):
    pq.write_table(label_table(["a", "b"]), tmp_path / "0.parquet")
    pq.write_table(label_table(["c", "d"]), tmp_path / "1.parquet")
    assert labels.read_labels(str(tmp_path)).num_rows == 4
    with pytest.raises(InputError, match="no label table here; expected a Parquet file, or a directory of them"):
        labels.read_labels(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no label table here, only an empty directory"):
        labels.read_labels(str(tmp_path / "empty"))
    (tmp_path / "broken.parquet").write_text("user_id,as_of")
    with pytest.raises(InputError, match="expected a Parquet label table"):
        labels.read_labels(str(tmp_path / "broken.parquet"))


def test_as_of_without_a_zone_is_refused():
    naive = label_table(["a", "b"])
    naive = naive.set_column(1, "as_of", naive["as_of"].cast(pa.timestamp("us")))
    with pytest.raises(InputError, match="time zone UTC"):
        labels.check_labels(naive, "labels")
