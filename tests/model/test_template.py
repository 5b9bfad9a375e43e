"""Layouts against rows written out token by token from the paper's Fig. 4."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_ggsm.model.modality import Modality
from ray_ggsm.model.template import Template

TEMPLATE = Template((Modality("bill", 4), Modality("app", 3)), tabular_tokens=2, max_text_tokens=6)


def written_out(events: tuple[int, int], text: int, first_event: tuple[int, int], first_text: int) -> list[tuple]:
    """(kind, number, slot name) per position of one row."""
    row: list[tuple] = []
    for name, n, first in zip(("bill", "app"), events, first_event, strict=True):
        row.append(("id", TEMPLATE.tags.index(f"<{name}>"), f"<{name}>"))
        row += [("event", first + k, f"{name}[{n - 1 - k}]") for k in range(n)]
        row.append(("id", TEMPLATE.tags.index(f"</{name}>"), f"</{name}>"))
    row.append(("id", TEMPLATE.tags.index("<tabular>"), "<tabular>"))
    row += [("tabular", k, f"tabular[{k}]") for k in range(2)]
    row.append(("id", TEMPLATE.tags.index("</tabular>"), "</tabular>"))
    row += [("id", len(TEMPLATE.tags) + first_text + k, "text") for k in range(text)]
    return [*row, ("id", TEMPLATE.tags.index("<USER>"), "<USER>")]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=5))
def test_user_layout_is_figure_4(rows: list[tuple[int, int, int]]) -> None:
    bill, app, text = (np.array(column) for column in zip(*rows, strict=True))
    layout = TEMPLATE.user_layout(np.stack([bill, app]), text)
    for b, (n_bill, n_app, n_text) in enumerate(rows):
        first = (int(bill[:b].sum()), int(bill.sum() + app[:b].sum()))
        expected = written_out((n_bill, n_app), n_text, first, int(text[:b].sum()))
        assert layout.last_B[b] == len(expected) - 1
        assert layout.tokens.valid_BL[b].sum() == len(expected)
        for position, (kind, number, slot) in enumerate(expected):
            fields = {"id": layout.id_BL, "event": layout.event_BL, "tabular": layout.tabular_BL}
            for name, values_BL in fields.items():
                assert values_BL[b, position] == (number if name == kind else -1)
            assert TEMPLATE.slot_names[layout.tokens.slot_BL[b, position]] == slot
    assert layout.id_BL.shape[1] <= TEMPLATE.n_positions


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=5),
    tabular_tokens=st.integers(0, 3),
    global_query=st.booleans(),
)
def test_lengths_are_those_of_the_layouts(rows, tabular_tokens, global_query) -> None:
    template = Template(TEMPLATE.modalities, tabular_tokens, 6, global_query)
    bill, app, text = (np.array(column) for column in zip(*rows, strict=True))
    events = np.stack([bill, app])
    for lengths, layout in (
        (template.user_lengths(events, text), template.user_layout(events, text)),
        (template.answer_events_lengths(events), template.answer_events_layout(events)),
    ):
        assert lengths.tolist() == layout.tokens.length_B().tolist() == (layout.last_B + 1).tolist()
    tags = 2 * 2 + (2 if tabular_tokens else 0) + global_query  # around modalities and features
    assert template.user_lengths(events, text).tolist() == (bill + app + text + tags + tabular_tokens + 1).tolist()


def test_slots_are_numbered_once() -> None:
    assert len(set(TEMPLATE.slot_names)) == len(TEMPLATE.slot_names)
    assert TEMPLATE.every_slot().n_slots == len(TEMPLATE.slot_names)


def test_answer_layouts() -> None:
    events = TEMPLATE.answer_events_layout(np.array([[1, 0], [0, 2]]))
    assert events.last_B.tolist() == [5, 6]
    assert events.id_BL[0, 5] == TEMPLATE.tags.index("<ANSWER>")
    text = TEMPLATE.answer_text_layout(np.array([3, 1]))
    assert text.last_B.tolist() == [2, 0]
    assert text.id_BL[1, 0] == len(TEMPLATE.tags) + 3
