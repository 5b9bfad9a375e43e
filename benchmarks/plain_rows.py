"""The rows of configs/simulated.yaml as a plain script makes them, from the simulated files to Parquet; no checks.

    python benchmarks/plain_rows.py duckdb|pandas DIRECTORY OUTPUT

What `benchmarks/ingest.py` compares with: one process, all cores (DuckDB), everything in memory.
"""

import argparse
import hashlib
from pathlib import Path

import duckdb
import pandas as pd

KEEP = {"bill": 60, "mini_program": 60, "page_view": 60, "app": 20, "search": 40}
COUNTS = {
    "bill": (7, 30, 60),
    "mini_program": (7, 30, 60),
    "page_view": (7, 30, 60),
    "app": (60,),
    "search": (7, 30, 60),
}
SPLITS = {"pretrain": ("2025-03-02", False), "probe": ("2025-04-01", False), "test": ("2025-05-01", True)}
HISTORY, FUTURE, TOP = 60, 30, 12


def with_duckdb(directory: Path, output: Path) -> None:
    """One SQL script."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    for table in KEEP:
        columns = "user, time, item, topic, amount" if table == "bill" else "user, time, item, topic, NULL AS amount"
        con.execute(f"CREATE TABLE {table} AS SELECT {columns} FROM read_parquet('{directory}/{table}/*/*.parquet')")
    con.execute(f"CREATE TABLE users AS FROM read_parquet('{directory}/users/*.parquet')")
    con.execute(
        "CREATE TABLE people AS SELECT DISTINCT user, ('0x' || md5('sim-' || user))::uhugeint % 100 >= 70 AS is_test "
        "FROM page_view"
    )
    wanted = " UNION ALL ".join(
        f"SELECT '{split}' AS split, user, timestamptz '{day}' AS as_of FROM people WHERE is_test = {test}"
        for split, (day, test) in SPLITS.items()
    )
    con.execute(
        f"CREATE TABLE snap AS SELECT * FROM ({wanted}) s WHERE EXISTS (SELECT 1 FROM page_view e WHERE e.user = s.user"
        f" AND e.time >= s.as_of - INTERVAL {HISTORY} DAY AND e.time < s.as_of)"
    )
    joins, columns = "", []
    for table, keep in KEEP.items():
        con.execute(
            f"CREATE TABLE h_{table} AS SELECT split, e.*, as_of FROM snap JOIN {table} e USING (user) "
            f"WHERE time >= as_of - INTERVAL {HISTORY} DAY AND time < as_of"
        )
        amount = ", 'amount': amount::FLOAT"
        con.execute(
            f"CREATE TABLE s_{table} AS SELECT split, user, list({{'time': time, 'text': item{amount}}} "
            "ORDER BY time, item, amount) AS events FROM (SELECT *, row_number() OVER (PARTITION BY split, user "
            f"ORDER BY time DESC, item DESC, amount DESC) AS n FROM h_{table}) WHERE n <= {keep} GROUP BY ALL"
        )
        numbers = [f"count(*) FILTER (time >= as_of - INTERVAL {d} DAY) AS n_{d}" for d in COUNTS[table]]
        if table == "bill":
            numbers += [f"sum(amount) FILTER (time >= as_of - INTERVAL {d} DAY) AS spend_{d}" for d in (30, 60)]
        if table in ("bill", "page_view"):
            top = con.execute(
                f"SELECT topic FROM (SELECT DISTINCT user, topic FROM h_{table} WHERE split = 'pretrain') "
                f"GROUP BY topic ORDER BY count(*) DESC, topic LIMIT {TOP}"
            ).fetchall()
            numbers += [f"count(*) FILTER (topic = '{topic}') AS t_{i}" for i, (topic,) in enumerate(top)]
        con.execute(f"CREATE TABLE f_{table} AS SELECT split, user, {', '.join(numbers)} FROM h_{table} GROUP BY ALL")
        con.execute(f"DROP TABLE h_{table}")
        joins += f" LEFT JOIN s_{table} USING (split, user) LEFT JOIN f_{table} USING (split, user)"
        columns.append(f"s_{table}.events AS {table}, f_{table}.* EXCLUDE (split, user)")
    future = " UNION ALL ".join(
        f"SELECT '{table}' AS modality, user, time, item, amount, topic FROM {table}" for table in KEEP
    )
    con.execute(
        f"CREATE TABLE ahead AS SELECT split, e.* FROM snap JOIN ({future}) e USING (user) "
        f"WHERE time >= as_of AND time < as_of + INTERVAL {FUTURE} DAY"
    )
    con.execute(
        "CREATE TABLE answers AS SELECT split, user, list({'modality': modality, 'time': time, 'text': item, "
        "'amount': amount::FLOAT} ORDER BY time, modality, item, amount) AS future FROM ahead "
        "WHERE split = 'pretrain' GROUP BY ALL"
    )
    labels = ", ".join(
        f"count(*) FILTER (modality = '{t}'{c}) > 0 AS {t}{i}"
        for i, (t, c) in enumerate(
            [("app", ""), ("bill", " AND topic = 'topic 0'"), ("app", " AND topic = 'topic 0'"),
             ("search", " AND topic = 'topic 0'")]
        )
    )  # fmt: skip
    con.execute(f"CREATE TABLE labels AS SELECT split, user, {labels} FROM ahead GROUP BY ALL")
    output.mkdir(parents=True)
    for split in SPLITS:
        con.execute(
            f"COPY (SELECT snap.*, {', '.join(columns)}, age, future FROM snap{joins} LEFT JOIN users USING (user) "
            f"LEFT JOIN answers USING (split, user) WHERE split = '{split}' ORDER BY md5(user)) "
            f"TO '{output}/{split}.parquet' (COMPRESSION zstd)"
        )
        con.execute(
            f"COPY (SELECT snap.*, labels.* EXCLUDE (split, user) FROM snap LEFT JOIN labels USING (split, user) "
            f"WHERE split = '{split}') TO '{output}/{split}_labels.parquet' (COMPRESSION zstd)"
        )


def with_pandas(directory: Path, output: Path) -> None:
    """The usual data frames: read, merge, group."""
    tables = {
        table: pd.concat([pd.read_parquet(file) for file in sorted(directory.glob(f"{table}/*/*.parquet"))])
        for table in KEEP
    }
    ages = pd.concat([pd.read_parquet(file) for file in directory.glob("users/*.parquet")]).set_index("user")["age"]
    everybody = tables["page_view"]["user"].unique()
    is_test = {u: int(hashlib.md5(f"sim-{u}".encode()).hexdigest(), 16) % 100 >= 70 for u in everybody}
    output.mkdir(parents=True)
    vocabularies: dict[str, list[str]] = {}
    for split, (day, test) in SPLITS.items():
        as_of = pd.Timestamp(day, tz="UTC")
        people = pd.Index(u for u in everybody if is_test[u] == test)
        past = {
            t: e[e.user.isin(people) & (e.time >= as_of - pd.Timedelta(days=HISTORY)) & (e.time < as_of)]
            for t, e in tables.items()
        }
        ahead = {
            t: e[e.user.isin(people) & (e.time >= as_of) & (e.time < as_of + pd.Timedelta(days=FUTURE))]
            for t, e in tables.items()
        }
        rows = pd.DataFrame(index=past["page_view"]["user"].unique())
        for table, events in past.items():
            events = events.assign(amount=events.get("amount")).sort_values(["time", "item"])
            newest = events.groupby("user").tail(KEEP[table])
            listed = newest.groupby("user")[["time", "item", "amount"]].apply(lambda e: e.to_dict("records"))
            rows[table] = listed.reindex(rows.index)
            for days in COUNTS[table]:
                recent = events[events.time >= as_of - pd.Timedelta(days=days)]
                rows[f"{table}_{days}"] = recent.groupby("user").size().reindex(rows.index, fill_value=0)
                if table == "bill" and days > 7:
                    rows[f"spend_{days}"] = recent.groupby("user")["amount"].sum().reindex(rows.index, fill_value=0)
            if table in ("bill", "page_view"):
                if split == "pretrain":
                    seen = events[["user", "topic"]].drop_duplicates()["topic"].value_counts()
                    vocabularies[table] = list(seen.index[:TOP])
                counts = events.groupby(["user", "topic"]).size().unstack(fill_value=0)
                for topic in vocabularies[table]:
                    rows[f"{table}:{topic}"] = counts[topic].reindex(rows.index, fill_value=0)
        rows["age"] = ages.reindex(rows.index)
        if split == "pretrain":
            every = pd.concat([e.assign(modality=t, amount=e.get("amount")) for t, e in ahead.items()]).sort_values(
                "time"
            )
            future = every.groupby("user")[["modality", "time", "item", "amount"]].apply(lambda e: e.to_dict("records"))
            rows["future"] = future.reindex(rows.index)
        labels = pd.DataFrame(index=rows.index)
        labels["any_app"] = labels.index.isin(ahead["app"].user)
        for table in ("bill", "app", "search"):
            labels[f"{table}_topic_0"] = labels.index.isin(ahead[table][ahead[table].topic == "topic 0"].user)
        rows.to_parquet(output / f"{split}.parquet")
        labels.to_parquet(output / f"{split}_labels.parquet")


def main() -> None:
    """Write the rows of all splits."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", choices=["duckdb", "pandas"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    (with_duckdb if options.library == "duckdb" else with_pandas)(options.directory, options.output)


if __name__ == "__main__":
    main()
