"""What MSDP and One4all learn from: clusters of event vectors, how they are found, and events that have none."""

from types import ModuleType

import pyarrow as pa
import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.encoders import msdp, one4all, stream
from ray_ggsm.encoders.stream import StreamModel, StreamReader, raw_vectors
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.contents import Contents
from ray_ggsm.model.kinds import MsdpConfig, One4allConfig
from ray_ggsm.model.modality import Modality
from tests.helpers.encoders import WIDTH, lookup
from tests.helpers.rows import user_rows

MODALITIES = (Modality("bill", 7), Modality("app", 5))
READER = StreamReader(MODALITIES, 9, lookup)
DAYS, MOST = 80, 20
SMALL = {"event_encoder": EventEncoderConfig(name="unused"), "heads": 2, "newest": 9, "width": 6}
READERS_OF_VECTORS: tuple[ModuleType, ...] = (stream, msdp, one4all)


@pytest.fixture(params=["msdp", "one4all"])
def model(request: pytest.FixtureRequest) -> StreamModel:
    torch.manual_seed(0)
    if request.param == "msdp":
        return msdp.Msdp(MsdpConfig(kind="msdp", behaviours=4, clustered_events=MOST, **SMALL), MODALITIES, WIDTH)
    config = One4allConfig(kind="one4all", codebooks=(2, 5), clustered_events=MOST, **SMALL)
    return one4all.One4all(config, MODALITIES, WIDTH)


def test_vectors_of_chosen_events_are_those_of_all() -> None:
    batch = READER.batch(user_rows(30))
    everything = torch.arange(len(batch.age_E))
    chosen = torch.tensor([7, 0, 7, 3, len(everything) - 1])
    all_EH = raw_vectors(batch.contents, everything)
    assert torch.equal(raw_vectors(batch.contents, chosen), all_EH[chosen])
    assert raw_vectors(batch.contents, chosen[:0]).shape == (0, WIDTH)
    texts = [e["text"] for name in ("bill", "app") for row in user_rows(30)[name].to_pylist() for e in kept(name, row)]
    torch.testing.assert_close(all_EH, torch.from_numpy(lookup(pa.array(texts))))


def kept(name: str, row: list[dict]) -> list[dict]:
    return row[-{modality.name: modality.keep for modality in MODALITIES}[name] :]


def test_few_vectors_are_made_at_a_time(model: StreamModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def watched(*asked: object) -> torch.Tensor:
        made.append(raw_vectors(*asked))
        return made[-1]

    for module in READERS_OF_VECTORS:
        monkeypatch.setattr(module, "raw_vectors", watched)
    rows = user_rows(30)
    assert min(len(READER.batch(rows).age_E), len(READER.future(rows).age_E)) > 3 * MOST
    model.prepare(READER, rows, DAYS, 0)
    assert max(map(len, made)) == MOST


def test_vectors_are_compared_where_the_model_is(model: StreamModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read before it was moved there, which is no move on a machine without GPUs."""
    moved: list[Contents] = []
    on_device = stream.on_device

    def watched_move(batch: object, device: torch.device) -> object:
        assert device == model.centre_W.device
        found = on_device(batch, device)
        moved.append(getattr(found, "history", found).contents)
        return found

    def watched_read(contents: Contents, *asked: object) -> torch.Tensor:
        assert any(contents is each for each in moved)
        return raw_vectors(contents, *asked)

    monkeypatch.setattr(stream, "on_device", watched_move)
    for module in READERS_OF_VECTORS:
        monkeypatch.setattr(module, "raw_vectors", watched_read)
    model.prepare(READER, user_rows(30), DAYS, 0)
    assert moved


def test_rows_without_events_are_refused(model: StreamModel) -> None:
    rows = user_rows(30)
    for name in ("bill", "app", "future"):
        none = pa.array([[]] * len(rows), rows.schema.field(name).type)
        rows = rows.set_column(rows.column_names.index(name), name, none)
    with pytest.raises(InputError, match="two distinct ones, found 0"):
        model.prepare(READER, rows, DAYS, 0)


@pytest.mark.parametrize("text", [None, "the same everywhere"])
def test_events_without_contents_to_tell_apart_are_refused(model: StreamModel, text: str | None) -> None:
    rows = user_rows(30)
    for name in ("bill", "app", "future"):
        events = [[{**event, "text": text} for event in row] for row in rows[name].to_pylist()]
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(events, rows.schema.field(name).type))
    with pytest.raises(InputError, match=r"data\.modalities: .* two distinct .* found 1; .*`text` or `parts`"):
        model.prepare(READER, rows, DAYS, 0)
