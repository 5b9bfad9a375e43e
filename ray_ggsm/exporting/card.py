"""A model card in the Hub's format, filled from what a run has recorded. What no file of the run says, the card calls
unknown."""

from collections.abc import Iterable, Sequence

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.source_config import FilesSource, JourneySource
from ray_ggsm.evaluation.summary import title_of
from ray_ggsm.exporting.facts import Interval, RunFacts
from ray_ggsm.model.config import ModelConfig
from ray_ggsm.model.kinds import TextConfig

UNKNOWN = "unknown: the run does not record it"


def model_card(facts: RunFacts, licence: str | None, library: str) -> str:
    """The text of the card: YAML metadata and Markdown.

    Args:
        facts: what the run has recorded.
        licence: the Hub's name of the licence; None: unknown.
        library: what loads the directory that the card lies in, as the Hub names it.
    """
    data = ModelCardData(
        library_name=library,
        license=licence,
        tags=["user-embeddings", "ray-ggsm"],
        model_name=facts.experiment.name,
        eval_results=_eval_results(facts),
    )
    sections = {
        "Encoder": _encoder(facts),
        "Mask": _mask(facts),
        "Data": _data(facts),
        "Labels": _labels(facts),
        "Results": _results(facts),
        "Limits": _limits(facts),
        "Licence": [licence or UNKNOWN, "", f"Licences of the data and of the pretrained models: {UNKNOWN}."],
    }
    body = [f"# {facts.experiment.name}", "", "One vector per user row, from an encoder that ray-ggsm trained."]
    for title, lines in sections.items():
        body += ["", f"## {title}", "", *lines]
    text = f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(body) + "\n"
    return str(ModelCard(text).content)


def _eval_results(facts: RunFacts) -> list[EvalResult]:
    """AUCs of the encoder's vectors, by probe and label."""
    return [
        EvalResult(
            task_type="tabular-classification",
            dataset_type=facts.experiment.data.source.kind,
            dataset_name=facts.experiment.name,
            dataset_split=facts.scored,
            metric_type="roc_auc",
            metric_name=f"AUC of '{label}', {title_of(probe)}",
            metric_value=found.auc,
        )
        for probe, labels in facts.aucs.get("encoder", {}).items()
        for label, found in labels.items()
    ]


def _encoder(facts: RunFacts) -> list[str]:
    described, config = facts.encoder.description, facts.encoder.description.model
    lines = [
        f"- kind: `{config.kind}`; {described.width} numbers per vector, float32, L2-normalised",
        f"- encoder: `{facts.encoder.digest}`; row definition: `{facts.manifest.rows or UNKNOWN}`",
        f"- trained for {described.step:,} steps with seed {facts.experiment.seed}"
        + (f"; the best of them by the held-out loss is step {facts.best_step:,}" if facts.best_step else ""),
    ]
    if isinstance(config, ModelConfig):
        how = "from random weights" if config.backbone.weights == "random" else "pretrained"
        lines.append(f"- backbone: `{config.backbone.name}`, {how}, `{described.backbone_digest}`; {config.dtype}")
    if isinstance(config, TextConfig):
        lines.append(f"- text model: `{config.name}`, `{described.backbone_digest}`; {config.dtype}")
    if config.event_encoder is not None:
        lines.append(f"- event encoder: `{config.event_encoder.name}`, `{described.event_encoder_digest}`")
    if asked := {name: text for name, text in facts.experiment.embedding.instructions.items() if text}:
        told = "; ".join(f"{name}: `{' '.join(text.split())}`" for name, text in asked.items())
        lines.append(f"- the AUCs below are of vectors under instructions: {told}")
    if (dimensions := facts.experiment.publishing.files.dimensions) is not None:
        lines.append(
            f"- tables and the AUCs below have the first {dimensions} numbers of it, normalised anew; exports all"
        )
    lines.append(
        f"- numbers in its files, without pretrained weights that are not trained: {facts.encoder.parameters:,}"
    )
    return lines


