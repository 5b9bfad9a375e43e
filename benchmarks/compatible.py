"""A chain of encoders, each trained anew: what does reading their vectors in the first one's space cost?

    python benchmarks/compatible.py --config configs/lifters/train.yaml --set data.source.tables.lifts.files=FILE
        [--versions 5] [--seeds 0 1 2] [--kinds rotation linear residual] [--version-set 3 model.backbone.width=96]
        [--remember first|previous]   # versions from 2 on are trained with training.old_space

Version v of chain s is trained with seed 100 s + v, so no two share their initial weights, and is embedded by the
ordinary jobs. Probes are fitted on version 1 and stay as they are. They score the test rows of each later version three
ways: its vectors as they are (raw), after the maps from version to version one after the other (composed), and after
one map to version 1 (direct). Maps are fitted as publishing does, on the rows that probes are fitted on, so no test
user is an anchor. Printed is the mean AUC minus that of probes fitted on the later version itself, with 95 % intervals
over users and chains. Start it again after any interruption: finished stages and scores are kept.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ray_ggsm import storage
from ray_ggsm.config import digest, load
from ray_ggsm.evaluation.alignment import Aligned, align
from ray_ggsm.evaluation.comparison import compare_seeds
from ray_ggsm.evaluation.frozen import frozen
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.metrics import BootstrappedAuc, bootstrap_aucs
from ray_ggsm.evaluation.results import RESAMPLES
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.on_ray.probing.scores import score_rows
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table
from ray_ggsm.tables.compatible import follow
from ray_ggsm.tables.config import MapConfig
from ray_ggsm.tables.fit_map import fit_map

RETRAINED, RAW = "retrained", "raw"
Aucs = dict[str, dict[int, BootstrappedAuc]]
"""Way of reading the vectors -> chain -> AUCs on the test rows."""


@dataclass(frozen=True)
class Rows:
    """Vectors of one version."""

    fit: Aligned
    score: Aligned


def main() -> None:
    """Train, embed, score, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--versions", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", default=["rotation", "linear", "residual"])
    parser.add_argument("--remember", choices=["first", "previous"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--version-set", nargs=2, action="append", default=[], metavar=("VERSION", "KEY.PATH=VALUE"))
    options = parser.parse_args()
    aucs: dict[int, Aucs] = {version: {} for version in range(1, options.versions + 1)}
    with connected(load(Experiment, options.config, options.set)):
        for chain in options.seeds:
            places: list[Pipeline] = []
            for version in aucs:
                places.append(place := pipeline(options, chain, version, places))
                prepare(place)
                train(place)
                embed(place)
            for version, way, found in chain_aucs(places, options.kinds):
                aucs[version].setdefault(way, {})[chain] = found
            print(f"\nchain {chain} done\n{table(aucs)}", flush=True)


def pipeline(options: argparse.Namespace, chain: int, version: int, before: Sequence[Pipeline]) -> Pipeline:
    """The stages of one version of a chain, which comes after others."""
    own = [setting for number, setting in options.version_set if int(number) == version]
    if options.remember and before:
        own.append(f"training.old_space.encoder={before[0 if options.remember == 'first' else -1].train.encoder}")
    return Pipeline.of(load(Experiment, options.config, [*options.set, *own, f"seed={100 * chain + version}"]))


def chain_aucs(places: Sequence[Pipeline], kinds: Sequence[str]) -> Iterator[tuple[int, str, BootstrappedAuc]]:
    """Version, way, and the AUCs on the test rows."""
    rows = [read(place) for place in places]
    for version, place in enumerate(places, 1):
        yield version, RETRAINED, bootstrapped(rows[0].score, score_rows(place, "encoder", "linear").scores)
    key = digest([place.embed.directory for place in places], sorted(kinds))
    file = storage.join(storage.absolute(places[0].experiment.output), f"compatible-{key}.json")
    if not storage.exists(file):
        ways = {f"{version} {way}": found for version, way, found in mapped(rows, kinds)}
        config = places[0].experiment.evaluation.model_copy(update={"kinds": ("linear",)})
        probed = frozen(rows[0].fit, ways, config, places[0].experiment.seed, probe_all)
        scores = {way: {label: r.scores.tolist() for label, r in labels.items()} for (way, _), labels in probed.items()}
        storage.write_json(file, scores)
    for name, labels in json.loads(storage.read_text(file)).items():
        version, way = name.split(" ", 1)
        yield int(version), way, bootstrapped(rows[0].score, {k: np.array(v, np.float32) for k, v in labels.items()})


def mapped(rows: Sequence[Rows], kinds: Sequence[str]) -> Iterator[tuple[int, str, Aligned]]:
    """Version, way, and the test rows as the probes of version 1 get them."""
    for kind in kinds:
        config = MapConfig(kinds=(kind,))
        steps = [fit(old, new, config) for old, new in itertools.pairwise(rows)]
        for version, own in enumerate(rows[1:], 2):
            composed = follow(steps[version - 2 :: -1], own.score.vectors)
            yield version, f"{kind}, composed", replace(own.score, vectors=composed)
            if version > 2:
                direct = follow([fit(rows[0], own, config)], own.score.vectors)
                yield version, f"{kind}, direct", replace(own.score, vectors=direct)
    for version, own in enumerate(rows[1:], 2):
        if own.score.vectors.shape == rows[0].score.vectors.shape:
            yield version, RAW, own.score


def fit(old: Rows, new: Rows, config: MapConfig):
    """The map from one version to another, on rows that probes are fitted on."""
    anchors = slice(config.anchors)
    found = fit_map(old.fit.vectors[anchors], new.fit.vectors[anchors], config)
    raw = "" if found.raw is None else f", {found.raw:.4f} without it"
    print(f"{found.kind}: mean cosine {found.agreement[found.kind]:.4f} on held-out anchors{raw}", flush=True)
    return found.map


def read(place: Pipeline) -> Rows:
    """The vectors of one version and their labels."""
    embedded, splits = open_table(place.embed.table).read(), place.experiment.probe_splits
    return Rows(*(align(read_labels(place.prepare.labels(name)), embedded, "embedding", name) for name in splits))


def bootstrapped(rows: Aligned, scores: Mapping[str, np.ndarray]) -> BootstrappedAuc:
    """AUCs of some scores; all calls draw the same users."""
    return bootstrap_aucs(rows.labels, {label: scores[label] for label in rows.labels}, rows.users, RESAMPLES, 0)


def table(aucs: Mapping[int, Aucs]) -> str:
    """What each way loses against probes that are fitted anew."""
    lines = ["| version | way | mean AUC | retrained | minus retrained | 95 % |", "|---|---|---|---|---|---|"]
    for version, ways in aucs.items():
        for way, chains in ways.items():
            if way == RETRAINED:
                continue
            retrained = {chain: ways[RETRAINED][chain] for chain in chains}
            means = [np.mean([each.values.mean() for each in side.values()]) for side in (chains, retrained)]
            gap = compare_seeds(chains, retrained)
            values = f"{means[0]:.4f} | {means[1]:.4f} | {gap.difference:+.4f} | {gap.low:+.4f} to {gap.high:+.4f}"
            lines.append(f"| {version} | {way} | {values} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
