"""Targets of the future against loops over hand-made rows, the heads' losses, and fused vectors that a probe reads."""

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.model.config import FusionConfig
from ray_ggsm.model.fusion import Fusion, component_scales, fuse
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.targets import Heads, TargetMaker, Targets, TargetsConfig
from tests.helpers.rows import AS_OF, user_rows

PARTS = pa.list_(pa.struct([("text", pa.string()), ("weight", pa.float32())]))
EVENT = [("time", pa.timestamp("us", "UTC")), ("text", pa.string()), ("amount", pa.float32())]
DETAILS = [("fields", pa.struct([("shop", pa.string()), ("items", pa.float64())])), ("parts", PARTS)]
CPU = torch.device("cpu")


def event(day: float, text: str, amount: float | None, shop: str | None, *parts: str) -> dict:
    listed = [{"text": part, "weight": 1.0} for part in parts]
    fields = {"shop": shop, "items": None}
    return {"time": AS_OF + dt.timedelta(days=day), "text": text, "amount": amount, "fields": fields, "parts": listed}


def rows(histories: list[list[dict]], futures: list[list[dict]]) -> pa.Table:
    n = len(histories)
    return pa.table(
        {
            "user_id": pa.array([f"u{i}" for i in range(n)]),
            "as_of": pa.array([AS_OF] * n, pa.timestamp("us", "UTC")),
            "bill": pa.array(histories, pa.list_(pa.struct(EVENT + DETAILS))),
            "tabular": pa.array([[0.0]] * n, pa.list_(pa.float32())),
            "future": pa.array(futures, pa.list_(pa.struct([("modality", pa.string()), *EVENT, *DETAILS]))),
        }
    )


def made(table: pa.Table, future_days: int = 30, **config) -> tuple[TargetMaker, Targets]:
    maker = TargetMaker(TargetsConfig(**{"horizons_days": (3, 30), **config}), ["bill", "app"], future_days, table, CPU)
    return maker, maker(table)


def hand_made() -> pa.Table:
    bill = lambda *values: {"modality": "bill", **event(*values)}  # noqa: E731
    histories = [[event(-5, "a", 1, "north")], [event(-1, "a", 1, "south"), event(-9, "b", 1, None)], []]
    futures = [
        [bill(0.5, "a", 2.0, "north", "milk", "bread"), bill(2.99, "b", None, "east", "milk"), bill(3, "a", 4.0, None)],
        [bill(29, "a", -7.0, "south", "milk")],
        [],
    ]
    return rows(histories, futures)


def test_contents_are_texts_parts_and_values_of_fields() -> None:
    maker, targets = made(hand_made())
    assert maker.contents.to_pylist()[:2] == ["bill of milk", "bill: a"], "most rows first, then the alphabet"
    assert set(maker.contents.to_pylist()) == {
        "bill: a", "bill: b", "bill of milk", "bill of bread", "shop = north", "shop = east", "shop = south"
    }  # fmt: skip
    occurs = {name: targets.occurs_BC[:, i].tolist() for i, name in enumerate(maker.contents.to_pylist())}
    assert occurs["bill of milk"] == [1, 1, 0]
    assert occurs["bill: b"] == [1, 0, 0]
    assert occurs["shop = south"] == [0, 1, 0]
    assert made(hand_made(), n_contents=2)[0].contents.to_pylist() == ["bill of milk", "bill: a"]


