from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

from esp_ingestd.config import Settings, load_settings, load_wells, mask_dsn
from esp_ingestd.core.well import WellSettings
from esp_ingestd.errors import ConfigurationError
from esp_ingestd.service import load_diagnosis
from esp_ingestd.shipped import shipped

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = shipped("config") / "esp-ingestd.toml"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in __import__("os").environ if name.upper().startswith("ESP_INGESTD_")]:
        monkeypatch.delenv(name)


def write(folder: Path, text: str, name: str = "esp-ingestd.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(path)
    return list(refused.value.faults)


def test_the_sample_lists_every_key_with_its_default() -> None:
    sample = tomllib.loads(SAMPLE.read_text())
    model = dict(Settings())
    assert list(sample) == list(model)
    for name, section in model.items():
        keys = [key for key in type(section).model_fields if key != "password"]  # a secret does not stand in the file
        assert list(sample[name]) == keys, name
    assert dict(load_settings(SAMPLE)) == dict(Settings())


def test_each_line_of_the_sample_says_what_it_is() -> None:
    for line in SAMPLE.read_text().splitlines():
        assert not line or line.startswith(("#", "[")) or "  # " in line, line


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "")).mqtt.client_id == "esp-ingestd"


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MQTT__HOST": "broker",
        "MQTT__PORT": "8883",
        "MQTT__TOPICS": '["a/{well_id}", "b/#"]',
        "MQTT__TLS": "true",
        "DATABASE__DSN": "postgresql://env/x",
        "RETENTION__REQUIRE_VERIFIED_ARCHIVE": "false",
        "SPOOL__DIRECTORY": "below",
        "LOG__LEVEL": "debug",
    }.items():
        monkeypatch.setenv(f"ESP_INGESTD_{name}", value)
    settings = load_settings(write(tmp_path, '[mqtt]\nhost = "file"\nclient_id = "kept"\n'))
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.client_id) == ("broker", 8883, "kept")
    assert settings.mqtt.topics == ("a/{well_id}", "b/#")
    assert settings.mqtt.tls
    assert not settings.retention.require_verified_archive
    assert settings.database.dsn.get_secret_value() == "postgresql://env/x"
    assert settings.spool.directory == tmp_path / "below"


