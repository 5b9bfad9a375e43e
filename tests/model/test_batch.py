"""Events of a batch: the newest are kept, futures are drawn per row and reproducibly."""

import numpy as np
import pyarrow as pa

from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import PretrainedConfig
from ray_ggsm.model.events import history_events, sample_future_events
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.source import load_tokenizer
from ray_ggsm.model.template import Template
from tests.helpers.encoders import lookup

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
    cells = per_row(history_events(rows, TEMPLATE.modalities), 2, 9)
    for b, row in enumerate(rows.to_pylist()):
        for m, (name, keep) in enumerate((("bill", 4), ("app", 3))):
            expected = [(e["text"], (row["as_of"] - e["time"]).total_seconds() / 86400) for e in row[name][-keep:]]
            assert [t for t, _ in cells[m, b]] == [t for t, _ in expected]
            np.testing.assert_allclose([a for _, a in cells[m, b]], [a for _, a in expected], rtol=1e-5)


def test_rows_taken_out_of_events_are_those_of_the_rows_themselves(make_rows) -> None:
    rows = make_rows()
    drawn = sample_future_events(rows, TEMPLATE.modalities, 5, seed=3)
    for index in ([4, 0, 11, 4], [7], []):
        index_N = np.array(index, dtype=np.int64)
        taken = drawn.take(index_N)
        alone = sample_future_events(rows.take(pa.array(index_N)), TEMPLATE.modalities, 5, seed=3)
        assert taken.text_E.equals(alone.text_E)
        for name in ("count_MB", "age_E", "amount_E"):
            np.testing.assert_array_equal(getattr(taken, name), getattr(alone, name))
            assert getattr(taken, name).dtype == getattr(alone, name).dtype


def test_lengths_are_those_of_the_batches(make_rows, tiny_decoder) -> None:
    rows = make_rows().append_column("query", pa.array([None, "what?"] * 6 + ["a longer one, which is cut"]))
    collator = Collator(TEMPLATE, load_tokenizer(PretrainedConfig(name=tiny_decoder)), lookup)
    events = sample_future_events(rows, TEMPLATE.modalities, 5, seed=3)
    index = np.array([12, 3, 0])
    for sequences in (
        collator.user_sequences(rows),
        collator.event_sequences(events),
        collator.text_sequences([f"text {i}" * i for i in range(13)]),
    ):
        assert len(sequences.length_B) == len(rows)
        assert sequences.batch(index).layout.tokens.length_B().tolist() == sequences.length_B[index].tolist()


def test_instructions_are_cut_and_answers_are_not(make_rows, tiny_decoder) -> None:
    """Byte tokens: 6 of an instruction, and every one of an answer with its EOS."""
    tokenizer = load_tokenizer(PretrainedConfig(name=tiny_decoder))
    collator = Collator(TEMPLATE, tokenizer, lookup)
    long = "bill: milk, bread x2. " * 9
    assert collator.text_sequences([long, "tea"]).length_B.tolist() == [
        len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in (long, "tea")
    ]
    short, cut = (make_rows(users=1).append_column("query", pa.array([query])) for query in (None, long))
    assert collator.user_lengths(cut) == collator.user_lengths(short)


def test_futures_are_drawn_from_the_row_itself_whatever_stands_beside_it(make_rows) -> None:
    rows = make_rows()
    drawn = sample_future_events(rows, TEMPLATE.modalities, 5, seed=3)
    cells = per_row(drawn, 2, len(rows))
    for b, row in enumerate(rows.to_pylist()):
        events = cells[0, b] + cells[1, b]
        names = ["bill"] * len(cells[0, b]) + ["app"] * len(cells[1, b])
        assert len(events) <= min(5, len(row["future"]))
        possible = {(e["modality"], e["text"]) for e in row["future"]}
        assert {(n, t) for n, (t, _) in zip(names, events, strict=True)} <= possible
        assert all(age < 0 for _, age in events)
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = per_row(sample_future_events(rows.take(pa.array(order)), TEMPLATE.modalities, 5, seed=3), 2, len(rows))
    for new, old in enumerate(order):
        assert shuffled[0, new] == cells[0, old]
    assert sample_future_events(rows, TEMPLATE.modalities, 5, seed=4).text_E != drawn.text_E
