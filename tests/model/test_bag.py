"""A bag of contents: its weights are scikit-learn's TF-IDF, and it is a part of the user vector like the others."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer

from ray_ggsm.config import InputError
from ray_ggsm.masks.fixed import BidirectionalConfig
from ray_ggsm.model import saved
from ray_ggsm.model.bag import UNUSED, Bag
from ray_ggsm.model.batch import Batch, Collator
from ray_ggsm.model.config import BackboneConfig, BagConfig, EventEncoderConfig, FusionConfig, ModelConfig
from ray_ggsm.model.encoder import UserEncoder
from ray_ggsm.model.saved import EncoderBundle
from tests.helpers.encoders import WIDTH, lookup
from tests.model.test_contents import MODALITIES, event, parts, table, user

BIDIRECTIONAL = BidirectionalConfig(recipe="bidirectional")
DEVICE = torch.device("cpu")
SHOPS, PARTS = ["north", "south", "mill", None], ["milk", "bread", "tea", "salt", "oil"]


def rows_of(n: int, seed: int = 0, features: int = 0) -> pa.Table:
    """Rows with up to three bills, two opened apps and one stay, all of them drawn."""
    rng = np.random.default_rng(seed)

    def bill(day: int) -> dict[str, object]:
        there = {name: int(rng.integers(1, 9)) for name in PARTS if rng.random() < 0.4}
        shop = SHOPS[rng.integers(len(SHOPS))]
        return event(day + 1, fields={"shop": shop, "items": 1.0}, parts=parts(**there))

    users = [
        user(
            f"u{n}",
            [bill(day) for day in range(rng.integers(0, 4))][::-1],
            [event(3, "milk" if rng.random() < 0.5 else "open") for _ in range(rng.integers(0, 3))],
            [event(1, fields={"town": "Rome", "shop": "mill"})] if rng.random() < 0.3 else [],
        )
        for n in range(n)
    ]
    return table(*[each | {"tabular": rng.normal(size=features).tolist()} for each in users])


def words_of(rows: pa.Table) -> list[list[str]]:
    """What each row's events hold: a word per part and text of a modality, and per value of a field."""
    found = []
    for row in rows.to_pylist():
        words = [f"bill {part['text']}" for each in row["bill"] for part in each["parts"] or ()]
        words += [f"app {each['text']}" for each in row["app"]]
        for each in [*row["bill"], *row["stay"]]:
            words += [f"{name}={text}" for name, text in each["fields"].items() if isinstance(text, str)]
        found.append(words)
    return found


def made(decoder: str, bag: BagConfig | None, features: int = 0, **fusion: object) -> EncoderBundle:
    config = ModelConfig(
        backbone=BackboneConfig(name=decoder, layers=2),
        event_encoder=EventEncoderConfig(name="unused"),
        dtype="float32",
        fusion=FusionConfig(width=5, hidden=6, bag=bag, **fusion),
    )
    names = tuple(f"f{k}" for k in range(features))
    return saved.new_encoder(config, BIDIRECTIONAL, MODALITIES, names, WIDTH, "events", 0)


def fitted(bundle: EncoderBundle, rows: pa.Table) -> tuple[Bag, Collator]:
    collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
    assert bundle.encoder.fusion is not None
    assert bundle.encoder.fusion.bag is not None
    bundle.encoder.fusion.bag.fit(*collator.bag(rows))
    bundle.encoder.eval()
    return bundle.encoder.fusion.bag, collator


def states(encoder: UserEncoder, batch: Batch) -> torch.Tensor:
    """Pooled states under an open mask."""
    pooled_BW: torch.Tensor = encoder(batch, torch.ones(batch.layout.tokens.valid_BL.shape))
    return pooled_BW


@pytest.mark.parametrize("least_rows", [1, 9])
def test_weights_are_those_of_scikit_learn(tiny_decoder, least_rows) -> None:
    rows, others = rows_of(40), rows_of(15, seed=1)
    bundle = made(tiny_decoder, BagConfig(contents=20, least_rows=least_rows, width=3))
    bag, collator = fitted(bundle, rows)
    reference = TfidfVectorizer(analyzer=list, sublinear_tf=True, min_df=least_rows).fit(words_of(rows))
    assert (bag.hash_V < UNUSED).sum() == len(reference.vocabulary_) < 20
    assert (bag.hash_V.diff() >= 0).all()
    expected = reference.transform(words_of(others)).toarray()
    found = bag.weights(*collator.bag(others)).numpy()[:, : expected.shape[1]]
    # the columns are in the order of hashes, which nobody knows: two columns that say the same of all rows are the same
    np.testing.assert_allclose(sorted(found.T.tolist()), sorted(expected.T.tolist()), atol=1e-6)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-6)


def test_it_begins_with_the_singular_vectors_of_training_rows(tiny_decoder) -> None:
    rows = rows_of(40)
    bag, collator = fitted(made(tiny_decoder, BagConfig(contents=20, least_rows=1, width=4)), rows)
    U, S, _ = np.linalg.svd(bag.weights(*collator.bag(rows)).double().numpy(), full_matrices=False)
    with torch.no_grad():
        found_BK = bag(*collator.bag(rows)).numpy()
    np.testing.assert_allclose(found_BK @ found_BK.T, (U[:, :4] * S[:4] ** 2) @ U[:, :4].T, atol=1e-4)