def test_every_fault_at_once_with_its_place_and_what_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESP_INGESTD_HTTP__PORT", "x")
    monkeypatch.setenv("ESP_INGESTD_NONSENSE", "1")
    monkeypatch.setenv("ESP_INGESTD_MQTT__HOOST", "1")
    path = write(
        tmp_path,
        "[mqtt]\nport = 99999\nhots = 1\npassword = 'hunter2'\ntopics = ['a/#/b']\nprotocol = 5\n[foo]\na = 1\n"
        "[database]\ndsn = 'mysql://u:hunter2@h'\n[batch]\nmax_rows = 'many'\n",
    )
    told = faults(path)
    text = "\n".join(told)
    for part in (
        f"{path}: mqtt.port = 99999",
        f"{path}: mqtt.hots: is no setting; allowed: host",
        f"{path}: mqtt.password: a secret does not stand in this file; use mqtt.password_file",
        'mqtt.topics.0 = "a/#/b": # may only be the last level',
        "mqtt.protocol = 5: Input should be '5' or '3.1.1'; allowed: \"5\" or \"3.1.1\"",
        f"{path}: foo: is no setting; allowed: mqtt, database",
        "database.dsn = ***: must begin with postgresql://",
        'batch.max_rows = "many"',
        'environment ESP_INGESTD_HTTP__PORT: http.port = "x"',
        "ESP_INGESTD_NONSENSE: is no setting",
        "ESP_INGESTD_MQTT__HOOST: mqtt.hoost: is no setting",
    ):
        assert part in text
    assert "hunter2" not in text
    assert all("\n" not in line for line in told)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[mqtt\n", "is no TOML"),
        ("mqtt = 5\n", "mqtt"),
        ("[mqtt]\nport = 0\n", "1 to 65535"),
        ("[mqtt]\ntopics = []\n", "mqtt.topics"),
        ("[mqtt]\nclient_id = 'a/b'\n", "mqtt.client_id"),
        ("[mqtt]\ntls_cert_file = 'x'\n", "tls_cert_file and tls_key_file go together"),
        ("[mqtt]\nusername = 'u'\npassword_file = 'missing'\n", '/missing": cannot be read: No such file'),
        ("[database]\ndsn_file = 'missing'\n", "cannot be read"),
        ("[alerts]\ntopic_prefix = 'a/+'\n", "without wildcards"),
        ("[batch]\nmax_age_ms = 0\n", "1 to 60000"),
        ("[spool]\nmax_bytes = 5\n", "at least 1 MiB"),
        ("[http]\nport = -1\n", "0 to 65535"),
        ("[log]\nlevel = 'loud'\n", "debug, info, warning or error"),
        ("[database]\nconnect_timeout_s = nan\n", "finite"),
        ("[[mqtt]]\nport = 1\n", "mqtt: Input should be a valid dictionary"),
        ("[mqtt]\nport = true\n", "mqtt.port = true: must not be true or false"),
        ("[mqtt]\nhost = 'a'\nport = \"x\\ny\"\n", r'mqtt.port = "x\ny"'),
        ('[mqtt]\nhost = "broker..site"\n', 'mqtt.host = "broker..site": is no host name: a part between its dots'),
        ("[database]\ndsn = 'postgresql://u:p@a:1,db..site:2/esp'\n", "database.dsn = ***: is no host name"),
        ('[mqtt]\nhost = "a\\u0000b"\n', "must not hold NUL"),
        ("[mqtt]\ntls_ca_file = 'missing'\n", 'missing": cannot be read: No such file'),
        ("[spool]\ndirectory = ''\n", 'spool.directory = "": must not be empty'),
        ("[database]\ndsn = 'postgresql://u:pass/word@h/db'\n", "database.dsn = ***: host or port cannot be read"),
        ("[database]\ndsn = 'postgresql://u:[word@h/db'\n", "database.dsn = ***: host or port cannot be read"),
        ("[database]\ndsn = 'postgresql://u:pass#word@h/db'\n", "written as %XX"),
        ("[log]\nlevel = '" + "x" * 5_000 + "'\n", "xxx…: "),
    ],
)
def test_faults(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(faults(write(tmp_path, text)))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert faults(tmp_path / "none.toml") == [f"{tmp_path}/none.toml: cannot be read: No such file or directory"]


def test_an_empty_variable_and_a_list_that_is_no_json_are_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESP_INGESTD_MQTT__PORT", "")
    assert "ESP_INGESTD_MQTT__PORT" in faults(write(tmp_path, ""))[0]
    monkeypatch.delenv("ESP_INGESTD_MQTT__PORT")
    monkeypatch.setenv("ESP_INGESTD_MQTT__TOPICS", "a/b")
    monkeypatch.setenv("ESP_INGESTD_HTTP__PORT", "x")
    first, second = faults(write(tmp_path, ""))
    assert first.startswith('environment ESP_INGESTD_MQTT__TOPICS: mqtt.topics = "a/b": ')
    assert "(a variable: as JSON)" in first
    assert second.startswith("environment ESP_INGESTD_HTTP__PORT: ")
    monkeypatch.delenv("ESP_INGESTD_HTTP__PORT")
    monkeypatch.delenv("ESP_INGESTD_MQTT__TOPICS")
    monkeypatch.setenv("ESP_INGESTD_MQTT__PORT__X", "1")
    assert any(fault.startswith("ESP_INGESTD_MQTT__PORT__X: is no setting") for fault in faults(write(tmp_path, "")))


def test_a_variable_for_a_whole_section_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESP_INGESTD_MQTT", '["hunter2"]')
    told = faults(write(tmp_path, ""))
    assert told[0].startswith("ESP_INGESTD_MQTT: is no setting")
    assert "hunter2" not in "".join(told)


def test_secrets_come_from_files_and_are_never_shown(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter2\n")
    (tmp_path / "dsn").write_text("postgresql://u:hunter2@h/db?password=hunter2\n")
    text = '[mqtt]\nusername = "u"\npassword_file = "pw"\n[database]\ndsn_file = "dsn"\n'
    settings = load_settings(write(tmp_path, text))
    assert settings.mqtt.password is not None
    assert settings.mqtt.password.get_secret_value() == "hunter2"
    assert settings.database.dsn.get_secret_value() == "postgresql://u:hunter2@h/db?password=hunter2"
    shown = "\n".join(settings.effective()) + repr(settings) + str(settings)
    assert "hunter2" not in shown
    assert "postgresql://u:***@h/db" in shown


def test_a_password_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESP_INGESTD_MQTT__PASSWORD", "hunter2")
    settings = load_settings(write(tmp_path, '[mqtt]\nusername = "u"\n'))
    assert settings.mqtt.password is not None
    assert settings.mqtt.password.get_secret_value() == "hunter2"
    (fault,) = faults(write(tmp_path, ""))
    assert "a password needs mqtt.username" in fault
    assert "hunter2" not in fault


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "mqtt.password = ***"),
        (b"\xff", "cannot be read: is no UTF-8 text"),
        (None, "Is a directory"),
    ],
)
def test_a_secret_that_cannot_be_used(tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is None:
        (tmp_path / "pw").mkdir()
    else:
        (tmp_path / "pw").write_bytes(content)
    assert expected in faults(write(tmp_path, "[mqtt]\nusername = 'u'\npassword_file = 'pw'\n"))[0]


def test_a_secret_given_twice_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dsn").write_text("postgresql://u:hunter2@h/db")
    (fault,) = faults(write(tmp_path, "[database]\ndsn = 'postgresql://u@h/db'\ndsn_file = 'dsn'\n"))
    assert "database.dsn is given too; allowed: one of them" in fault
    monkeypatch.setenv("ESP_INGESTD_DATABASE__DSN", "postgresql://e/db")
    (fault,) = faults(write(tmp_path, "[database]\ndsn_file = 'dsn'\n"))
    assert "database.dsn is given too" in fault
    monkeypatch.delenv("ESP_INGESTD_DATABASE__DSN")
    monkeypatch.setenv("ESP_INGESTD_DATABASE__DSN_FILE", "dsn")  # relative to the file's folder, as in the file
    sample = write(tmp_path, SAMPLE.read_text())  # whose dsn is the default, and not taken for given
    assert load_settings(sample).database.dsn.get_secret_value() == "postgresql://u:hunter2@h/db"


def test_faults_of_secrets_and_of_settings_are_named_together(tmp_path: Path) -> None:
    told = faults(write(tmp_path, "[http]\nport = -1\n[database]\ndsn_file = 'missing'\n"))
    assert len(told) == 2
    assert all(line.startswith(f"{tmp_path}/esp-ingestd.toml: ") for line in told)


def test_credentials_of_the_archive_are_not_shown(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, "[archive]\nurl = 's3://key:hunter2@bucket/x'\n"))
    assert settings.archive.url == "s3://key:hunter2@bucket/x"
    assert "hunter2" not in "".join(settings.effective()) + repr(settings)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "\ufeff[mqtt]\nhost = 'h'\n")).mqtt.host == "h"