def test_numbers_count_within_horizons_and_sum_amounts() -> None:
    maker, targets = made(hand_made())
    # per horizon: events, then amounts; the event on day 3 is outside of the first three days
    numbers = [[2, 2.0, 3, 6.0], [0, 0.0, 1, -7.0], [0, 0.0, 0, 0.0]]
    logs = [[math.copysign(math.log1p(abs(x)), x) for x in row] for row in numbers]
    expected = (np.array(logs) - np.mean(logs, axis=0)) / np.std(logs, axis=0)
    np.testing.assert_allclose(targets.number_BN.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert maker.modalities == maker.with_amount == ["bill"]


def test_first_event_is_censored_at_the_futures_end() -> None:
    _, targets = made(hand_made(), future_days=30)
    logs = np.log1p([0.5, 29, 30])
    np.testing.assert_allclose(targets.first_BM[:, 0].numpy(), (logs - logs.mean()) / logs.std(), rtol=1e-5)
    assert targets.censored_BM[:, 0].tolist() == [0, 0, 1]


def test_new_values_are_those_that_the_history_lacks() -> None:
    """Row 0 has `east` for the first time; row 1 only comes back to `south`; a missing value is no new one."""
    maker, targets = made(hand_made())
    assert maker.fields == ["shop"]
    assert targets.new_BF[:, 0].tolist() == [1, 0, 0]


def with_items(*items_per_row: list[float | None]) -> pa.Table:
    futures = []
    for items in items_per_row:
        events = [{"modality": "bill", **event(day, "a", 1, None)} for day in range(len(items))]
        for one, n in zip(events, items, strict=True):
            one["fields"]["items"] = n
        futures.append(events)
    return rows([[] for _ in futures], futures)


def test_means_of_number_fields_leave_out_events_without_one() -> None:
    maker, targets = made(with_items([2, None, -4], [None], [6], []), numbers=1.0)
    logs = np.array([(math.log1p(2) - math.log1p(4)) / 2, math.log1p(6)])
    expected = (logs - logs.mean()) / logs.std()
    assert maker.number_fields == ["items"]
    np.testing.assert_allclose(targets.mean_BQ[:, 0].numpy(), [expected[0], 0, expected[1], 0], rtol=1e-5)
    assert targets.has_mean_BQ[:, 0].tolist() == [1, 0, 1, 0]


def test_only_rows_with_a_mean_count_in_its_loss() -> None:
    config = TargetsConfig(horizons_days=(3,), contents=0, activity=0, first=0, new=0, numbers=3.0)
    table = with_items([2, None, -4], [None], [6], [])
    maker = TargetMaker(config, ["bill"], 30, table, CPU)
    heads = Heads(2, maker.widths, maker.prior, 0)
    losses = heads.losses(torch.zeros(4, 2), maker(table), config)
    # the heads say 0; both z-scores are 1 or -1, whose Huber loss is .5
    assert {name: loss.item() for name, loss in losses.items()} == {"numbers": pytest.approx(3.0 * 0.5, rel=1e-5)}


def test_without_weight_numbers_are_no_heads() -> None:
    maker, targets = made(with_items([2], [3]))
    assert maker.widths[-1] == targets.mean_BQ.shape[1] == 0, "encoders of before keep their heads' first weights"


def test_targets_of_made_up_rows_equal_loops() -> None:
    table = user_rows(users=23, most=9)
    maker, targets = made(table, future_days=90, horizons_days=(10, 40))
    column = 0
    for name in maker.modalities:
        for days in (10, 40):
            inside = [
                [e for e in row if e["modality"] == name and (e["time"] - AS_OF).total_seconds() < days * 86400]
                for row in table["future"].to_pylist()
            ]
            for numbers in ([len(row) for row in inside], [sum(e["amount"] or 0 for e in row) for row in inside]):
                logs = np.log1p(np.array(numbers, dtype=float))
                expected = (logs - logs.mean()) / (logs.std() or 1)
                np.testing.assert_allclose(targets.number_BN[:, column].numpy(), expected, rtol=1e-4, atol=1e-5)
                column += 1
    assert column == targets.number_BN.shape[1]
    assert maker.widths == tuple(part.shape[1] for i, part in enumerate(targets.parts) if i not in (3, 6))


def test_futures_without_events_are_refused_with_a_sentence() -> None:
    with pytest.raises(InputError, match=r"none of the first 2 training rows has an event after its as_of"):
        made(rows([[], []], [[], []]))


def test_nothing_to_learn_is_refused() -> None:
    nothing = {"horizons_days": (3,), "contents": 0, "activity": 0, "first": 0, "new": 0}
    for targets in (None, nothing):
        with pytest.raises(ValueError, match="nothing would be learned"):
            TrainingConfig(steps=1, batch_size=2, contrast_weight=0, targets=targets)


def test_features_that_do_not_differ_have_a_finite_gradient() -> None:
    pooled_BW = torch.cat([torch.randn(2, 4), torch.ones(2, 3)], dim=1).requires_grad_()
    centred_BW = pooled_BW - pooled_BW.mean(dim=0)
    fuse(centred_BW, (1, 2), component_scales(centred_BW, (1, 2)))[:, 0].sum().backward()
    assert pooled_BW.grad.isfinite().all()


def test_rows_alone_get_the_same_targets_as_rows_together() -> None:
    table = hand_made()
    maker, together = made(table)
    for i in range(len(table)):
        for part, whole in zip(maker(table.slice(i, 1)).parts, together.parts, strict=True):
            assert torch.equal(part[0], whole[i])


def test_heads_start_from_base_rates() -> None:
    maker, _ = made(hand_made())
    heads = Heads(3, maker.widths, maker.prior, 0)
    occurs, number, first, new, _ = heads(torch.zeros(1, 3)).split(heads.widths, dim=1)
    assert occurs[0, 0].sigmoid().item() == pytest.approx(2 / 3)  # `bill of milk` occurs in two of three rows
    assert new.sigmoid().item() == pytest.approx(1 / 3)
    assert not number.any()
    assert not first.any()


def test_a_prediction_beyond_the_futures_end_is_right_where_no_event_came() -> None:
    config = TargetsConfig(horizons_days=(3,), contents=0, activity=0, new=0, first=2.0)
    nothing = torch.zeros(2, 0)
    targets = Targets(nothing, nothing, torch.ones(2, 1), torch.tensor([[1.0], [0.0]]), nothing, nothing, nothing)
    heads = Heads(1, (0, 0, 1, 0, 0), torch.zeros(1), 0)
    torch.nn.init.zeros_(heads.weight)
    for predicted, expected in ((1.5, 2.0 * 0.125 / 2), (0.5, 2.0 * 0.125)):
        torch.nn.init.constant_(heads.bias, predicted)
        losses = heads.losses(torch.zeros(2, 1), targets, config)
        assert losses.keys() == {"first"}
        assert losses["first"].item() == pytest.approx(expected)


def test_fused_vectors_are_unit_vectors_whose_features_keep_their_sizes() -> None:
    """A linear read-out finds each feature in the fused vector, which it cannot once features are normalised alone."""
    torch.manual_seed(0)
    z_BF, state_BD = torch.randn(400, 6) * torch.rand(400, 1) * 3, torch.randn(400, 16)
    fusion = Fusion(6, FusionConfig(width=4, hidden=8, dropout=0)).eval()
    with torch.no_grad():
        pooled_BW = torch.cat([state_BD, fusion(z_BF)], dim=1)
    centred_BW = pooled_BW - pooled_BW.mean(dim=0)
    vector_BW = fuse(centred_BW, fusion.widths, component_scales(centred_BW, fusion.widths))
    torch.testing.assert_close(vector_BW.norm(dim=1), torch.ones(400))
    torch.testing.assert_close(  # the sequence's part is the paper's vector, times one number per row
        torch.nn.functional.normalize(vector_BW[:, :16], dim=1),
        torch.nn.functional.normalize(centred_BW[:, :16], dim=1),
    )

    def explained(from_BX: torch.Tensor) -> float:
        design = torch.cat([from_BX, torch.ones(400, 1)], dim=1)
        rest = z_BF - design @ torch.linalg.lstsq(design, z_BF).solution
        return 1 - (rest.square().sum() / (z_BF - z_BF.mean(dim=0)).square().sum()).item()

    assert explained(vector_BW[:, 16:]) > 0.98
    assert explained(torch.nn.functional.normalize(centred_BW[:, 16:], dim=1)) < 0.9


def test_a_narrow_linear_part_is_a_fixed_projection() -> None:
    fusion = Fusion(9, FusionConfig(width=4, hidden=8, linear_width=3))
    assert fusion(torch.randn(2, 9)).shape == (2, 7)
    assert not fusion.linear.weight.requires_grad
    torch.testing.assert_close(fusion.linear.weight @ fusion.linear.weight.T, torch.eye(3))
