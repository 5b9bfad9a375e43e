"""The page of an explanation: is it faithful, and which events moved the scores of the first users."""

from dataclasses import dataclass

import pyarrow as pa

from ray_ggsm import storage
from ray_ggsm.evaluation.pages.page import page
from ray_ggsm.explaining.explainer import METHODS, Method, first_events
from ray_ggsm.explaining.results import ExplainReport

USERS = 12
"""Users on the page; the table has all."""
NAMES: dict[Method, str] = {"leave_one_out": "leaving it out", "integrated_gradients": "integrated gradients"}
"""Method -> its name for people."""


@dataclass(frozen=True)
class UserEvents:
    """The events of one user that are shown."""

    user: str
    score: float
    events: list[dict[str, object]]
    """Rows of the table, the largest effect of leaving out first."""
    total: int
    """Events of the user."""


def write_page(report: ExplainReport, events: pa.Table, config: str, location: str) -> None:
    """Render the page and write it to a local or s3:// location; `config` is the resolved configuration."""
    storage.write_text(location, render(report, events, config))


def render(report: ExplainReport, events: pa.Table, config: str) -> str:
    """The page as HTML."""
    return page(
        "explain.html.j2",
        page="explain",
        report={"title": report.label},
        result=report,
        names=NAMES,
        methods=[method for method in METHODS if events[method].null_count == 0],
        users=_users(events, report.deleted),
        texts="text" in events.column_names,
        config=config,
    )


def _users(events: pa.Table, most: int) -> list[UserEvents]:
    """The first users, each with the events of the largest effect."""
    found = []
    for user in events["user_id"].unique().to_pylist()[:USERS]:
        mine = events.filter(pa.compute.equal(events["user_id"], user))
        first = first_events(mine["leave_one_out"].to_numpy(), most)
        found.append(UserEvents(user, mine["score"][0].as_py(), mine.take(pa.array(first)).to_pylist(), len(mine)))
    return found
