"""What the encoder reads of an event: its text, its weighted parts and its fields, against sums made by hand."""

import datetime as dt
import math
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import gelu, rms_norm

from ray_ggsm.config import InputError
from ray_ggsm.data.chunks import plan_chunks
from ray_ggsm.data.schema import event_type, future_type, user_row_schema
from ray_ggsm.data.texts import distinct_texts
from ray_ggsm.masks.fixed import BidirectionalConfig
from ray_ggsm.model import saved
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import BackboneConfig, EventEncoderConfig, FieldsConfig, ModelConfig
from ray_ggsm.model.contents import contents_of
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.model.events import history_events, sample_future_events
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.saved import EncoderBundle
from ray_ggsm.training.answers import AnswerConfig, draw_answers, render
from tests.helpers.encoders import WIDTH, lookup

AS_OF = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
FIELDS = pa.struct([pa.field("shop", pa.string()), pa.field("items", pa.float64())])
MODALITIES = (
    Modality("bill", 4, ("shop",), ("items",), parts=True),
    Modality("app", 3),
    Modality("stay", 3, text_fields=("shop", "town")),
)


def event(day: int, text: str | None = None, amount: float | None = None, **details: object) -> dict[str, object]:
    return {"time": AS_OF - dt.timedelta(days=day), "text": text, "amount": amount, **details}


def parts(**weights: float) -> list[dict[str, object]]:
    return [{"text": text, "weight": weight} for text, weight in weights.items()]


def user(name: str, bills: list, apps: list = (), stays: list = (), future: list = ()) -> dict[str, object]:
    rows = {"user_id": name, "as_of": AS_OF, "bill": bills, "app": list(apps), "stay": list(stays)}
    return rows | {"tabular": [], "future": list(future)}


def table(*users: dict[str, object]) -> pa.Table:
    places = pa.struct([pa.field("town", pa.string()), pa.field("shop", pa.string())])
    kinds = {"bill": event_type("UTC", FIELDS, True), "app": event_type("UTC"), "stay": event_type("UTC", places)}
    every = pa.struct([*FIELDS, pa.field("town", pa.string())])
    schema = user_row_schema(kinds, [], future=future_type(event_type("UTC", every, True)))
    return pa.Table.from_pylist(list(users), schema)


ROWS = table(
    user(
        "a",
        [
            event(9, "visit", 5.0, fields={"shop": "north", "items": 3.0}, parts=parts(milk=3, bread=1)),
            event(2, None, None, fields={"shop": None, "items": None}, parts=parts(bread=-1, tea=0)),
        ],
        [event(5, "milk")],
        [event(1, fields={"town": "Rome", "shop": "north"})],
    ),
    user("b", [], [event(4, "open"), event(3, "open")]),
    user("c", [event(1, None, 2.0, fields={"shop": "north", "items": 8.0}, parts=[])]),
)


def bundle(decoder: str) -> EncoderBundle:
    config = ModelConfig(
        backbone=BackboneConfig(name=decoder, layers=2),
        event_encoder=EventEncoderConfig(name="unused"),
        dtype="float32",
        fields=FieldsConfig(buckets=31, width=5),
    )
    made = saved.new_encoder(config, BidirectionalConfig(recipe="bidirectional"), MODALITIES, (), WIDTH, "events", 0)
    made.encoder.eval()
    return made


def collator(made: EncoderBundle) -> Collator:
    return Collator(made.encoder.template, made.tokenizer, lookup)


def test_weights_of_texts_and_parts() -> None:
    contents = contents_of(history_events(ROWS, MODALITIES), lookup, ("shop", "town"), ("items",))
    # a basket's parts: ln 4 and ln 2, so 2 : 1, with squares that sum to 1; ln 2 with its sign, and ln 1 = 0
    assert contents.weight_X.tolist() == pytest.approx([1, 2 / 5**0.5, 1 / 5**0.5, -1, 0, 1, 1, 1])
    assert contents.first_E.tolist() == [0, 3, 5, 5, 6, 7, 8]
    assert contents.count_M == (4, 2, 0)  # visit, milk, bread, tea; milk, open
    names = ["visit", "milk", "bread", "bread", "tea", "milk", "open", "open"]
    expected = torch.from_numpy(lookup(pa.array(names)))
    torch.testing.assert_close(contents.vector_PH[contents.content_X], expected)
    np.testing.assert_array_equal(contents.number_EN[:, 0], [3, np.nan, 8, np.nan, np.nan, np.nan, np.nan])
    shops = contents.bucket_EK[:, :2].tolist()
    assert shops[0] == shops[2] == shops[6]  # the same text of the same field, also in another modality
    assert {tuple(shop) for shop in shops[1:2] + shops[3:6]} == {(-1, -1)}
    assert len({*map(tuple, shops), tuple(contents.bucket_EK[6, 2:].tolist())}) == 3


