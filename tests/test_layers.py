"""Imports point strictly downwards, and only `ray_ggsm.on_ray` (and jobs, through it) loads Ray."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"jobs"},
    {"cli"},
    {"on_ray"},
    {"exporting"},
    {"stages", "changes", "building", "synthesis", "explaining"},
    {"experiment", "stage_results"},
    {"encoders"},
    {"training", "embedding", "evaluation", "tables", "data", "simulation"},
    {"model", "masks"},
    {
        "clock",
        "config",
        "delta",
        "hashing",
        "html",
        "interrupts",
        "lineage",
        "log",
        "numerics",
        "object_stores",
        "progress",
        "storage",
        "storage_errors",
    },
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
SAME_LAYER = {
    ("interrupts", "config"),
    ("model", "masks"),
    ("config", "storage"),
    ("delta", "storage"),
    ("delta", "object_stores"),
}
SAME_LAYER |= {("storage", "storage_errors"), ("storage", "object_stores"), ("stages", "changes")}
"""Imports inside one layer that are meant; all others stay inside their own folder."""

FILES = sorted([*ROOT.glob("ray_ggsm/**/*.py"), *ROOT.glob("jobs/*.py")])


def part_of(file: Path) -> str:
    first = file.relative_to(ROOT).parts
    return "jobs" if first[0] == "jobs" else Path(first[1]).stem


def imports(file: Path) -> set[str]:
    """All imported module names, also those inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_downwards(file: Path) -> None:
    mine = part_of(file)
    for name in imports(file):
        parts = name.split(".")
        if parts[0] == "ray":
            assert mine == "on_ray", f"{file} imports {name}: only on_ray knows Ray"
        if parts[0] == "ray_ggsm" and len(parts) > 1 and parts[1] != mine:
            other = parts[1]
            assert RANK[mine] < RANK[other] or (mine, other) in SAME_LAYER, f"{file}: {mine} must not import {other}"


def test_every_file_has_a_layer() -> None:
    assert {part_of(f) for f in FILES} - {"__init__"} == set(RANK)


def folders_of_the_map() -> dict[str, set[str]]:
    """Folder ("" for the package itself, "on_ray/probing", ...) -> the files that CONTRIBUTING.md's map names in it."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## The map")[1].split("```")[1]
    found: dict[str, set[str]] = {}
    top = folder = ""
    for line in text.splitlines():
        if re.match(r"\S", line):  # a part of the package begins
            top = folder = line.split("/")[0] if re.match(r"\w+/", line) else ""
        elif subfolder := re.match(r"  (\w+)/", line):
            folder = f"{top}/{subfolder[1]}"
        elif re.match(r"  \S", line):
            folder = top
        found.setdefault(folder, set()).update(re.findall(r"(?<![\w/])\w+\.py", line))
    return found


def test_every_file_is_on_the_map() -> None:
    named = folders_of_the_map()
    for file in sorted(ROOT.glob("ray_ggsm/**/*.py")):
        folder = file.parent.relative_to(ROOT / "ray_ggsm").as_posix().removeprefix(".")
        if file.name != "__init__.py":
            assert file.name in named.get(folder, ()), f"CONTRIBUTING.md's map does not name {file.relative_to(ROOT)}"


def test_the_map_names_no_file_that_is_gone() -> None:
    for folder, names in folders_of_the_map().items():
        for name in names:
            assert (ROOT / "ray_ggsm" / folder / name).is_file(), f"CONTRIBUTING.md's map: no {folder}/{name}"


@pytest.mark.parametrize("file", sorted(ROOT.glob("jobs/*.py")), ids=lambda f: f.name)
def test_jobs_only_wire(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 40


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_files_and_functions_are_short(file: Path) -> None:
    """A file has at most 300 lines, a function at most 40 below its docstring."""
    text = file.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert (node.end_lineno or 0) - first.lineno < 40, node.name


def test_few_hand_overs_have_no_type() -> None:
    """What is left says JSON of somebody else's: a config before it is checked, DuckDB's parser, other libraries."""
    untyped = [file for file in FILES for _ in re.findall(r"dict\[str, Any\]", file.read_text())]
    assert len(untyped) < 10, untyped


OF_EXTRAS = ("mlflow_tracker.py", "wandb_tracker.py")
"""Files that are imported only where their extra is asked for."""


def test_the_library_loads_without_ray_and_extras() -> None:
    modules = [
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for f in FILES
        if part_of(f) not in ("jobs", "on_ray") and f.name not in OF_EXTRAS
    ]
    script = f"import sys, {', '.join(modules)}\nassert 'ray' not in sys.modules, 'Ray was loaded'"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=ROOT)


def test_tasks_load_no_torch() -> None:
    """Many worker processes import these; torch would add seconds to the start of each."""
    tasks = ("on_ray.building.tasks", "building.shuffle", "building.night_rows", "data.texts", "data.prepare")
    tasks += ("data.store.tasks", "data.store.maintenance", "tables.nearest", "training.pairs", "evaluation.probe_task")
    modules = ", ".join(f"ray_ggsm.{name}" for name in tasks)
    script = f"import sys, {modules}\nassert 'torch' not in sys.modules, 'torch was loaded'"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=ROOT)


def test_jobs_of_data_load_no_transformers() -> None:
    """It would add seconds to the start of jobs that have no model."""
    script = "import sys, ray_ggsm.on_ray.prepare, ray_ggsm.on_ray.ingest\nassert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=ROOT)
