"""The files that people deploy, held to the code: settings, commands, deadlines, paths, metrics."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from esp_ingestd.cli import EX_CONFIG, app
from esp_ingestd.config import Settings
from esp_ingestd.telemetry import Metrics

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
UNITS = sorted((ROOT / "systemd").iterdir())
ALERTS = ROOT / "config/prometheus/alerts.yml"
MANUAL = ROOT / "docs/operations.md"


def settings_of_unit(name: str = "esp-ingestd.service") -> dict[str, list[str]]:
    """What a unit says: each option with its values, in order."""
    options: dict[str, list[str]] = {}
    for line in (ROOT / "systemd" / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            options.setdefault(key, []).append(value)
    return options


def seconds(pattern: str, file: Path) -> list[float]:
    return [float(each) for each in re.findall(pattern, file.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("file", [DOCKERFILE, COMPOSE, MANUAL, *UNITS], ids=lambda file: file.name)
def test_every_setting_that_is_named_exists(file: Path) -> None:
    for section, key in re.findall(r"ESP_INGESTD_([A-Z]+)__([A-Z_]+)\b", file.read_text()):
        model = Settings.model_fields[section.lower()].annotation
        assert key.lower() in getattr(model, "model_fields", {}), f"{section}__{key}"


@pytest.mark.parametrize("file", [DOCKERFILE, COMPOSE, MANUAL, ALERTS, *UNITS], ids=lambda file: file.name)
def test_every_command_that_is_named_exists(file: Path) -> None:
    text = file.read_text()
    named = set(re.findall(r"(?:bin/|[`\s])esp-ingestd ([a-z][a-z-]+)(?= --config| list| status)", text))
    named |= set(re.findall(r"""(?:CMD|command:) \["([a-z-]+)", "--config""", text))
    assert named <= set(typer.main.get_group(app).commands)
    assert named or file.suffix in {".conf", ".timer"}


def test_whoever_stops_the_daemon_waits_longer_than_it_drains() -> None:
    drains_s = Settings().service.shutdown_timeout_s
    (unit_waits_s,) = map(float, settings_of_unit()["TimeoutStopSec"])
    compose = COMPOSE.read_text()
    daemon = compose[compose.index("\n  esp-ingestd:\n") : compose.index("\n  prometheus:\n")]
    (compose_waits_s,) = map(float, re.findall(r"stop_grace_period: (\d+)s", daemon))
    assert unit_waits_s > drains_s
    assert compose_waits_s > drains_s


def test_the_unit_starts_what_is_installed_and_leaves_a_wrong_configuration_alone() -> None:
    unit = settings_of_unit()
    assert unit["ExecStart"] == ["/opt/esp-ingestd/bin/esp-ingestd run --config /etc/esp-ingestd/esp-ingestd.toml"]
    assert unit["Type"] == ["notify"]
    assert unit["Restart"] == ["always"]
    assert unit["RestartPreventExitStatus"] == [str(EX_CONFIG)]
    assert "/opt/esp-ingestd/bin/pip install" in MANUAL.read_text()


def test_the_unit_owns_the_folder_that_the_spool_is_in() -> None:
    (state,) = settings_of_unit()["StateDirectory"]
    assert Path("/var/lib") / state == Settings().spool.directory
    assert f"VOLUME {Settings().spool.directory}" in DOCKERFILE.read_text()


def test_the_unit_hands_over_every_secret_under_the_name_that_the_daemon_looks_for() -> None:
    for file in UNITS:
        if file.suffix == ".timer":
            continue
        text = file.read_text()
        given = set(re.findall(r"^#? ?LoadCredential=([a-z-]+):/etc/esp-ingestd/credentials/", text, re.MULTILINE))
        wanted = set(re.findall(r"^#? ?Environment=ESP_INGESTD_[A-Z_]+_FILE=%d/([a-z-]+)$", text, re.MULTILINE))
        assert given == wanted
        assert given