def test_the_embedding_of_an_event_is_the_sum_of_what_it_holds(tiny_decoder) -> None:
    made = bundle(tiny_decoder)
    encoder, batch = made.encoder, collator(made).users(ROWS)
    assert encoder.fields is not None
    encoder.fields.fit(torch.tensor([[3.0], [np.nan], [8.0]]))

    def adapted(modality: str, text: str) -> torch.Tensor:
        return encoder.adapters[modality](torch.from_numpy(lookup(pa.array([text]))))[0]

    def field(place: int, column: int) -> torch.Tensor:
        rows = batch.contents.bucket_EK[place, [column, column + 1]] % 31 + 1
        return encoder.fields.projection(encoder.fields.texts.weight[rows].sum(dim=0))

    def number(z: float, is_missing: float) -> torch.Tensor:
        first, _, last = encoder.fields.numbers
        return last(gelu(first(torch.tensor([z, is_missing], dtype=torch.float32))))

    def sized(total: torch.Tensor, age: float, amount: float) -> torch.Tensor:
        numbers = encoder.numbers(torch.tensor([age]), torch.tensor([amount]))[0]
        return rms_norm(total + numbers, total.shape) * encoder.input_scale

    with torch.no_grad():
        event_ED = encoder._events(batch)
        visit = adapted("bill", "visit") + (2 * adapted("bill", "milk") + adapted("bill", "bread")) / math.sqrt(5)
        # two numbers are one deviation below and above their mean
        torch.testing.assert_close(event_ED[0], sized(visit + field(0, 0) + number(-1, 0), 9, 5))
        torch.testing.assert_close(event_ED[1], sized(-adapted("bill", "bread") + number(0, 1), 2, np.nan))
        torch.testing.assert_close(event_ED[2], sized(field(0, 0) + number(1, 0), 1, 2))
        torch.testing.assert_close(event_ED[3], sized(adapted("app", "milk") + number(0, 1), 5, np.nan))
        torch.testing.assert_close(event_ED[6], sized(field(0, 0) + field(6, 2) + number(0, 1), 1, np.nan))


def test_every_detail_reaches_the_vector_and_nothing_else_does(tiny_decoder) -> None:
    made = bundle(tiny_decoder)

    def pooled(rows: pa.Table) -> torch.Tensor:
        batch = collator(made).users(rows)
        with torch.no_grad():
            return made.encoder(batch, made.recipe.future_weight(batch.layout.tokens, 0))

    def vector(**changes: object) -> torch.Tensor:
        bill = event(9, "visit", 5.0, fields={"shop": "north", "items": 3.0}, parts=parts(milk=3, bread=1))
        return pooled(table(user("a", [{**bill, **changes}])))[0]

    base = vector()
    for change in (
        {"text": "call"},
        {"text": None},
        {"fields": {"shop": "south", "items": 3.0}},
        {"fields": {"shop": "north", "items": None}},
        {"fields": None},
        {"parts": parts(milk=3, bread=2)},
        {"parts": parts(milk=3)},
        {"parts": None},
    ):
        assert (vector(**change) - base).abs().max() > 1e-4, change
    torch.testing.assert_close(vector(parts=parts(bread=1, milk=3)), base)
    together = pooled(ROWS)
    for i in range(len(ROWS)):
        torch.testing.assert_close(pooled(ROWS.slice(i, 1))[0], together[i])


def test_texts_and_empty_histories_need_no_events(tiny_decoder) -> None:
    made = bundle(tiny_decoder)
    texts = collator(made).text_sequences(["someone who buys tea", "someone else"]).batch(np.array([0, 1]))
    nobody = collator(made).users(table(user("a", []), user("b", [])))
    for batch in (texts, nobody):
        with torch.no_grad():
            states = made.encoder(batch, made.recipe.future_weight(batch.layout.tokens, 0))
        assert states.isfinite().all()


