"""Do exports give the embed job's vectors, in environments that have only their library and this package?

    python benchmarks/export_parity.py --rows 'outputs/quickstart/prepare-*/rows/test' --output outputs/parity

For each target: a new virtual environment, filled by the `pip install` line of its section in docs/export.md (from the
repository's root, with the versions of constraints.txt); an export; and the vectors of the first 500 rows, against
those of the embed job's own code. Exports are made with this environment's models (`PYTHONPATH`); vectors without.
The encoders are the quickstart's, in float32, at their first weights, with the centre of 64 rows: one whose mask is
half-open (onnx: its last form), and for texts all-MiniLM-L6-v2 with 128 tokens.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXPERIMENT = ROOT / "configs" / "journey" / "quickstart.yaml"
SECTIONS = {
    "sentence_transformers": "sentence-transformers",
    "texts": "sentence-transformers alone",
    "mlflow": "MLflow",
    "onnx": "ONNX",
}
"""What is measured -> its section in docs/export.md."""
MEASURE = """
import json, sys, time
import numpy as np
what, place, output = sys.argv[1:]
started = time.monotonic()
if what == "texts":
    from sentence_transformers import SentenceTransformer
    assert "ray_ggsm" not in sys.modules
    model, rows = SentenceTransformer(place, device="cpu"), json.load(open(output + "/texts.json"))
    encode = model.encode
else:
    rows = json.load(open(output + "/rows.json"))
if what == "sentence_transformers":
    from ray_ggsm.exporting.user_rows import open_model
    encode = open_model(place).encode
if what == "mlflow":
    import mlflow.pyfunc, pandas
    model = mlflow.pyfunc.load_model(place)
    encode = lambda rows: model.predict(pandas.DataFrame(rows))
if what == "onnx":
    from ray_ggsm.exporting.onnx_graph import OnnxEncoder
    encode = OnnxEncoder(place).vectors
loaded = time.monotonic()
found, wanted = encode(rows), np.load(output + "/" + what + ".npy")
print(json.dumps({
    "rows": len(rows), "largest difference": float(np.abs(found - wanted).max()), "width": found.shape[1],
    "seconds to load": round(loaded - started, 1), "seconds": round(time.monotonic() - loaded, 1),
}))
"""
"""Runs in the target's environment."""


def pip_lines(section: str) -> list[str]:
    """The `pip install` lines of a section of docs/export.md."""
    text = (ROOT / "docs" / "export.md").read_text()
    body = re.split(r"^## ", text.split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]
    return [line for block in re.findall(r"```sh\n(.*?)```", body, re.DOTALL) for line in block.strip().splitlines()]


