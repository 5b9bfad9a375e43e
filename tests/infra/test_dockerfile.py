"""What can be said of the image without Docker; tests/infra/run_dockerfile.py executes its steps."""

import re
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT
from tests.infra.run_dockerfile import DOCKERFILE, Image, steps


def test_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")  # of the extra `dev`
    found = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_step_can_be_executed() -> None:
    for step in steps():
        assert hasattr(Image, f"_{step.name.lower()}"), step
        if step.name == "RUN":
            subprocess.run(["sh", "-n", "-c", step.arguments], check=True)


def test_the_image_runs_as_a_user_with_the_pinned_versions() -> None:
    named = [(step.name, step.arguments) for step in steps()]
    assert named[-1][0] == "CMD"
    assert [user for name, user in named if name == "USER"] == ["1000"]
    assert named.index(("USER", "1000")) > max(n for n, (name, _) in enumerate(named) if name == "RUN")
    installs = [text for name, text in named if name == "RUN" and "pip install" in text]
    assert installs
    assert all("--constraint constraints.txt" in text for text in installs)
    (base,) = (text for name, text in named if name == "ARG" and text.startswith("BASE="))
    assert re.search(r":3\.11\.\d+-", base), "the Python that constraints.txt is for"


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    copied = {
        source
        for step in steps()
        if step.name == "COPY" and not step.arguments.startswith("--from")
        for source in step.arguments.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*", "nothing, but"
    assert {line[1:] for line in lines if line.startswith("!")} == copied
