"""systemd units and compose files: the commands exist, and the variables are read by a program."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import Settings as PrefectSettings
from typer.main import get_command

from flows.cli.main import app
from flows.services import WORK_POOL
from flows.services.prefect import server_settings
from flows.settings import Settings

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "deployments" / "systemd"
COMPOSE = ROOT / "deployments" / "compose"
#: Where the units expect the checkout.
CHECKOUT = "/opt/telegram-data-processor"
UNITS = [SYSTEMD / "tdp.service", *sorted((SYSTEMD / "split").glob("*.service"))]
COMMON = SYSTEMD / "split" / "tdp-.service.d" / "common.conf"
SERVER_ENV = ROOT / "deployments" / "prefect-server.env"
ENV_FILES = [SYSTEMD / "tdp.env", SYSTEMD / "split" / "tdp.env", SERVER_ENV]

each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)


def read_unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None)
    parser.optionxform = str  # names of settings are as they are written
    parser.read_string(path.read_text())
    return parser


def compose(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((COMPOSE / f"{name}.yaml").read_text())
    return content


def prefect_variables() -> set[str]:
    """Return every environment variable that Prefect reads."""
    schema = json.dumps(PrefectSettings.model_json_schema())
    return set(re.findall(r"PREFECT_[A-Z0-9_]+", schema.upper()))


def is_read(variable: str) -> bool:
    if variable.startswith("TDP_"):
        return variable.removeprefix("TDP_").lower() in Settings.model_fields
    return variable in prefect_variables()


def check_command(argv: list[str]) -> None:
    """Fail unless the program is installed in this environment and has the command."""
    program, *arguments = argv
    assert (Path(sys.prefix) / "bin" / program).exists()
    if program == "tdp":
        assert arguments[0] in get_command(app).commands
    elif program == "python" and arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1])
    elif program == "prefect":
        known = {
            ("server", "start"),
            ("server", "start", "--no-services"),
            ("server", "services", "start"),
            ("worker", "start", "--pool", WORK_POOL, "--type", "process"),
        }
        assert tuple(arguments) in known


@each_unit
def test_only_the_bot_gets_its_token(unit: Path) -> None:
    """The separate units read one tdp.env, and Prefect writes the environment of flow runs into files.

    `tdp up`, which is one unit, gives it to the bot only.
    """
    is_unset = read_unit(unit)["Service"].get("UnsetEnvironment") == "TDP_BOT_TOKEN"
    assert is_unset == (unit.stem not in ("tdp", "tdp-bot"))


@each_unit
def test_commands_of_units_are_installed(unit: Path) -> None:
    service = read_unit(unit)["Service"]
    for name in ("ExecStartPre", "ExecStart"):
        if command := service.get(name):
            program, *arguments = command.split()
            assert Path(program).parent == Path(CHECKOUT, ".venv", "bin")
            check_command([Path(program).name, *arguments])


@each_unit
def test_systemd_accepts_the_units(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze: Debian's systemd package has it")
    shutil.copytree(unit.parent, tmp_path / "units")
    for file in (tmp_path / "units").rglob("*.*"):
        if file.is_file():  # programs are in this environment
            file.write_text(file.read_text().replace(f"{CHECKOUT}/.venv", sys.prefix))
    here = {"SYSTEMD_UNIT_PATH": f"{tmp_path / 'units'}:"}
    verify = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "units" / unit.name)]
    done = subprocess.run(verify, env=here, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    secure = ["systemd-analyze", "security", "--offline=true", "--threshold=20", *verify[3:]]
    done = subprocess.run(secure, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout  # an exposure of 2.0 at most, of 10


def test_all_units_have_the_same_confinement() -> None:
    alone, common = read_unit(SYSTEMD / "tdp.service")["Service"], read_unit(COMMON)["Service"]
    names = list(alone)[list(alone).index("User") :]
    assert {name: alone[name].lstrip("-") for name in names} == {name: common[name] for name in names}


@pytest.mark.parametrize("file", ENV_FILES, ids=lambda file: file.parent.name)
def test_variables_of_environment_files_are_read(file: Path) -> None:
    variables = re.findall(r"^#?([A-Z_]+)=\S+$", file.read_text(), re.MULTILINE)
    assert variables
    assert [variable for variable in variables if not is_read(variable)] == []


def test_every_way_to_start_a_server_reads_the_same_settings() -> None:
    unit = read_unit(SYSTEMD / "split" / "tdp-server.service")["Service"]
    assert unit["EnvironmentFile"] == f"{CHECKOUT}/{SERVER_ENV.relative_to(ROOT)}"
    one, more = compose("compose")["services"], compose("several")["services"]
    for name in ("server", "background"):
        assert (COMPOSE / one[name]["env_file"]).resolve() == SERVER_ENV
        assert "env_file" not in more[name]
    settings = SERVER_ENV.read_text()
    assert server_settings({}) == dict(re.findall(r"^(PREFECT_\w+)=(\S+)$", settings, re.MULTILINE))


def test_a_variable_of_the_environment_has_precedence_over_a_server_setting() -> None:
    name = "PREFECT_SERVER_ANALYTICS_ENABLED"
    assert server_settings({name: "true", "PREFECT_HOME": "/elsewhere"}) == server_settings({}) | {
        name: "true"
    }


def test_commands_of_containers_are_installed() -> None:
    services = compose("compose")["services"]
    ours = {name: service for name, service in services.items() if name != "postgres"}
    several = {name for name, service in ours.items() if service.get("profiles") == ["several"]}
    assert several == {"background", "more-workers"}
    assert ours.keys() - several == {"migrate", "server", "apply", "worker", "recovery", "bot", "monitor"}
    for service in ours.values():
        check_command(service["command"])


def test_the_api_and_its_services_are_two_containers_with_the_same_settings() -> None:
    one, more = compose("compose")["services"], compose("several")["services"]
    # Only one of the two runs the services: without them nothing is scheduled, two of them conflict.
    check_command(more["server"]["command"])
    assert more["server"]["command"] == [*one["server"]["command"], "--no-services"]
    assert "command" not in more["background"]
    assert one["background"]["command"] == ["prefect", "server", "services", "start"]
    for shared in ("environment", "image", "build"):
        assert more["server"][shared] == more["background"][shared]
    database = "PREFECT_API_DATABASE_CONNECTION_URL"
    assert one["server"]["environment"][database] == one["background"]["environment"][database]


def test_several_hosts_start_with_fan_out_to_the_work_pool() -> None:
    seeds = compose("several")["services"]["apply"]["environment"]
    fan_out, window = seeds["TDP_FAN_OUT"], re.search(r"\d+", seeds["TDP_WINDOW"])
    assert window
    assert Settings(fan_out=fan_out, window=window[0]).fan_out == "work-pool"


@pytest.mark.parametrize("name", ["compose", "several"])
def test_variables_of_containers_are_read(name: str) -> None:
    for service in compose(name)["services"].values():
        variables = [variable for variable in service.get("environment", {}) if "POSTGRES" not in variable]
        # prefect-redis, which is not installed here, Redis and its client read their own variables.
        others = [name for name in variables if not name.startswith(("PREFECT_REDIS_", "REDIS"))]
        assert [variable for variable in others if not is_read(variable)] == []


def test_dependencies_and_volumes_of_containers_are_defined() -> None:
    content, more = compose("compose"), compose("several")
    services = content["services"] | more["services"]
    volumes = content["volumes"] | more["volumes"]
    for service in (*content["services"].values(), *more["services"].values()):
        assert set(service.get("depends_on", {})) <= services.keys()
        for volume in service.get("volumes", []):
            # "${TDP_DATA:-home}:/path" and "name:/path"
            assert re.match(r"(?:\$\{\w+:-)?(\w+)", volume)[1] in volumes


def test_the_image_copies_all_files_that_it_needs() -> None:
    allowed = {
        line[1:] for line in (COMPOSE / "Dockerfile.dockerignore").read_text().split() if line[0] == "!"
    }
    lines = [line.split() for line in (COMPOSE / "Dockerfile").read_text().splitlines()]
    copied = {name for line in lines if line and line[0] == "COPY" for name in line[1:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert {"blocks", "deployments", "flows", "prefect.yaml", "requirements.lock"} <= copied