@pytest.mark.parametrize("name", ["esp-ingestd.service", "esp-ingestd-maintenance.service"])
def test_systemd_finds_the_unit_hardened(name: str) -> None:
    if not (program := shutil.which("systemd-analyze")):
        pytest.skip("systemd is not on this machine")
    command = [program, "security", "--offline=true", "--threshold=15", str(ROOT / "systemd" / name)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout.splitlines()[-1]


def test_systemd_takes_the_units_and_the_timer(tmp_path: Path) -> None:
    if not (program := shutil.which("systemd-analyze")):
        pytest.skip("systemd is not on this machine")
    units = []
    for file in UNITS:
        if file.suffix in {".service", ".timer"}:
            units.append(tmp_path / file.name)
            # Our program is not installed here.
            units[-1].write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", file.read_text(), flags=re.MULTILINE))
    assert len(units) == 3
    result = subprocess.run([program, "verify", *units], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not [line for line in result.stderr.splitlines() if "esp-ingestd" in line], result.stderr


def test_maintenance_runs_as_the_daemon_does() -> None:
    """The same user, folder and sandbox, so that what one writes the other reads."""
    shared = ("DynamicUser", "User", "StateDirectory", "StateDirectoryMode", "LoadCredential", "Environment", "UMask")
    daemon, timed = settings_of_unit(), settings_of_unit("esp-ingestd-maintenance.service")
    assert {key: daemon[key] for key in shared} == {key: timed[key] for key in shared}
    assert set(timed) - set(daemon) == {"Nice", "IOSchedulingClass"}


def test_every_file_that_compose_mounts_exists() -> None:
    mounted = set(re.findall(r"\"?-? ?\"?(\./[^:\s\"]+):/", COMPOSE.read_text()))
    assert mounted >= {"./config", "./mosquitto.conf"}
    for each in mounted:
        assert (ROOT / each).exists(), each
    compose = COMPOSE.read_text()
    secrets = set(re.findall(r"\{file: \./secrets/([a-z_]+)\}", compose))
    used = {name.strip() for names in re.findall(r"secrets: \[([a-z_, ]+)\]", compose) for name in names.split(",")}
    assert used | {"mosquitto_passwd", "mqtt_password"} == secrets
    assert all(name in MANUAL.read_text() for name in secrets)


def test_compose_says_nothing_to_the_network_outside() -> None:
    ports = re.findall(r"ports: \[(.*)\]", COMPOSE.read_text())
    assert len(ports) == 4
    assert all(each.startswith('"127.0.0.1:') for each in ports)


def test_the_image_holds_no_secret_and_is_not_root() -> None:
    text = DOCKERFILE.read_text()
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["10001:10001"]
    assert "--mount=type=secret,id=pip.conf" in text
    assert not re.search(r"^(ARG|ENV).*(PASSWORD|TOKEN|INDEX_URL)", text, re.MULTILINE)
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in allowed
    assert "!secrets" not in allowed


def test_alert_rules_speak_of_metrics_that_exist() -> None:
    exposed = set()
    for family in Metrics().registry.collect():
        kind = {"counter": ["_total"], "histogram": ["_bucket"], "info": ["_info"]}.get(family.type, [""])
        exposed |= {family.name + suffix for suffix in kind}
    rules = " ".join(re.findall(r"expr: (.*)", ALERTS.read_text()))
    named = set(re.findall(r"\b(?:esp_ingestd|process)_[a-z_]+", rules))
    assert named <= exposed
    assert len(named) > 10


def test_each_alert_says_what_to_do_and_where_that_is_explained() -> None:
    headings = re.findall(r"^#+ (.*)$", MANUAL.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}
    name, *rules = re.split(r"^ +- alert: ", ALERTS.read_text(), flags=re.MULTILINE)
    assert len(rules) > 20, name
    for rule in rules:
        said = dict(re.findall(r"^ +(summary|action|runbook): (.+)$", rule, re.MULTILINE))
        assert said.keys() == {"summary", "action", "runbook"}, rule
        page, _, anchor = said["runbook"].partition("#")
        assert (ROOT / page, anchor in anchors) == (MANUAL, True), said["runbook"]
    assert "AlertsRefused" in " ".join(rules)


def test_the_alert_on_a_full_spool_knows_its_default_size() -> None:
    assert f"0.8 * {Settings().spool.max_bytes}" in ALERTS.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "config/prometheus/prometheus.yml"],
        ["test", "rules", "tests/prometheus/alerts_test.yml"],
    ],
    ids=["configuration", "rules"],
)
def test_prometheus_takes_the_configuration_and_the_alerts_fire(arguments: list[str]) -> None:
    if not (program := shutil.which("promtool")):
        pytest.skip("Prometheus is not on this machine")
    result = subprocess.run([program, *arguments], check=False, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
