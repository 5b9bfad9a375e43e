"""The synthesize job: query-answer pairs for the rows that an experiment trains on (D_qa). Paper, 3.2.

    rows -> pool, calibration set, its difficulty, rules of the hard pairs (guide.json)      steps 1 to 3
         -> pairs of all rows, checked against the history                                   step 4
         -> rows/ with `query` and `answer` (training.questions), pairs/, failed/, quality.html

`<output>/replies/` keeps every reply of a language model, one file per request, whatever settings it was for; all else
lies below `<output>/<digest>/`. A part of the rows whose `counts/` are there is done, but for requests that were
refused: those are asked again by the next run. `<output>/questions.json` names the newest finished run.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from ray_ggsm import storage
from ray_ggsm.building.lock import held
from ray_ggsm.config import InputError, NotNow, digest, to_yaml
from ray_ggsm.data.chunks import Chunk, plan_chunks, read_chunk
from ray_ggsm.experiment import Experiment, loaded
from ray_ggsm.log import say
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.devices import actor_options, actor_pool, actor_resources
from ray_ggsm.on_ray.cluster.places import check_place
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.synthesis.config import SynthesizeConfig
from ray_ggsm.on_ray.synthesis.tasks import (
    BUDGET_SPENT,
    Run,
    WritePairs,
    calibrate,
    columns,
    measure,
    name_of,
    no_pairs,
)
from ray_ggsm.progress import bar
from ray_ggsm.stages import Pipeline
from ray_ggsm.synthesis.author import Guide
from ray_ggsm.synthesis.budget import Budget
from ray_ggsm.synthesis.clients import model_of
from ray_ggsm.synthesis.config import RulesConfig
from ray_ggsm.synthesis.counted import COUNTED
from ray_ggsm.synthesis.prompts import Prompts
from ray_ggsm.synthesis.quality import PartCounts, sampled, total
from ray_ggsm.synthesis.quality_page import render
from ray_ggsm.synthesis.questions import GuideResult, Questions, asked_of
from ray_ggsm.synthesis.requests import Requests
from ray_ggsm.synthesis.server import check_allowed
from ray_ggsm.training.questions import POINTER

SAMPLE = 20_000
"""Pairs that the quality page measures."""
LINE_SECONDS = 10.0
"""Time between two lines about progress."""
BYTES_PER_TOKEN = 3
"""Of a prompt, about."""


def synthesize(config: SynthesizeConfig) -> Questions:
    """Write what is missing; returns what is there then.

    Raises:
        InputError: a setting is wrong, the model gives no usable scenarios, no pair came, or the budget is spent.
        NotNow: the model cannot be reached, or another run writes there.
    """
    check_allowed(config.client)
    experiment = _experiment(config)
    with started(config.ray):
        check_place("output", config.output)
        with held(storage.join(config.output, "synthesize.lock"), "another run with this output"):
            return _synthesized(config, experiment)


def _synthesized(config: SynthesizeConfig, experiment: Experiment) -> Questions:
    """As `synthesize`, on a cluster, by the only run with this output: two would spend the budget twice."""
    pipeline, begun = Pipeline.of(experiment), time.monotonic()
    prepare(pipeline)
    run, chunks = _run(config, pipeline), _chunks(config, pipeline)
    purse = ray.remote(num_cpus=0)(Budget).remote(config.budget, storage.join(config.output, "spent.json"))
    try:
        guide = _guide(run, chunks, purse)
        parts = _write_all(run, chunks, guide, purse)
    finally:
        tokens = ray.get(purse.close.remote())
    if not any(part.pairs for part in parts):
        raise no_pairs(_sample(run, "failed"))
    after = ray.get(measure.options(**actor_resources(config.ray)).remote(run, _first(chunks, config)))
    counts = total([guide.counts, *parts])
    result = Questions(
        rows=run.path("rows"), digest=run.location.rsplit("/", 1)[-1], pairs=sum(part.pairs for part in parts),
        asked=asked_of(experiment.data), author=_author_name(config), prompts=run.prompts.digests, seed=config.seed,
        counts=counts, rules=guide.rules, difficulty=guide.difficulty, difficulty_after=after, tokens=tokens,
        seconds=time.monotonic() - begun,
    )  # fmt: skip
    storage.write_text(run.path("quality.html"), render(result, sampled(_sample(run, "pairs")), to_yaml(config)))
    storage.write_json(run.path("questions.json"), result.model_dump(mode="json"))
    storage.write_json(storage.join(config.output, POINTER), result.model_dump(mode="json"))
    failed = sum(counts.failed.values())
    say(f"synthesize: {result.pairs:,} pairs of {counts.rows:,} rows, {failed:,} failures; {run.path('quality.html')}")
    return result


def preview(config: SynthesizeConfig) -> str:
    """What would be written and asked, and what it would cost."""
    check_allowed(config.client)
    experiment = _experiment(config)
    prompts, pipeline = Prompts(config.prompts), Pipeline.of(experiment)
    prepared = pipeline.prepare.result()
    if prepared is None:
        return f"synthesize: the rows are not prepared yet, so nothing is estimated; {pipeline.prepare.location}"
    chunks = _chunks(config, pipeline)
    rows = sum(chunk.rows for chunk in chunks)
    sentence = f"synthesize: up to {rows * config.pairs.per_user:,} pairs of {rows:,} rows"
    if isinstance(config.client, RulesConfig):
        return f"{sentence}, counted; no request is made"
    tokens = _estimate(config, prompts, experiment, read_chunk(chunks[0], columns(experiment)))
    b = config.budget
    cost = rows * (tokens[0] * b.prompt_price + tokens[1] * b.reply_price) / 1e6
    per_row = 3 if config.pairs.rewriting else 2
    return (
        f"{sentence}; some {per_row * rows:,} requests with {rows * tokens[0]:,.0f} tokens of prompts and at most"
        f" {rows * tokens[1]:,.0f} of replies: {cost:,.2f} at the prices of `budget`, without repairs, the list of"
        " scenarios, and rules with the pairs that they change"
    )


def _estimate(
    config: SynthesizeConfig, prompts: Prompts, experiment: Experiment, rows: pa.Table
) -> tuple[float, float]:  # fmt: skip
    """Tokens of prompts and replies that one row takes."""
    c = config
    assert not isinstance(c.client, RulesConfig)
    rules = c.pairs.rules if c.difficulty.embedding is not None else 0
    asks = Requests(c.client, c.pairs, prompts, experiment.modalities, c.seed).of_rows(rows, rules)
    sent = sum(ask.size for ask in asks) / BYTES_PER_TOKEN
    return sent / len(rows), len(asks) / len(rows) * c.client.max_reply_tokens


def _experiment(config: SynthesizeConfig) -> Experiment:
    experiment = loaded(config.experiment, config.settings)
    return experiment.model_copy(update={"training": experiment.training.model_copy(update={"questions": None})})


def _run(config: SynthesizeConfig, pipeline: Pipeline) -> Run:
    prompts = Prompts(config.prompts)
    read = [repr(modality) for modality in pipeline.experiment.modalities]
    used = {"counted": COUNTED} if isinstance(config.client, RulesConfig) else prompts.digests
    name = digest(config.model_copy(update={"experiment": "", "settings": {}}), pipeline.prepare.directory, read, used)
    output = storage.absolute(config.output)
    return Run(config, pipeline.experiment, storage.join(output, name), storage.join(output, "replies"), prompts)


def _chunks(config: SynthesizeConfig, pipeline: Pipeline) -> list[Chunk]:
    """The parts of the rows that get questions, in an order that the seed decides."""
    e = pipeline.experiment
    files = storage.list_files(pipeline.prepare.rows(e.data.train_split), ".parquet")
    features = len(pipeline.prepare.require().summary.features)
    chunks = plan_chunks(files, config.rows_per_part, list(e.data.modalities), features)
    found, left = [], config.rows
    for n in np.random.default_rng(config.seed).permutation(len(chunks)).tolist():
        chunk = chunks[n]
        if left is not None:
            chunk = replace(chunk, rows=min(chunk.rows, left))
            left -= chunk.rows
        if chunk.rows:
            found.append(chunk)
    if not found:
        raise InputError(
            f"{pipeline.prepare.rows(e.data.train_split)}: no training row was prepared; see data.json there"
        )
    return found


def _first(chunks: Sequence[Chunk], config: SynthesizeConfig) -> list[Chunk]:
    """The parts that the calibration set is made of."""
    found: list[Chunk] = []
    while (
        len(found) < len(chunks)
        and sum(chunk.rows for chunk in found) * config.pairs.per_user < config.pairs.calibration
    ):
        found.append(chunks[len(found)])
    return found


def _author_name(config: SynthesizeConfig) -> str:
    return "counting rules" if isinstance(config.client, RulesConfig) else model_of(config.client)


def _guide(run: Run, chunks: Sequence[Chunk], purse: Any) -> GuideResult:
    """Steps 1 to 3; what they gave is kept in guide.json."""
    file = run.path("guide.json")
    if not storage.exists(file):
        found = ray.get(
            calibrate.options(**actor_resources(run.config.ray)).remote(run, _first(chunks, run.config), purse)
        )
        if found is None:
            raise _spent(run)
        storage.write_json(file, found.model_dump(mode="json"))
    guide = GuideResult.model_validate_json(storage.read_text(file))
    say(f"synthesize: {len(guide.pool)} scenarios, {len(guide.rules)} rules")
    return guide


def _write_all(run: Run, chunks: Sequence[Chunk], guide: GuideResult, purse: Any) -> list[PartCounts]:
    """Step 4: the pairs of all parts that are not done yet, or had refusals."""
    there = {file.rsplit("/", 1)[-1] for file in storage.list_files(run.path("counts"), ".json")}
    done = {chunk: _counts(run, chunk) for chunk in chunks if f"{name_of(chunk)}.json" in there}
    left = [chunk for chunk in chunks if chunk not in done or done[chunk].refused]
    if left:
        described = ray.data.from_items([asdict(chunk) for chunk in left], override_num_blocks=len(left))
        parts = described.map_batches(
            WritePairs, fn_constructor_args=[run, Guide(guide.pool, guide.rules), purse],
            batch_format="pyarrow", batch_size=1, compute=actor_pool(run.config.ray, len(left)),
            **actor_options(run.config.ray),
        )  # fmt: skip
        _follow(run, parts, sum(chunk.rows for chunk in left))
    done |= {chunk: _counts(run, chunk) for chunk in left}
    return [done[chunk] for chunk in chunks]


def _counts(run: Run, chunk: Chunk) -> PartCounts:
    return PartCounts.model_validate_json(storage.read_text(run.path("counts", f"{name_of(chunk)}.json")))


def _follow(run: Run, parts: ray.data.Dataset, rows: int) -> None:
    """Wait for all parts, and tell how far they are.

    Raises:
        NotNow, InputError: what has stopped one of them.
    """
    done, told, stopped, wrong = 0, time.monotonic(), set[str](), set[str]()
    for part in parts.iter_batches(batch_size=None, batch_format="pyarrow"):
        done += sum(part["rows"].to_pylist())
        stopped |= {*part["stopped"].to_pylist()} - {""}
        wrong |= {*part["wrong"].to_pylist()} - {""}
        if time.monotonic() - told > LINE_SECONDS:
            told = time.monotonic()
            say(f"synthesize: {bar(done / rows)} {done:,} of {rows:,} rows")
    if wrong:
        raise InputError(min(wrong))
    if BUDGET_SPENT in stopped:
        raise _spent(run)
    if stopped:
        raise NotNow(min(stopped))


def _sample(run: Run, what: str) -> pa.Table:
    """The first rows of a directory of the run: pairs, or what failed."""
    tables, n = [], 0
    for file in storage.list_files(run.path(what), ".parquet"):
        tables.append(storage.read_parquet(file))
        n += len(tables[-1])
        if n >= SAMPLE:
            break
    return pa.concat_tables(tables).slice(0, SAMPLE)


def _spent(run: Run) -> InputError:
    return InputError(
        f"budget.tokens: {run.config.budget.tokens:,} tokens are spent or reserved, too few are left for the next"
        " request; what was answered is kept: raise the budget and run the same command to go on"
    )
