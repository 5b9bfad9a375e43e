"""Reading events from and writing rows to an object store, against moto's server."""

import gzip

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from ray_ggsm import storage
from ray_ggsm.data import prepare
from tests.helpers.data import CONFIGS, data_config, shipped


@pytest.mark.parametrize("kind", ["csv.gz", "parquet"])
def test_events_from_and_rows_to_s3(s3_bucket, tmp_path, kind):
    local = CONFIGS / "own_events/clicks.csv"
    file = tmp_path / f"clicks[1] %20#é.{kind}"  # a name that is no pattern
    if kind == "parquet":
        pq.write_table(pyarrow.csv.read_csv(local), file)
    else:
        file.write_bytes(gzip.compress(local.read_bytes()))
    storage.upload(str(tmp_path), f"{s3_bucket}/in")
    values = shipped("own_events/quickstart.yaml")
    values["source"]["tables"]["clicks"]["files"] = f"{s3_bucket}/in/*.{kind}"
    config, out = data_config(values), f"{s3_bucket}/out"
    fitted = prepare.fit(config)
    counts = [prepare.write_shard(config, fitted, k, 2, out) for k in range(2)]
    summary = prepare.write_summary(config, fitted, counts, out)
    assert summary.rows == {"pretrain": 3, "probe": 3, "test": 1}
    assert storage.read_json(f"{out}/data.json") == summary.model_dump(mode="json")
    files = storage.list_files(f"{out}/rows", ".parquet")
    fs, paths = storage.arrow_filesystem(files[0])[0], [storage.arrow_filesystem(file)[1] for file in files]
    assert pa.concat_tables([pq.read_table(path, filesystem=fs, columns=["user_id"]) for path in paths]).num_rows == 7
    assert prepare.input_state(config)["clicks"][f"{s3_bucket}/in/clicks[1] %20#é.{kind}"]