def installed(section: str, place: Path) -> Path:
    """The Python of a new environment with what the section installs."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    environment = os.environ | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PIP_NO_COMPILE": "1"}
    environment |= {"PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PIP_QUIET": "1"}
    environment.pop("PYTHONPATH", None)
    for line in pip_lines(section):
        assert line.startswith("pip install "), line
        subprocess.run(line, shell=True, check=True, cwd=ROOT, env=environment)
    return place / "bin" / "python"


def prepare(rows_pattern: str, number: int, output: Path) -> None:
    """Write rows, texts, encoders and the vectors that they are to have."""
    import numpy as np
    import torch

    from ray_ggsm import storage
    from ray_ggsm.config import load
    from ray_ggsm.data import definition
    from ray_ggsm.embedding.embedder import Embedder
    from ray_ggsm.encoders import kinds
    from ray_ggsm.encoders.kinds import Inputs, Run, new_learner
    from ray_ggsm.encoders.rendered import row_texts
    from ray_ggsm.experiment import Experiment
    from ray_ggsm.exporting.rows import json_rows, row_schema
    from ray_ggsm.exporting.standalone import TextVectors
    from ray_ggsm.masks import with_total_steps
    from ray_ggsm.model import saved
    from ray_ggsm.model.batch import Collator
    from ray_ggsm.model.description import SavedEncoder
    from ray_ggsm.model.event_encoder import EventEncoder
    from ray_ggsm.model.kinds import TextConfig
    from ray_ggsm.training.config import TrainingConfig
    from ray_ggsm.training.workers import ALONE

    cpu = torch.device("cpu")
    (found,) = storage.glob(rows_pattern)
    settings = ["model.dtype=float32", "model.event_encoder.dtype=float32"]
    experiment = load(Experiment, str(EXPERIMENT), settings)
    defined = definition.read(str(Path(found).parents[1]))
    assert defined is not None, "prepared rows have a definition"
    rows = _first_rows(storage.list_files(found, ".parquet"), number)
    events = EventEncoder(experiment.model.event_encoder, cpu)
    lookup, features = TextVectors(events), defined.feature_names

    mask = with_total_steps(experiment.mask, 100)
    bundle = saved.new_encoder(
        experiment.model, mask, experiment.modalities, features, events.width, events.digest, experiment.seed
    )
    collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
    with torch.no_grad():
        batch = collator.users(rows.slice(0, 64))
        pooled_BW = bundle.encoder.eval()(batch, bundle.embedding_weight(batch.layout.tokens))
        bundle.encoder.set_centres(pooled_BW, pooled_BW[:, : bundle.encoder.width].mean(dim=0))
    half_open = saved.EncoderBundle(**{**bundle.__dict__, "step": 60})
    saved.save(half_open, str(output / "encoder"))
    definition.write(defined, str(output / "encoder"))
    for name, finished in {"sentence_transformers": False, "mlflow": False, "onnx": True}.items():
        if name != "mlflow":
            encoder = kinds.load(str(output / "encoder"), lookup, cpu, finished)
            vectors = Embedder(encoder, 16_384)(rows).vectors
        np.save(output / f"{name}.npy", vectors)
    schema = row_schema(SavedEncoder.read(str(output / "encoder")).description, defined)
    (output / "rows.json").write_text(json.dumps(json_rows(rows, schema)))

    config = TextConfig(kind="text", name=experiment.model.event_encoder.name, dtype="float32", max_tokens=128)
    inputs = Inputs(experiment.modalities, features, (), 0, "", lookup)
    run = Run(TrainingConfig(steps=1, batch_size=32), ALONE, 0, rows.slice(0, 64), None, cpu)
    learner = new_learner(config, None, inputs, run)
    learner.prepare()
    learner.save_encoder(str(output / "text_encoder"))
    definition.write(defined, str(output / "text_encoder"))
    np.save(output / "texts.npy", Embedder(kinds.load(str(output / "text_encoder"), lookup, cpu), 16_384)(rows).vectors)
    (output / "texts.json").write_text(json.dumps(row_texts(rows, experiment.modalities, features, config.newest)))


def _first_rows(files: list[str], number: int):
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(file) for file in files]
    return pa.concat_tables(tables).slice(0, number).combine_chunks()


def measured(what: str, output: Path) -> Iterator[str]:
    """Make an environment and an export, and compare."""
    started = time.monotonic()
    python = installed(SECTIONS[what], output / f"env-{what}")
    yield f"installed in {time.monotonic() - started:.0f} s: {'; '.join(pip_lines(SECTIONS[what]))}"
    target = "sentence_transformers" if what == "texts" else what
    config = output / f"{what}.yaml"
    encoder = output / ("text_encoder" if what == "texts" else "encoder")
    mask = "inference" if what == "onnx" else "trained"
    config.write_text(f"target: {target}\nencoder: {encoder}\noutput: {output / 'exports' / what}\nmask: {mask}\n")
    here = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))])
    exporter = sys.executable if what == "texts" else str(python)  # that environment has not this package
    command = [exporter, str(ROOT / "jobs" / "export.py"), "--config", str(config)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": here})
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    measure = [str(python), "-W", "ignore", "-c", MEASURE, what, str(output / "exports" / what), str(output)]
    done = subprocess.run(measure, check=True, env=alone, cwd=output, stdout=subprocess.PIPE, text=True)
    yield done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", required=True, help="directory of prepared Journey rows, or its pattern")
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--output", type=Path, required=True, help="a directory that is made anew")
    parser.add_argument("--only", choices=SECTIONS, action="append")
    options = parser.parse_args()
    options.output = options.output.absolute()
    if not (options.output / "texts.json").exists():
        options.output.mkdir(parents=True)
        prepare(options.rows, options.number, options.output)
    for what in options.only or SECTIONS:
        for line in measured(what, options.output):
            print(f"{what}: {line}", flush=True)


if __name__ == "__main__":
    main()
