"""The evaluate job's probes against the sequential script that a data scientist would write, on made-up rows.

    python benchmarks/probes.py [--rows 100000] [--width 576] [--labels 9] [--rounds 1] [--kinds linear lightgbm]
    python benchmarks/probes.py --memory 1 3 9

    ours      `probe_all`: one Ray task per probe and label, on a cluster that is started, and stopped, within the time
    plain     scikit-learn's StandardScaler and LogisticRegression in a GridSearchCV, and LightGBM's LGBMClassifier with
              early stopping on each fold and a last fit of the mean number of rounds; threads as they are by default

Both have the same rows, folds and settings, and score the same test rows (a quarter as many again). A round takes one
process of each side. Printed are wall time after loading, CPU time, and peak memory: proportional set sizes of the
side's processes summed, so that shared memory counts once, looked at four times a second. Beside other work on the
machine OMP_NUM_THREADS=1 keeps the plain side's threads from waiting for each other; then compare CPU times.
`--memory` gives the peak of our side alone for these numbers of labels.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ray_ggsm.evaluation.alignment import Aligned, ProbeData
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.probe_task import grouped_folds
from ray_ggsm.numerics import signed_log

FACTORS, ROWS_PER_USER, NOISE, CHUNK = 64, 4, 0.5, 10_000
UNDEFINED = 0.2
"""Share of the first label's rows that have no value."""

Labels = dict[str, np.ndarray]


