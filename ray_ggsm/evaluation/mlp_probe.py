"""The U-MLP probe (One4all, 2106.00573): a small network on standardised vectors, its length chosen over the folds.

    logit = w . GELU(Linear_128(x)) + b

Vectors are standardised as for the linear probe. Folds tell for how many epochs the network is trained; they never
split a user.

Shapes: N rows to fit on, K of them with a label, M rows to score, D vector width.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ray_ggsm.evaluation import metrics
from ray_ggsm.evaluation.config import MLPConfig
from ray_ggsm.evaluation.linear_probe import standardised
from ray_ggsm.evaluation.probe_task import ProbeFit, ProbeTask


def fit_mlp(task: ProbeTask, config: MLPConfig, seed: int) -> ProbeFit:
    """Choose the epochs over the folds, train so long on all rows with a label, and score in log-odds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        epochs, aucs = zip(*(_fold(task, fold, config, seed) for fold in range(len(task.folds))), strict=True)
        longest = max(1, round(float(np.mean(epochs))))
        fit_KD, scaler = standardised(task.fit_ND, task.rows_K)
        score_MD, _ = standardised(task.score_MD, np.arange(len(task.score_MD)), scaler)
        *_, model = _trained(fit_KD, task.positive_K, config, seed, longest)
        scores_M = _logits(model, torch.from_numpy(score_MD))
        return ProbeFit(scores_M, float(np.mean(aucs)), {"epochs": longest})
    finally:
        torch.set_num_threads(threads)


def _fold(task: ProbeTask, fold: int, config: MLPConfig, seed: int) -> tuple[int, float]:
    """The epochs after which the held-out log-loss is least, and the AUC there."""
    fit, held_out = task.folds[fold]
    fit_KD, scaler = standardised(task.fit_ND, task.rows_K[fit])
    held_out_KD, _ = standardised(task.fit_ND, task.rows_K[held_out], scaler)
    rows, label_K = torch.from_numpy(held_out_KD), task.label_K[held_out]
    best_loss, best_epoch, best_auc = np.inf, 0, 0.5
    for epoch, model in enumerate(_trained(fit_KD, task.positive_K[fit], config, seed, config.max_epochs), start=1):
        logit_K = _logits(model, rows)
        loss = float(np.logaddexp(0, np.where(label_K == 1, -logit_K, logit_K)).mean())
        if loss < best_loss:
            best_loss, best_epoch, best_auc = loss, epoch, metrics.auc(label_K, logit_K)
        elif epoch - best_epoch >= config.patience:
            break
    return best_epoch, best_auc


def _trained(
    vectors_KD: np.ndarray, positive_K: np.ndarray, config: MLPConfig, seed: int, epochs: int
) -> Iterator[nn.Module]:
    """The network after each epoch; equal arguments give equal networks."""
    generator = torch.Generator().manual_seed(seed)
    D = vectors_KD.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [nn.Linear(D, config.hidden), nn.GELU()] if config.hidden else []
        model = nn.Sequential(*hidden, nn.Linear(config.hidden or D, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    x_KD, y_K = torch.from_numpy(vectors_KD), torch.from_numpy(positive_K.astype(np.float32))
    for _ in range(epochs):
        model.train()
        for index in torch.randperm(len(x_KD), generator=generator).split(config.batch_rows):
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.binary_cross_entropy_with_logits(model(x_KD[index])[:, 0], y_K[index])
            loss.backward()
            optimizer.step()
        yield model.eval()


@torch.no_grad()
def _logits(model: nn.Module, rows_MD: Tensor) -> np.ndarray:
    parts: list[Tensor] = [model(part)[:, 0] for part in rows_MD.split(65_536)]
    found: np.ndarray = torch.cat(parts).double().numpy()
    return found
