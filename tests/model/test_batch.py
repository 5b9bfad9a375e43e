"""Events of a batch: the newest are kept, futures are drawn per row and reproducibly."""

import numpy as np
import pyarrow as pa

from ray_ggsm.model.events import history_events, sample_future_events
from ray_ggsm.model.template import Modality, Template

TEMPLATE = Template((Modality("bill", 4), Modality("app", 3)), tabular_tokens=2, max_text_tokens=6)


def per_row(events, M: int, B: int) -> dict[tuple[int, int], list[tuple[str, float]]]:
    cells, start = {}, 0
    for m in range(M):
        for b in range(B):
            end = start + int(events.count_MB[m, b])
            cells[m, b] = list(zip(events.text_E.to_pylist()[start:end], events.age_E[start:end], strict=True))
            start = end
    return cells


def test_history_keeps_the_newest_oldest_first(make_rows) -> None:
    rows = make_rows().slice(2, 9)
    cells = per_row(history_events(rows, TEMPLATE), 2, 9)
    for b, row in enumerate(rows.to_pylist()):
        for m, (name, keep) in enumerate((("bill", 4), ("app", 3))):
            expected = [(e["text"], (row["as_of"] - e["time"]).total_seconds() / 86400) for e in row[name][-keep:]]
            assert [t for t, _ in cells[m, b]] == [t for t, _ in expected]
            np.testing.assert_allclose([a for _, a in cells[m, b]], [a for _, a in expected], rtol=1e-5)


def test_futures_are_drawn_from_the_row_itself_whatever_stands_beside_it(make_rows) -> None:
    rows = make_rows()
    drawn = sample_future_events(rows, TEMPLATE, 5, seed=3)
    cells = per_row(drawn, 2, len(rows))
    for b, row in enumerate(rows.to_pylist()):
        mine = cells[0, b] + cells[1, b]
        names = ["bill"] * len(cells[0, b]) + ["app"] * len(cells[1, b])
        assert len(mine) <= min(5, len(row["future"]))
        possible = {(e["modality"], e["text"]) for e in row["future"]}
        assert {(n, t) for n, (t, _) in zip(names, mine, strict=True)} <= possible
        assert all(age < 0 for _, age in mine)
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = per_row(sample_future_events(rows.take(pa.array(order)), TEMPLATE, 5, seed=3), 2, len(rows))
    for new, old in enumerate(order):
        assert shuffled[0, new] == cells[0, old]
    assert sample_future_events(rows, TEMPLATE, 5, seed=4).text_E != drawn.text_E