def _mask(facts: RunFacts) -> list[str]:
    manifest, described = facts.manifest, facts.encoder.description
    if described.mask is None:
        return [f"An encoder of the kind `{described.model.kind}` has no mask recipe."]
    how = (
        "the recipe's last form"
        if manifest.alpha >= 1
        else f"half-open, as training left it at step {described.step:,}"
    )
    return [
        f"- recipe: `{manifest.recipe}`; digest: `{manifest.mask}`",
        f"- opened to alpha {manifest.alpha:.4g} of 1; vectors are made under {how}",
    ]


def _data(facts: RunFacts) -> list[str]:
    data, summary = facts.experiment.data, facts.summary
    snapshots = data.snapshots
    lines = [
        f"- source: {_source(data)}",
        f"- a row: one user at one midnight ({snapshots.timezone}), the {snapshots.history_days} days before it, and "
        f"as the future the {snapshots.future_days} days after it",
        f"- events: {', '.join(f'{name} (newest {m.keep})' for name, m in summary.modalities.items())}",
        f"- features: {len(summary.features)}",
        f"- left out, by reason: {_counts(summary.dead_letters)}",
        f"- events beyond the newest: {_counts(summary.events_cut)}",
        "",
    ]
    rows = [
        (name, split.role or "", split.users, f"{summary.rows[name]:,}", _dates(data, split.cutoffs))
        for name, split in data.splits.items()
    ]
    return lines + _table(("split", "role", "users", "rows", "midnights"), rows)


def _labels(facts: RunFacts) -> list[str]:
    data, summary = facts.experiment.data, facts.summary
    if not data.labels:
        return ["None."]
    splits = list(data.splits)
    rows = []
    for name, label in data.labels.items():
        threshold = f"{summary.thresholds[name]:.6g}" if name in summary.thresholds else ""
        shares = [_share(summary.label_rates[s][name], summary.labels_defined[s][name]) for s in splits]
        rows.append((name, label.group, f"`{' '.join(label.sql.split())}`".replace("|", "\\|"), threshold, *shares))
    heads = ("label", "group", "SQL", "threshold", *(f"positives of defined rows, {s}" for s in splits))
    return _table(heads, rows)


def _results(facts: RunFacts) -> list[str]:
    if not facts.aucs:
        return [f"Not evaluated: {UNKNOWN}."]
    lines = [
        f"AUCs of frozen vectors on `{facts.scored}` ({facts.scored_rows:,} rows), by probes that were fitted on "
        f"`{facts.fitted}`; in brackets 95 % intervals over users. One training seed: how AUCs move with it is unknown",
    ]
    vectors = list(facts.aucs)
    for probe in facts.aucs[vectors[0]]:
        means = [facts.mean_aucs.get(v, {}).get(probe) for v in vectors]
        rows = [("mean", *map(_interval, means))]
        rows += [
            (label, *(_interval(facts.aucs[v][probe][label]) for v in vectors))
            for label in facts.aucs[vectors[0]][probe]
        ]
        lines += ["", f"{title_of(probe)}:", "", *_table(("label", *map(title_of, vectors)), rows)]
    return lines


def _limits(facts: RunFacts) -> list[str]:
    return [
        *(f"- {note}" for note in facts.experiment.notes),
        "- Measured on the users and dates above only; other populations and later dates: unknown.",
        "- Differences between groups of people: not measured.",
        f"- Whether a vector tells that its user was trained on: {facts.privacy or 'this card does not know.'}",
    ]


def _source(data: DataConfig) -> str:
    if isinstance(data.source, JourneySource):
        return "Complete Journey, from its package"
    if isinstance(data.source, FilesSource):
        return f"files; tables: {', '.join(data.source.tables)}"
    return "an event store"


def _dates(data: DataConfig, positions: Sequence[int]) -> str:
    days = sorted(data.snapshots.dates[k] for k in positions)
    return f"{days[0]}" if len(days) == 1 else f"{len(days)}, {days[0]} to {days[-1]}"


def _share(rate: float | None, defined: int) -> str:
    return f"none of {defined:,}" if rate is None else f"{rate:.1%} of {defined:,}"


def _interval(found: Interval | None) -> str:
    if found is None:
        return "unknown"
    if found.auc_low is None or found.auc_high is None:
        return f"{found.auc:.4f} (interval unknown)"
    return f"{found.auc:.4f} [{found.auc_low:.4f}, {found.auc_high:.4f}]"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items() if number) or "none"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
