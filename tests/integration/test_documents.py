"""Commands in README and runbook exist, and every alarm has its entry in the runbook."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
import yaml
from typer.main import get_command

from deployments.automations import CONDITIONS, FAILED_RUNS, REPORTED
from flows.cli.main import app
from flows.monitor.health import Monitor
from flows.settings import Settings

ROOT = Path(__file__).parents[2]
ANALYSIS = ROOT / "deployments" / "ANALYSIS.md"
RUNBOOK = ROOT / "deployments" / "RUNBOOK.md"
DOCUMENTS = [ROOT / "README.md", RUNBOOK, ROOT / "deployments" / "UPGRADE.md", ANALYSIS]

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)


def code(document: Path) -> list[str]:
    """Return the lines of shell blocks without comments, and all text in backticks."""
    text = document.read_text()
    blocks = re.findall(r"^```sh$(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0] for block in blocks for line in block.replace("\\\n", "").splitlines()]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return lines + re.findall(r"`([^`]+)`", prose)


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_commands_and_their_options_exist(document: Path) -> None:
    commands = get_command(app).commands
    typed = [
        match for piece in code(document) for match in re.findall(r"(?:^|[;(]) *tdp ([a-z]+)\b(.*)", piece)
    ]
    assert typed
    for name, rest in typed:
        assert name in commands, f"tdp {name}"
        own = rest.partition(";")[0] if name != "psql" else ""
        command = commands[name]
        if (words := rest.split()) and words[0] in getattr(command, "commands", {}):
            command = command.commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", own)) <= known | {"--help"}, f"tdp {name}{own}"


@each_document
def test_statements_run(document: Path, database_url: str) -> None:
    statements = [match for piece in code(document) for match in re.findall(r'-c "(SELECT[^"]+)"', piece)]
    assert statements
    with psycopg.connect(database_url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@each_document
def test_links_have_targets(document: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_condition_has_its_entry() -> None:
    entries = set(re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE))
    reported = CONDITIONS.keys() | REPORTED.keys() | FAILED_RUNS.keys()
    assert entries == reported | {"postgres_down", "prefect_server_down"}


def test_every_component_has_its_row(tmp_path: Path) -> None:
    # No service runs here; the components are reported all the same.
    components = Monitor(Settings(home=tmp_path, server_port=1)).health().components
    rows = set(re.findall(r"^\| `(\w+)` \|.*\| \[", RUNBOOK.read_text(), re.MULTILINE))
    assert rows == components.keys()


def test_every_alert_has_its_row() -> None:
    content = yaml.safe_load((ROOT / "deployments" / "prometheus" / "alerts.yml").read_text())
    alerts = {rule["alert"] for group in content["groups"] for rule in group["rules"]}
    assert alerts == set(re.findall(r"^\| `(Tdp\w+)` \|", RUNBOOK.read_text(), re.MULTILINE))
