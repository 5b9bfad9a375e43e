"""Dense targets of the future beside the contrastive loss: what occurs, how often and how much, how soon, what is new.

InfoNCE asks whose future this is; these targets ask what it is. They are made from the future events of any data set,
never from labels, and linear heads read them from the user vector as it is published, so that linear probes find them
there. The heads are not saved with the encoder. (Dense multi-horizon targets: Pancha et al., PinnerFormer, 2022.)

Legend: B rows, E future events, C contents, N numbers, M modalities with a future, F text fields, Q number fields, W
width of user vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss

from ray_ggsm.config import Config, InputError
from ray_ggsm.numerics import signed_log
from ray_ggsm.training.futures import Futures, is_new, number_fields, text_fields
from ray_ggsm.training.nested import prefix


class TargetsConfig(Config):
    """What the heads predict, and how much each part counts. A weight of 0 leaves a part out."""

    horizons_days: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    """Lengths of the windows from as_of on in which events are counted; at most `data.snapshots.future_days`."""
    contents: float = Field(1.0, ge=0)
    """Weight of which contents occur: texts, parts and values of text fields (binary cross-entropy)."""
    n_contents: int = Field(300, ge=1, le=10_000)
    """Number of contents, those that occur in the futures of most rows."""
    activity: float = Field(1.0, ge=0)
    """Weight of the numbers of events and their amounts, per modality and horizon (Huber loss of z-scored signed
    logarithms)."""
    first: float = Field(1.0, ge=0)
    """Weight of the days to each modality's first event (Huber loss of z-scored logarithms). Where none comes, only
    predictions before the future's end count as wrong."""
    new: float = Field(1.0, ge=0)
    """Weight of whether a text field takes a value that the row's history does not have (binary cross-entropy). Events
    without `fields` have nothing to predict here."""
    numbers: float = Field(0.0, ge=0)
    """Weight of each number field's mean over the future events that have it (Huber loss of z-scored means of signed
    logarithms). Rows without such an event have nothing to predict."""

    @property
    def has_weight(self) -> bool:
        """Whether any part counts."""
        return max(self.contents, self.activity, self.first, self.new, self.numbers) > 0

    @field_validator("horizons_days")
    @classmethod
    def _horizons_differ(cls, horizons: tuple[int, ...]) -> tuple[int, ...]:
        if list(horizons) != sorted(set(horizons)):
            raise ValueError("give the horizons in rising order, each once")
        return horizons


@dataclass(frozen=True)
class Targets:
    """The targets of some rows, float32."""

    occurs_BC: Tensor
    """1 where the content occurs in the future, else 0."""
    number_BN: Tensor
    """Z-scores."""
    first_BM: Tensor
    """Z-scores; the future's end where no event comes."""
    censored_BM: Tensor
    """1 where no event comes, else 0."""
    new_BF: Tensor
    """1 where the field takes a new value, else 0."""
    mean_BQ: Tensor
    """Z-scores; 0 where no future event has the field."""
    has_mean_BQ: Tensor
    """1 where a future event has the field, else 0."""

    @property
    def parts(self) -> list[Tensor]:
        """All of them, in the order of the fields."""
        return list(vars(self).values())


