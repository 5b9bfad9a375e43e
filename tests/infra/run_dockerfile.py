"""Executes the steps of infra/Dockerfile in a root directory, without Docker, and then a command as the image's user.

    python -m tests.infra.run_dockerfile ROOT [--build-arg NAME=VALUE ...] [--then COMMAND]

ROOT is a Debian root with Python 3.11 as /usr/local/bin/python and without a user 1000, of debootstrap or an
overlay of this one (`unshare --mount`, `mount -t overlay overlay -o lowerdir=/,upperdir=...,workdir=... ROOT`).
It is changed. Both stages run in it, so what is copied from one to the other must have the same place in both. Needs
root (chroot).
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers import ROOT

DOCKERFILE = ROOT / "infra" / "Dockerfile"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Step:
    """One instruction."""

    name: str
    arguments: str


def steps() -> list[Step]:
    """The instructions of the Dockerfile."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#"))
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [Step(*line.split(maxsplit=1)) for line in lines]


@dataclass
class Image:
    """A root directory that the steps have changed so far."""

    root: Path
    given: dict[str, str]
    """Build arguments."""
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": PATH, "HOME": "/root"})
    arguments: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    user: str = "0"

    def take(self, step: Step) -> None:
        """Do what an instruction says."""
        print(f"{step.name} {step.arguments[:150]}", flush=True)
        getattr(self, f"_{step.name.lower()}")(step.arguments)

    def _from(self, _: str) -> None:
        self.directory, self.user = "/", "0"

    def _arg(self, text: str) -> None:
        name, _, default = text.partition("=")
        self.arguments[name] = self.given.get(name, default)

    def _env(self, text: str) -> None:
        for name, value in re.findall(r"(\w+)=(\S+)", text):
            self.variables[name] = value.replace("$PATH", self.variables["PATH"])

    def _workdir(self, text: str) -> None:
        self.directory = text
        (self.root / text.strip("/")).mkdir(parents=True, exist_ok=True)

    def _user(self, text: str) -> None:
        self.user, self.variables["HOME"] = text, "/home/ray"

    def _copy(self, text: str) -> None:
        *sources, place = text.split()
        if sources[0].startswith("--from="):
            assert sources[1:] == [place], "both stages run in one root"
            return
        for source in sources:
            to = self.root / place.strip("/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, to)

    def _run(self, command: str) -> None:
        environment = {**self.arguments, **self.variables}
        environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        inside = ["chroot", f"--userspec={self.user}:{self.user}", str(self.root), "/bin/sh", "-ec"]
        subprocess.run([*inside, f"cd {self.directory}; {command}"], env=environment, check=True)

    def _cmd(self, _: str) -> None:
        pass


def main() -> None:
    """Take all steps, then the command of --then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("--then", default="ray-ggsm --help")
    options = parser.parse_args()
    image = Image(options.root, dict(each.split("=", 1) for each in options.build_arg))
    for step in steps():
        image.take(step)
    image.take(Step("RUN", options.then))


if __name__ == "__main__":
    sys.exit(main())
