"""Python, Arrow and DuckDB bring time zone data of their own, of different years; here they must agree."""

import datetime as dt
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa

from ray_ggsm.clock import wall_clock
from ray_ggsm.config import InputError
from ray_ggsm.data.config import SnapshotsConfig

STEP = dt.timedelta(hours=3)


def check_zone(connection: duckdb.DuckDBPyConnection, snapshots: SnapshotsConfig) -> None:
    """Refuse a time zone of which the libraries think differently somewhere between first and last event.

    Args:
        connection: its time zone is that of the snapshots.
        snapshots: cutoffs and windows.

    Raises:
        InputError: with the first moment at which they differ.
    """
    zone = snapshots.timezone
    start = dt.datetime.combine(min(snapshots.dates), dt.time(), dt.UTC) - dt.timedelta(snapshots.history_days + 1)
    days = (max(snapshots.dates) - min(snapshots.dates)).days + snapshots.history_days + snapshots.future_days + 2
    last = min(days, (dt.date.max - start.date()).days - 1) * (dt.timedelta(days=1) // STEP)
    moments = [start + k * STEP for k in range(last)]
    instants = pa.array(moments, pa.timestamp("us", "UTC"))
    local = [moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for moment in moments]
    python = np.array(local, dtype="datetime64[us]").astype(np.int64)
    found = {"Arrow": wall_clock(instants.cast(pa.timestamp("us", zone))), "DuckDB": _of_duckdb(connection, instants)}
    for library, shown in found.items():
        if different := np.flatnonzero(shown != python).tolist():
            raise InputError(
                f"data.snapshots.timezone: the time zone data of {library} and of this machine's Python differ for "
                f"{zone} on {local[different[0]].date()}; bring tzdata, pyarrow and duckdb up to date, or choose "
                "another zone, or cutoffs before that day"
            )


def _of_duckdb(connection: duckdb.DuckDBPyConnection, instants: pa.Array) -> np.ndarray:
    table = pa.table({"us": instants.cast(pa.int64())})
    relation = connection.from_arrow(table).project("epoch_us(make_timestamptz(us)::TIMESTAMP) AS shown")
    shown: np.ndarray = relation.to_arrow_table()["shown"].to_numpy()
    return shown