def test_few_places_are_for_the_most_frequent(tiny_decoder) -> None:
    rows = rows_of(40)
    all_bag, _ = fitted(made(tiny_decoder, BagConfig(contents=50, least_rows=1, width=3)), rows)
    few, _ = fitted(made(tiny_decoder, BagConfig(contents=4, least_rows=1, width=3)), rows)
    rarest_first = all_bag.rarity_V[all_bag.hash_V < UNUSED].sort().values
    torch.testing.assert_close(few.rarity_V.sort().values, rarest_first[:4])
    assert set(few.hash_V.tolist()) < set(all_bag.hash_V.tolist())


def test_a_bag_of_nothing_is_refused(tiny_decoder) -> None:
    with pytest.raises(InputError, match="is in 41 of the 40 training rows"):
        fitted(made(tiny_decoder, BagConfig(least_rows=41)), rows_of(40))


def test_a_row_of_unknown_contents_is_zero(tiny_decoder) -> None:
    bag, collator = fitted(made(tiny_decoder, BagConfig(contents=20, least_rows=1, width=3)), rows_of(40))
    strange = table(user("a", [], [event(2, "never seen")]), user("b", []), user("c", [], [event(2, "open")]))
    weight_BV = bag.weights(*collator.bag(strange))
    assert weight_BV.norm(dim=1).tolist() == pytest.approx([0, 0, 1])
    assert bag(*collator.bag(strange))[:2].eq(0).all()


@pytest.mark.parametrize("features", [0, 4])
def test_it_is_the_last_part_of_the_user_vector(tiny_decoder, features) -> None:
    rows = rows_of(12, features=features)
    bundle = made(tiny_decoder, BagConfig(contents=20, least_rows=1, width=3), features)
    bag, collator = fitted(bundle, rows)
    encoder, batch = bundle.encoder, collator.users(rows)
    widths = ((features, 5) if features else ()) + (3,)
    assert encoder.fusion.widths == widths
    assert encoder.vector_width == encoder.width + sum(widths)
    with torch.no_grad():
        pooled_BW = states(encoder, batch)
        torch.testing.assert_close(pooled_BW[:, -3:], bag(*collator.bag(rows)))
        encoder.set_centres(pooled_BW, torch.zeros(encoder.width))
        vector_BW = encoder.vectors(pooled_BW, "user")
        assert vector_BW.norm(dim=1).tolist() == pytest.approx([1.0] * 12)
        # each part has a mean square that is the same over all its columns
        centred = (pooled_BW - pooled_BW.mean(dim=0))[:, -sum(widths) :].split(widths, dim=1)
        part_S = torch.stack([part.square().mean().sqrt() for part in centred])
        torch.testing.assert_close(encoder.scale_user_S, part_S)
        alone = torch.cat([states(encoder, collator.users(rows.slice(n, 1))) for n in range(12)])
    torch.testing.assert_close(alone, pooled_BW, atol=2e-5, rtol=1e-5)


def test_the_answer_tower_has_none(tiny_decoder) -> None:
    bundle = made(tiny_decoder, BagConfig(contents=20, least_rows=1, width=3))
    _, collator = fitted(bundle, rows_of(12))
    answers = collator.text_sequences(["milk", "tea and bread"]).batch(np.arange(2))
    with torch.no_grad():
        pooled_BD = states(bundle.encoder, answers)
        assert pooled_BD.shape == (2, bundle.encoder.width)
        assert bundle.encoder.vectors(pooled_BD, "answer")[:, -3:].eq(0).all()


def test_training_reaches_what_occurs_and_nothing_else(tiny_decoder) -> None:
    rows = rows_of(12)
    bundle = made(tiny_decoder, BagConfig(contents=20, least_rows=1, width=3, dropout=0.0))
    bag, collator = fitted(bundle, rows_of(40))
    states(bundle.encoder, collator.users(rows))[:, -3:].square().sum().backward()
    reached_V = bag.linear.weight.grad.abs().sum(dim=0) > 0
    torch.testing.assert_close(reached_V, bag.weights(*collator.bag(rows)).sum(dim=0) > 0)


def test_a_saved_encoder_has_its_bag(tiny_decoder, tmp_path) -> None:
    rows = rows_of(12)
    bundle = made(tiny_decoder, BagConfig(contents=20, least_rows=1, width=3))
    _, collator = fitted(bundle, rows_of(40))
    saved.save(bundle, str(tmp_path / "encoder"))
    again = saved.load(str(tmp_path / "encoder"), DEVICE)
    batch = Collator(again.encoder.template, again.tokenizer, lookup).users(rows)
    with torch.no_grad():
        expected = states(bundle.encoder, collator.users(rows))
        torch.testing.assert_close(states(again.encoder, batch), expected, atol=0, rtol=0)


def test_encoders_of_before_are_read(tiny_decoder, tmp_path) -> None:
    bundle, place = made(tiny_decoder, None, 4), tmp_path / "encoder"
    saved.save(bundle, str(place))
    description = (place / "encoder.json").read_text()
    assert '"bag"' not in description, "digests of encoders stay as they were"
    state = load_file(place / "modules.safetensors")
    before = saved.file_digest(str(place), "modules.safetensors")
    state["scale_user_2"] = state.pop("scale_user_S") * 3
    save_file(state, place / "modules.safetensors")
    after = saved.file_digest(str(place), "modules.safetensors")
    (place / "encoder.json").write_text(description.replace(before, after))
    assert saved.load(str(place), DEVICE).encoder.scale_user_S.tolist() == [3, 3]
