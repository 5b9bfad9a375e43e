"""infra/runbook.md: every exit code and alarm has its section, short and reachable, and every command is a real one."""

import argparse
import importlib
import re
import shlex

import pytest
import yaml

from ray_ggsm.cli import exit_codes
from ray_ggsm.cli.jobs import COMMANDS, JOBS
from ray_ggsm.cli.main import _parser
from ray_ggsm.config import NotNow, load
from tests.helpers import ROOT

RUNBOOK = (ROOT / "infra" / "runbook.md").read_text()
RULES = ROOT / "infra" / "monitoring" / "rules.yaml"
HEADS = re.findall(r"^### (.+)$", RUNBOOK, re.MULTILINE)
SECTIONS = dict(zip(HEADS, re.split(r"^### .+$", RUNBOOK, flags=re.MULTILINE)[1:], strict=True))
CODES = {0, 1, 2, 3, NotNow.EXIT_CODE, exit_codes.INCOMPLETE, 143}
WORDS_A_MINUTE = 250
"""Silent reading of prose; real output is looked at, not read."""


def anchor(head: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-")


def commands() -> list[str]:
    """All calls of the command in blocks and in running text."""
    prompted = re.sub(r"^\$ ", "", RUNBOOK, flags=re.MULTILINE)
    blocks = re.findall(r"^```\n(.*?)^```", prompted, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return sorted({c for c in (*lines, *re.findall(r"`([^`\n]+)`", prompted)) if re.match(r"ray-ggsm [a-z]", c)})


def test_exit_codes_have_sections() -> None:
    """Those that the module names are those that are asked for here."""
    named = {
        int(code) for code in re.findall(r"(?:^|, |otherwise )(\d+) [a-z]", exit_codes.__doc__ or "", re.MULTILINE)
    }
    assert named == CODES
    assert {f"Exit code {code}" for code in CODES} <= SECTIONS.keys()


@pytest.mark.skipif(not RULES.exists(), reason="there are no rules yet")
def test_alarms_have_sections() -> None:
    groups = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    alarms = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert alarms
    assert alarms <= SECTIONS.keys()


def test_what_one_sees_leads_to_a_section() -> None:
    rows = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", RUNBOOK, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 20
    assert set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK)) <= {anchor(head) for head in HEADS}


@pytest.mark.parametrize("head", HEADS)
def test_a_section_is_read_in_a_minute(head: str) -> None:
    prose = re.sub(r"^```\n.*?^```", "", SECTIONS[head], flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= WORDS_A_MINUTE


def parser_of(job: str) -> argparse.ArgumentParser:
    """The parser of a job with commands."""
    code = importlib.import_module(f"ray_ggsm.cli.{job}")
    return code._commands(None).parser if hasattr(code, "_commands") else code._parser(None)


@pytest.mark.parametrize("command", commands())
def test_commands_are_real(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments are those of the parsers, and settings those of the config that is named."""
    monkeypatch.chdir(ROOT)
    _, job, *arguments = shlex.split(command)
    if job in COMMANDS:
        parser_of(job).parse_args(arguments)
        return
    options = _parser(JOBS[job], None, None).parse_args(arguments)
    load(JOBS[job].load().config, options.config, options.set)


def test_the_check_of_commands_finds_mistakes() -> None:
    assert len(commands()) > 20
    with pytest.raises(SystemExit):
        parser_of("tables").parse_args(["rollback", "users", "--to", "3"])