class TargetMaker:
    """Makes targets, with contents and scales learned from training rows."""

    def __init__(
        self, config: TargetsConfig, modalities: Sequence[str], future_days: int, head: pa.Table, device: torch.device
    ) -> None:
        """Learn what is frequent, and means and deviations.

        Args:
            config: settings.
            modalities: modalities of the template, in order.
            future_days: days after as_of that `future` covers.
            head: training rows, the same on every worker.
            device: where the targets are used.

        Raises:
            InputError: no training row has a future event.
        """
        self.config, self.future_days, self.device = config, future_days, device
        futures = Futures.of(head)
        if not len(futures.events):
            raise InputError(
                f"training.targets: none of the first {len(head)} training rows has an event after its as_of, so "
                "there is nothing to predict; check data.snapshots.future_days, or leave the targets out"
            )
        seen = set(pc.unique(futures.events.field("modality")).to_pylist())
        self.modalities = [name for name in modalities if name in seen]
        """Modalities with a future, M."""
        amount_E = self._amounts(futures)
        self.with_amount = [name for name in self.modalities if amount_E[self._is(futures, name)].any()]
        self.contents, rows_C = _most_frequent(futures, config.n_contents)
        self.fields = [name for name, _ in text_fields(futures.events)]
        numbers = np.hstack([self._numbers(futures), self._first(futures)[0]])
        deviation = numbers.std(axis=0)
        self.mean, self.deviation = numbers.mean(axis=0), np.where(deviation > 1e-6, deviation, 1.0)
        rows_F = self._new(head, futures).sum(axis=0)
        self.number_fields = [name for name, _ in number_fields(futures.events)] if config.numbers else []
        mean_BQ = np.ma.masked_invalid(self._means(futures))
        deviation_Q = mean_BQ.std(axis=0).filled(0)
        self.mean_Q, self.deviation_Q = mean_BQ.mean(axis=0).filled(0), np.where(deviation_Q > 1e-6, deviation_Q, 1.0)
        n, zeros = len(head), torch.zeros
        priors = [_log_odds(rows_C, n), zeros(numbers.shape[1]), _log_odds(rows_F, n), zeros(len(self.number_fields))]
        self.prior = torch.cat(priors)
        """What heads should say of an unknown row: log-odds of base rates, and 0 for z-scores, (C + N + M + F + Q)."""

    def __call__(self, rows: pa.Table) -> Targets:
        """The targets of rows, which have a `future`."""
        futures = Futures.of(rows)
        first_BM, censored_BM = self._first(futures)
        N = len(self.mean) - first_BM.shape[1]
        mean_BQ = (self._means(futures) - self.mean_Q) / self.deviation_Q
        arrays = (
            self._occurs(futures),
            (self._numbers(futures) - self.mean[:N]) / self.deviation[:N],
            (first_BM - self.mean[N:]) / self.deviation[N:],
            censored_BM,
            self._new(rows, futures),
            np.nan_to_num(mean_BQ),
            ~np.isnan(mean_BQ),
        )
        return Targets(*(torch.from_numpy(array).to(self.device, torch.float32) for array in arrays))

    @property
    def widths(self) -> tuple[int, int, int, int, int]:
        """C, N, M, F and Q."""
        M = len(self.modalities)
        return len(self.contents), len(self.mean) - M, M, len(self.fields), len(self.number_fields)

    def _is(self, futures: Futures, modality: str) -> np.ndarray:
        is_E: np.ndarray = pc.equal(futures.events.field("modality"), modality).to_numpy(zero_copy_only=False)
        return is_E

    def _amounts(self, futures: Futures) -> np.ndarray:
        return np.nan_to_num(futures.events.field("amount").to_numpy(zero_copy_only=False).astype(np.float64))

    def _numbers(self, futures: Futures) -> np.ndarray:
        """Signed logarithms of numbers of events and amounts, (B, N), per modality and horizon."""
        amount_E, columns = self._amounts(futures), []
        for name in self.modalities:
            is_E = self._is(futures, name)
            for days in self.config.horizons_days:
                within_E = is_E & (futures.days_E < days)
                columns.append(futures.sum(within_E).astype(np.float64))
                if name in self.with_amount:
                    columns.append(futures.sum(within_E, amount_E))
        return signed_log(np.stack(columns, axis=1)) if columns else np.zeros((futures.rows, 0))

    def _first(self, futures: Futures) -> tuple[np.ndarray, np.ndarray]:
        """Logarithm of the days to the first event of each modality, and whether there is none, both (B, M)."""
        first_BM = np.full((futures.rows, len(self.modalities)), np.inf)
        for m, name in enumerate(self.modalities):
            is_E = self._is(futures, name)
            np.minimum.at(first_BM[:, m], futures.row_E[is_E], np.maximum(futures.days_E[is_E], 0))
        return np.log1p(np.minimum(first_BM, self.future_days)), np.isinf(first_BM)

    def _new(self, rows: pa.Table, futures: Futures) -> np.ndarray:
        """Whether each text field takes a new value, (B, F)."""
        columns = [is_new(rows, futures, field) for field in self.fields]
        return np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0))

    def _means(self, futures: Futures) -> np.ndarray:
        """Mean signed logarithm of each number field over the future, (B, Q); NaN where no event has the field."""
        mean_BQ = np.full((futures.rows, len(self.number_fields)), np.nan)
        values = dict(number_fields(futures.events))
        for q, name in enumerate(self.number_fields):
            value_E = values[name].to_numpy(zero_copy_only=False).astype(np.float64)
            has_E = ~np.isnan(value_E)
            n_B = futures.sum(has_E)
            np.divide(futures.sum(has_E, signed_log(value_E)), n_B, out=mean_BQ[:, q], where=n_B > 0)
        return mean_BQ

    def _occurs(self, futures: Futures) -> np.ndarray:
        occurs_BC = np.zeros((futures.rows, len(self.contents)), np.float32)
        for row, contents in futures.contents():
            index = pc.fill_null(pc.index_in(contents, value_set=self.contents), -1).to_numpy(zero_copy_only=False)
            occurs_BC[row[index >= 0], index[index >= 0]] = 1
        return occurs_BC