def test_masking() -> None:
    assert mask_dsn("postgresql://u:a/b@c@h/db") == "postgresql://u:***@h/db"
    assert mask_dsn("postgresql://u@h/db?a=b&PASSWORD=x&sslpassword=y") == (
        "postgresql://u@h/db?a=b&PASSWORD=***&sslpassword=***"
    )
    assert mask_dsn("postgresql://h:5432/db") == "postgresql://h:5432/db"
    assert mask_dsn("postgresql://u@h/db") == "postgresql://u@h/db"
    assert mask_dsn("postgresql://u:p@h1:1,h2:2/db?a=b") == "postgresql://u:***@h1:1,h2:2/db?a=b"
    assert mask_dsn("anything") == "***"


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "wells.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    text = '[diagnosis]\nwells_file = "wells.toml"\n[archive]\nurl = "days"\n[spool]\ndirectory = "../var"\n'
    settings = load_settings(write(folder, text))
    assert settings.diagnosis.wells_file == folder / "wells.toml"
    assert settings.archive.url == str(folder / "days")
    assert settings.spool.directory == folder / "../var"
    assert load_settings(write(folder, '[archive]\nurl = "s3://bucket/x"\n')).archive.url == "s3://bucket/x"


def test_the_sample_of_wells_is_all_defaults() -> None:
    wells = load_wells(shipped("config") / "wells.toml")
    assert wells.defaults == WellSettings()
    assert load_wells(None)("any") == WellSettings()


