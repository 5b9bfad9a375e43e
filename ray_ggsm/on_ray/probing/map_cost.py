"""What reading new vectors in an old space costs: the map, and probes with and without it.

Legend: N users, M test rows, A width of the old vectors, B of the new ones.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.config import Record
from ray_ggsm.evaluation.alignment import ProbeData
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.frozen import MAPPED, OLD, RAW, RETRAINED, MapCost, frozen, map_costs, most_lost
from ray_ggsm.evaluation.metrics import MEAN
from ray_ggsm.evaluation.results import Probed
from ray_ggsm.evaluation.summary import title_of
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.tables.compare import Side, shared
from ray_ggsm.tables.compatible import Route, follow
from ray_ggsm.tables.config import MapConfig
from ray_ggsm.tables.fit_map import fit_map
from ray_ggsm.tables.gates import GateError


class MapReport(Record):
    """A map from the new side's space into the old one's, and what it costs."""

    made: str
    """Where the map comes from, for people."""
    auc: dict[str, dict[str, MapCost]]
    """Probe -> label, and "mean" -> AUCs of frozen and retrained probes."""

    def enforce(self, max_loss: float) -> None:
        """Raise GateError if frozen probes on mapped vectors may lose more mean AUC than this."""
        if (lost := most_lost(self.auc)) > max_loss:
            raise GateError(
                f"frozen probes on mapped vectors may lose {lost:.4f} mean AUC against retrained ones (end of the 95 % "
                f"interval), at most {max_loss:g} allowed; keep readers on the old version, fit another kind of map, "
                "or have them fit their models anew"
            )

    def lines(self) -> list[str]:
        """The numbers as lines for the terminal, the mean first."""
        lines = [f"map    {self.made}"]
        for kind, labels in self.auc.items():
            head = f"{'old':>8}{'mapped':>8}{'raw':>8}{'retrained':>11}{'mapped - retrained':>20}  95 % interval"
            lines += ["", f"{'frozen ' + title_of(kind):26}{head}"]
            for label in [MEAN, *(name for name in labels if name != MEAN)]:
                auc = labels[label]
                gap, raw = auc.difference, "-" if auc.raw is None else f"{auc.raw:.3f}"
                lines.append(
                    f"{label:26}{auc.old:>8.3f}{auc.mapped:>8.3f}{raw:>8}{auc.retrained:>11.3f}{gap.value:>+20.4f}  "
                    f"[{gap.low:+.4f}, {gap.high:+.4f}]"
                )
        return lines


def map_report(
    old: Side,
    new: Side,
    mapped: Literal["stored"] | MapConfig,
    data: Mapping[str, ProbeData],
    probed: Probed,
    config: ProbeConfig,
    seed: int,
) -> MapReport:
    """What a map costs.

    Args:
        old: side that probes were fitted on.
        new: side whose vectors are mapped.
        mapped: which map; as in `DriftConfig`.
        data: side's name -> its rows, which are the same.
        probed: probes that were fitted and scored on each side.
        config: settings of the probes.
        seed: of probes and resampling.

    Raises:
        InputError: no map leads into the old space, or the users are too few to fit one.
    """
    if mapped == "stored":
        routes = new.table.routes(new.config.version, old.table.metadata(old.config.version))
        path, route = routes.path(new.config.instruction), routes.route(new.config.instruction)
        made = "stored: " + (", then ".join(f"{each.kind} {each.source} -> {each.target}" for each in path) or "none")
    else:
        route, made = _fitted(old, new, data["new"].score.users, mapped)
    test = data["new"].score
    scored = {MAPPED: replace(test, vectors=follow(route, test.vectors))}
    if test.vectors.shape[1] == data["old"].fit.vectors.shape[1]:
        scored[RAW] = test
    found = {
        **frozen(data["old"].fit, scored, config, seed, probe_all),
        **{(RETRAINED, kind): labels for (name, kind), labels in probed.items() if name == "new"},
        **{(OLD, kind): labels for (name, kind), labels in probed.items() if name == "old"},
    }
    return MapReport(made=made, auc=map_costs(found, test, seed))


def _fitted(old: Side, new: Side, scored_M: object, config: MapConfig) -> tuple[Route, str]:
    """A map that is fitted on users of both sides who are not scored, and how it was made."""
    scored = pa.array(scored_M, pa.string()).unique()
    users = shared(old, new, config.anchors + len(scored)).users
    users = users.filter(pc.invert(pc.is_in(users, value_set=scored)))[: config.anchors]
    found = fit_map(old.vectors(users)[0], new.vectors(users)[0], config)
    raw = "" if found.raw is None else f", {found.raw:.4f} without it"
    made = (
        f"{found.kind}, fitted here on {found.anchors:,} users who are not scored: mean cosine "
        f"{found.agreement[found.kind]:.4f} on {found.held_out:,} others{raw}"
    )
    return [found.map], made