def write_world(directory: Path, rows: int, width: int, labels: int) -> None:
    """Unit vectors that mix factors of user and row, with noise; labels of 5 to 50 % that absolute values bend."""
    shared = np.random.default_rng(0)
    falling_F = 1 / np.sqrt(1 + np.arange(FACTORS))
    mixing_FD = (shared.normal(size=(FACTORS, width)) * falling_F[:, None]).astype(np.float32)
    meaning_FL = shared.normal(size=(FACTORS, labels)) / np.sqrt(FACTORS)
    for seed, (role, n) in enumerate({"fit": rows, "score": rows // 4}.items(), start=1):
        rng = np.random.default_rng(seed)
        user_N = np.sort(rng.integers(0, -(-n // ROWS_PER_USER), n))
        of_user_UF = rng.normal(size=(user_N[-1] + 1, FACTORS))
        factors_NF = 0.8 * of_user_UF[user_N] + 0.6 * rng.normal(size=(n, FACTORS))
        vectors_ND = np.lib.format.open_memmap(directory / f"{role}.npy", "w+", np.float32, (n, width))
        for start in range(0, n, CHUNK):
            mixed_ND = factors_NF[start : start + CHUNK].astype(np.float32) @ mixing_FD
            mixed_ND += NOISE * rng.standard_normal(mixed_ND.shape, dtype=np.float32)
            vectors_ND[start : start + CHUNK] = mixed_ND / np.linalg.norm(mixed_ND, axis=1, keepdims=True)
        factors_NF[:, ::4] = np.abs(factors_NF[:, ::4])
        latent_NL = factors_NF @ meaning_FL + rng.logistic(size=(n, labels))
        bound_L = np.quantile(latent_NL, np.linspace(0.95, 0.5, labels), axis=0).diagonal()
        values_NL = (latent_NL > bound_L).astype(np.float32)
        values_NL[rng.random(n) < UNDEFINED, 0] = np.nan
        np.save(directory / f"{role}-labels.npy", values_NL)
        np.save(directory / f"{role}-users.npy", np.char.add(f"{role}-", user_N.astype(str)))


def read_world(directory: Path, labels: int) -> ProbeData:
    """Rows to fit on and rows to score, with the first so many labels."""
    rows = {}
    for role in ("fit", "score"):
        values_NL = np.load(directory / f"{role}-labels.npy")
        users_N = np.load(directory / f"{role}-users.npy").astype(object)
        named = {f"label{i}": np.ascontiguousarray(values_NL[:, i]) for i in range(labels)}
        rows[role] = Aligned(np.load(directory / f"{role}.npy"), named, users_N, 0)
    return ProbeData(**rows)


def ours(rows: ProbeData, config: ProbeConfig) -> dict[str, float]:
    """Test AUC by probe and label."""
    from ray_ggsm.experiment import RayConfig
    from ray_ggsm.on_ray.cluster.connection import started
    from ray_ggsm.on_ray.probing.probes import probe_all

    size = rows.fit.vectors.nbytes + rows.score.vectors.nbytes
    with started(RayConfig(local_object_store_gb=max(1.0, 1.2 * size / 1e9))), contextlib.redirect_stdout(sys.stderr):
        probed = probe_all(config, 0, {"vectors": rows})
    return {f"{kind} {label}": r.auc for (_, kind), results in probed.items() for label, r in results.items()}


def plain(rows: ProbeData, config: ProbeConfig) -> dict[str, float]:
    """Test AUC by probe and label."""
    from sklearn.metrics import roc_auc_score

    fit, test, aucs = rows.fit, rows.score, {}
    logged, logged_test = signed_log(fit.vectors), signed_log(test.vectors)
    for name, values in fit.labels.items():
        defined, scored = ~np.isnan(values), ~np.isnan(test.labels[name])
        y, y_test = values[defined] == 1, test.labels[name][scored]
        folds = grouped_folds(y, fit.users[defined], config.folds, 0, name)
        if "linear" in config.kinds:
            model = plain_linear(logged[defined], y, folds, config)
            aucs[f"linear {name}"] = roc_auc_score(y_test, model.decision_function(logged_test[scored]))
        if "lightgbm" in config.kinds:
            model = plain_lightgbm(fit.vectors[defined], y, folds, config)
            aucs[f"lightgbm {name}"] = roc_auc_score(y_test, model.predict_proba(test.vectors[scored])[:, 1])
    return aucs


def plain_linear(X: np.ndarray, y: np.ndarray, folds: list, config: ProbeConfig) -> Any:
    """A fitted search."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    c = config.linear
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=c.max_iterations, tol=c.tolerance))
    strengths = {"logisticregression__C": sorted(c.strengths)}
    return GridSearchCV(model, strengths, cv=folds, scoring="roc_auc").fit(X, y)


def plain_lightgbm(X: np.ndarray, y: np.ndarray, folds: list, config: ProbeConfig) -> Any:
    """A fitted classifier."""
    import lightgbm as lgb

    c = config.lightgbm
    settings = {
        "learning_rate": c.learning_rate,
        "num_leaves": c.leaves,
        "min_child_samples": c.min_rows_per_leaf,
        "colsample_bytree": c.feature_fraction,
        "max_bin": c.bins,
        "random_state": 0,
        "verbosity": -1,
    }
    rounds = []
    for train, held_out in folds:
        model = lgb.LGBMClassifier(n_estimators=c.max_rounds, **settings)
        stop = lgb.early_stopping(c.patience, verbose=False)
        model.fit(X[train], y[train], eval_set=[(X[held_out], y[held_out])], callbacks=[stop])
        rounds.append(model.best_iteration_)
    return lgb.LGBMClassifier(n_estimators=max(1, round(np.mean(rounds))), **settings).fit(X, y)


SIDES = {"ours": ours, "plain": plain}


def watched(side: str, directory: Path, labels: int, kinds: list[str]) -> dict[str, Any]:
    """`seconds` and `auc` as a side printed them, `cpu` seconds and `peak` memory (bytes) of its processes."""
    command = [sys.executable, __file__, "--side", side, "--directory", str(directory), "--labels", str(labels)]
    job = subprocess.Popen([*command, "--kinds", *kinds], stdout=subprocess.PIPE, text=True)
    peak, cpu = 0, {}
    while job.poll() is None:
        memory, used = usage(job.pid)
        peak, cpu = max(peak, memory), cpu | used
        time.sleep(0.25)
    assert job.returncode == 0
    assert job.stdout is not None
    return {**json.loads(job.stdout.read()), "peak": peak, "cpu": sum(cpu.values())}


def usage(pid: int) -> tuple[int, dict[psutil.Process, float]]:
    """Proportional set sizes of a process and all below it, bytes, and the CPU seconds of each until now."""
    memory, cpu = 0, {}
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory += process.memory_full_info().pss
                times = process.cpu_times()
                cpu[process] = times.user + times.system
    return memory, cpu


def run_side(side: str, directory: Path, labels: int, config: ProbeConfig) -> None:
    """Print seconds and AUCs of one side, in its own process."""
    rows = read_world(directory, labels)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fits that stop at the last iteration, on both sides
        aucs = SIDES[side](rows, config)
    print(json.dumps({"seconds": time.perf_counter() - began, "auc": aucs}))


def compare(directory: Path, options: argparse.Namespace) -> None:
    """Print the ratios."""
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side, found in results.items():
            found.append(watched(side, directory, options.labels, options.kinds))
            print(described(side, found[-1]), flush=True)
    pairs = list(zip(results["ours"], results["plain"], strict=True))
    faster, less = (statistics.median(b[key] / a[key] for a, b in pairs) for key in ("seconds", "cpu"))
    memory = statistics.median(a["peak"] / b["peak"] for a, b in pairs)
    print(f"ours is {faster:.2f} x as fast, with {1 / less:.2f} of the CPU time and {memory:.2f} of the memory")
    first, second = (found[-1]["auc"] for found in results.values())
    for kind in options.kinds:
        apart = max(abs(first[key] - second[key]) for key in first if key.startswith(kind))
        print(f"{kind}: greatest difference of a test AUC {apart:.5f}")


def described(name: str, result: dict[str, Any]) -> str:
    """One line about one process tree."""
    return f"{name}: {result['seconds']:.0f} s, {result['cpu']:.0f} CPU s, peak {result['peak'] / 2**20:,.0f} MiB"


def main() -> None:
    """Print one comparison, or the memory for several numbers of labels."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--labels", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=("linear", "lightgbm"), default=["linear", "lightgbm"])
    parser.add_argument("--memory", type=int, nargs="+", metavar="LABELS")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.directory, options.labels, ProbeConfig(kinds=tuple(options.kinds)))
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_world(directory, options.rows, options.width, max(options.memory or [options.labels]))
        for labels in options.memory or ():
            print(described(f"{labels} labels", watched("ours", directory, labels, options.kinds)), flush=True)
        if not options.memory:
            compare(directory, options)


if __name__ == "__main__":
    main()