class Heads(nn.Linear):
    """Linear heads on user vectors, (B, W) -> (B, C + N + M + F + Q), and further ones on each prefix of them."""

    def __init__(self, W: int, widths: Sequence[int], prior: Tensor, seed: int, nested: Sequence[int] = ()) -> None:
        """Start from the prior: heads that first had to learn base rates would make one direction of the states a
        constant, and the states would collapse onto it."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(W, sum(widths))
            self.nested = nn.ModuleList(nn.Linear(n, sum(widths)) for n in nested)
        with torch.no_grad():
            for heads in (self, *self.nested):
                heads.bias.copy_(prior)
        self.widths, self.prefixes = list(widths), tuple(nested)

    def losses(self, vector_BW: Tensor, targets: Targets, config: TargetsConfig) -> dict[str, Tensor]:
        """The weighted mean loss of each part, scalars: of the whole vectors, or the mean over these and prefixes."""
        whole = self._losses(self(_sized(vector_BW)), targets, config)
        parts = [whole]
        for n, heads in zip(self.prefixes, self.nested, strict=True):
            parts.append(self._losses(heads(_sized(prefix(vector_BW, n))), targets, config))
        return {name: torch.stack([part[name] for part in parts]).mean() for name in whole} if self.nested else whole

    def _losses(self, predicted: Tensor, targets: Targets, config: TargetsConfig) -> dict[str, Tensor]:
        occurs_BC, number_BN, first_BM, new_BF, mean_BQ = predicted.split(self.widths, dim=1)
        error_BM = huber_loss(first_BM, targets.first_BM, reduction="none")
        is_right_BM = (targets.censored_BM > 0) & (first_BM > targets.first_BM)
        mean_error_BQ = huber_loss(mean_BQ, targets.mean_BQ, reduction="none") * targets.has_mean_BQ
        losses = {
            "contents": binary_cross_entropy_with_logits(occurs_BC, targets.occurs_BC),
            "activity": huber_loss(number_BN, targets.number_BN),
            "first": error_BM.masked_fill(is_right_BM, 0).mean(),
            "new": binary_cross_entropy_with_logits(new_BF, targets.new_BF),
            "numbers": mean_error_BQ.sum() / targets.has_mean_BQ.sum().clamp(min=1),
        }
        sizes = dict(zip(losses, self.widths, strict=True))
        return {
            name: getattr(config, name) * loss for name, loss in losses.items() if sizes[name] and getattr(config, name)
        }


def _sized(vector_BW: Tensor) -> Tensor:
    """Unit vectors with a mean square of 1."""
    return vector_BW * vector_BW.shape[1] ** 0.5


def _log_odds(rows_X: np.ndarray, rows: int) -> Tensor:
    """Log-odds of shares of `rows`, at least half a row away from 0 and 1, (X,)."""
    return torch.logit(torch.tensor(rows_X / rows, dtype=torch.float32).clamp(0.5 / rows, 1 - 0.5 / rows))


def _most_frequent(futures: Futures, n: int) -> tuple[pa.Array, np.ndarray]:
    """The contents that occur in most rows, equally frequent ones in alphabetical order, and in how many (C)."""
    rows, contents = zip(*futures.contents(), strict=True)
    encoded = pa.concat_arrays([c.cast(pa.string()) for c in contents]).dictionary_encode()
    names = encoded.dictionary
    pairs = np.unique(encoded.indices.to_numpy().astype(np.int64) * futures.rows + np.concatenate(rows))
    rows_of = np.bincount(pairs // futures.rows, minlength=len(names))
    table = pa.table({"name": names, "rows": rows_of})
    order = pc.sort_indices(table, sort_keys=[("rows", "descending"), ("name", "ascending")]).slice(0, n)
    return names.take(order), rows_of[order.to_numpy()]