def test_a_well_overrides_the_defaults_key_by_key(tmp_path: Path) -> None:
    text = (
        "[defaults]\nnameplate_current_a = 40\nunits = {pip = 'kPa', torque = 'kN.m'}\n"
        "[wells.'W-1']\ntrip_temperature_c = 150\nunits = {pip = 'bar'}\nflow_range_bpd = [1, 2]\n"
    )
    wells = load_wells(write(tmp_path, text))
    first, other = wells("W-1"), wells("W-2")
    assert (first.nameplate_current_a, first.trip_temperature_c) == (40, 150)
    assert first.units == {"pip": "bar", "torque": "kN.m"}
    assert list(first.flow_range_bpd or ()) == [1, 2]
    assert (other.nameplate_current_a, other.trip_temperature_c) == (40, None)
    assert wells.units_of("W-2") == {"pip": "kPa", "torque": "kN.m"}


def test_faults_of_the_wells_file_are_named_all_at_once(tmp_path: Path) -> None:
    text = (
        "[defaults]\nnameplate_current_a = -1\n[wells.'A B']\n[wells.W1]\nunits = {pip = 'foo'}\nsettle = 3\n"
        "enabled_rules = ['X']\nflow_range_bpd = [3, 1]\n[wells.W2]\nunits = {vibration = 'g'}\n[other]\n"
    )
    with pytest.raises(ConfigurationError) as refused:
        load_wells(write(tmp_path, text))
    told = str(refused.value)
    for part in (
        "defaults.nameplate_current_a = -1",
        "A B",
        "pip cannot be in 'foo'; allowed: psi, Pa, kPa",
        "wells.W1.settle: is no setting; allowed: field",
        "no diagnosis: X; allowed: STALL",
        "low must be at least 0 and below high",
        "'vibration' is no channel that can be converted",
        "other: is no setting; allowed: defaults, wells",
    ):
        assert part in told


def test_no_well_is_called_as_the_field_is(tmp_path: Path) -> None:
    """Alarms of the field are raised in that name, and nothing else is asked of it."""
    (tmp_path / "wells.toml").write_text("[wells.PUMPS_1]\nsettle_s = 5\n")
    text = '[mqtt]\nclient_id = "{}"\n[diagnosis]\nwells_file = "wells.toml"\n'
    (tmp_path / "c.toml").write_text(text.format("PUMPS 1"))
    with pytest.raises(ConfigurationError) as raised:
        load_diagnosis(load_settings(tmp_path / "c.toml"))
    (fault,) = raised.value.faults
    assert fault.endswith("wells.toml: wells.PUMPS_1: no well may be called as mqtt.client_id is")
    (tmp_path / "c.toml").write_text(text.format("PUMPS"))
    wells, _ = load_diagnosis(load_settings(tmp_path / "c.toml"))
    assert list(wells.listed) == ["PUMPS_1"]


def test_a_database_may_be_at_a_socket_in_a_folder_of_any_name(tmp_path: Path) -> None:
    dsn = f"postgresql://u@%2Frun%2F{'x' * 70},[::1]:5433,db.site./esp"
    assert load_settings(write(tmp_path, f"[database]\ndsn = '{dsn}'\n")).database.dsn.get_secret_value() == dsn