def test_a_saved_encoder_reads_the_same(tiny_decoder, tmp_path) -> None:
    made = bundle(tiny_decoder)
    made.encoder.fields.fit(torch.tensor([[3.0], [8.0]]))
    saved.save(made, str(tmp_path / "encoder"))
    loaded = saved.load(str(tmp_path / "encoder"), torch.device("cpu"))
    assert loaded.encoder.template.modalities == MODALITIES
    first, second = (b.encoder.inputs(collator(b).users(ROWS)) for b in (made, loaded))
    torch.testing.assert_close(first, second)


def test_the_future_has_details_of_all_modalities() -> None:
    here = {"fields": {"shop": "north", "items": None, "town": "Rome"}, "parts": None}
    bill = event(-2, None, 1.0, fields={"shop": None, "items": 2.0, "town": None}, parts=parts(tea=1))
    rows = table(
        user("a", [], future=[{**bill, "modality": "bill"}, {**event(-3), **here, "modality": "stay"}]),
        user("b", [], future=[{**event(-4, "open"), "fields": None, "parts": None, "modality": "app"}]),
    )
    drawn = sample_future_events(rows, MODALITIES, 9, 0)
    assert drawn.fields["town"].to_pylist() == [None, None, "Rome"]
    assert drawn.fields["items"].to_pylist() == [2.0, None, None]
    assert drawn.parts_E.to_pylist() == [parts(tea=1), None, None]
    # without a text, an event is called by its text fields and parts
    assert render(drawn, ["bill", "app", "stay"]) == ["bill: tea. stay: north, Rome.", "app: open."]
    swapped = drawn.take(np.array([1, 0]))
    assert swapped.text_E.to_pylist() == [None, "open", None]
    assert swapped.parts_E.to_pylist() == [parts(tea=1), None, None]
    assert swapped.fields["shop"].to_pylist() == [None, None, "north"]


@pytest.mark.parametrize(
    ("modality", "sentence"),
    [
        (Modality("app", 3, parts=True), "column 'app': the encoder reads the events' parts, and they have none"),
        (Modality("stay", 3, ("door",)), r"column 'stay': .* the field 'door' \(string\), .* no such field"),
        (Modality("bill", 3, (), ("shop",)), r"column 'bill': .* 'shop' \(double\), .* have string"),
    ],
)
def test_rows_without_what_the_encoder_reads(modality: Modality, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        history_events(ROWS, (modality,))


def test_distinct_texts_are_those_of_events_and_parts(tmp_path) -> None:
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    [chunk] = plan_chunks([str(tmp_path / "rows.parquet")], 10, ["bill", "app", "stay"], 0)
    described = pa.table({name: [value] for name, value in asdict(chunk).items()})
    found = distinct_texts(described, ["bill", "app", "stay"], VectorStore((), str(tmp_path / "cache")))
    counts = dict(zip(found["text"].to_pylist(), found["events"].to_pylist(), strict=True))
    assert counts == {"visit": 1, "milk": 2, "bread": 2, "tea": 1, "open": 2}


def test_a_future_need_not_have_what_only_other_modalities_have() -> None:
    plain = pa.list_(future_type(event_type("UTC")))

    def with_future(*events: dict[str, object]) -> pa.Table:
        return ROWS.slice(0, 1).set_column(ROWS.column_names.index("future"), "future", pa.array([list(events)], plain))

    drawn = sample_future_events(with_future({**event(-4, "open"), "modality": "app"}), MODALITIES, 9, 0)
    assert (drawn.fields["town"].to_pylist(), drawn.parts_E.to_pylist()) == ([None], [None])
    with pytest.raises(InputError, match="column 'future': the encoder reads the field 'shop'"):
        sample_future_events(with_future({**event(-4, "x"), "modality": "stay"}), MODALITIES, 9, 0)


def test_answers_are_equal_only_if_all_that_they_hold_is(tiny_decoder) -> None:
    def row(name: str, **parts_of: float) -> dict[str, object]:
        here = {"fields": {"shop": None, "items": 2.0, "town": None}, "parts": parts(**parts_of)}
        return user(name, [], future=[{**event(-2, None, 1.0), **here, "modality": "bill"}])

    rows = table(row("a", tea=1), row("b", tea=2), row("c", tea=1))
    first, second, third = draw_answers(rows, collator(bundle(tiny_decoder)), AnswerConfig(), 0).id_N
    assert first == third != second
