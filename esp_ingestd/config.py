"""What can be set: one TOML file, overridden by the environment, and the wells file beside it.

Faults are collected, all of them, before anything is touched: one line each with the place, the key, the value
and what is allowed. A secret is read from a file or the environment and never shown.
"""

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from esp_ingestd.core.reading import WELL_ID_PATTERN
from esp_ingestd.core.topic import TopicPattern
from esp_ingestd.core.unit import CHANNEL_CONVERSIONS
from esp_ingestd.core.well import DIAGNOSES, VibrationUnit, WellSettings
from esp_ingestd.errors import ConfigurationError

ENV_PREFIX: Final = "ESP_INGESTD_"
DEFAULT_DSN: Final = "postgresql://esp_ingestd@localhost:5432/esp"
SECRETS: Final = (("mqtt", "password"), ("database", "dsn"))  # each may come from the file that KEY_file names
LONGEST_SHOWN: Final = 200  # characters of a wrong value


def _topic(value: str) -> str:
    TopicPattern(value)
    return value


def _plain_topic(value: str) -> str:
    if re.search(r"[+#\0{}]", value) or value.startswith(("/", "$")) or value.endswith("/"):
        raise ValueError("a plain topic without wildcards, captures, or a slash at either end")
    return value


def _given(value: object) -> object:
    if value == "":
        raise ValueError("must not be empty")
    return value


Port = Annotated[int, Field(ge=1, le=65535)]
_PlaceOf = Callable[[tuple[str | int, ...]], str]
OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: None if value == "" else value)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("must not hold NUL")
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


def _require_host(host: str) -> str:
    """A host, by name or address, that can be asked for at all: the resolver raises what is no fault of the network."""
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("is no host name: a part between its dots is empty or too long") from None
    return host


class MqttSettings(_Section):
    """The broker."""

    host: Annotated[str, AfterValidator(_require_host)] = Field(
        "localhost", min_length=1, description="host name or address of the broker"
    )
    port: Port = Field(1883, description="TCP port, 1 to 65535; 8883 is usual with TLS")
    client_id: str = Field(
        "esp-ingestd",
        pattern="^[^+#/\0]{1,128}$",
        description="1 to 128 characters without + # /; fixed per daemon",
    )
    topics: tuple[Annotated[str, AfterValidator(_topic)], ...] = Field(
        ("esp/{well_id}/telemetry",),
        min_length=1,
        description="a list of topics (a variable: as JSON); {well_id} and {field} capture one level each, the rest is "
        "literal or + or #",
    )
    protocol: Literal["5", "3.1.1"] = Field("5", description='"5" or "3.1.1"')
    receive_maximum: int = Field(65535, ge=1, le=65535, description="deliveries in flight, 1 to 65535 (MQTT 5)")
    max_payload_bytes: int = Field(1_048_576, ge=256, le=268_435_455, description="bytes, 256 to 268435455")
    naive_timestamps: Literal["refuse", "utc"] = Field("refuse", description='"refuse" or "utc"')
    keepalive_s: int = Field(30, ge=5, le=3600, description="s, 5 to 3600")
    session_expiry_s: int = Field(
        4_294_967_295, ge=0, le=4_294_967_295, description="s, 0 to 4294967295, which means never (MQTT 5)"
    )
    username: str = Field("", description="empty: no authentication")
    password: SecretStr | None = Field(
        None, min_length=1, description="not empty; from mqtt.password_file or the environment only"
    )
    password_file: OptionalPath = Field(None, description="a file that holds the password")
    tls: bool = Field(default=False, description="true: TLS, by the system's authorities unless tls_ca_file is given")
    tls_ca_file: OptionalPath = Field(None, description="a PEM file of authorities; implies TLS")
    tls_cert_file: OptionalPath = Field(None, description="our certificate, PEM; implies TLS")
    tls_key_file: OptionalPath = Field(None, description="the key of our certificate, PEM")

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file go together")
        if self.password is not None and not self.username:
            raise ValueError("a password needs mqtt.username")
        return self

    @property
    def use_tls(self) -> bool:
        """Whether the connection is to be encrypted."""
        return self.tls or self.tls_ca_file is not None or self.tls_cert_file is not None


class DatabaseSettings(_Section):
    """TimescaleDB or PostgreSQL."""

    dsn: SecretStr = Field(
        SecretStr(DEFAULT_DSN),
        description="postgresql://user[:password]@host[:port][,host…]/database[?option=value]",
    )
    dsn_file: OptionalPath = Field(None, description="a file that holds the DSN")
    connect_timeout_s: float = Field(10.0, ge=0.1, le=300, description="s, 0.1 to 300")
    write_timeout_s: float = Field(10.0, ge=0.1, le=3600, description="s for one batch, 0.1 to 3600")

    @field_validator("dsn")
    @classmethod
    def _is_postgresql(cls, dsn: SecretStr) -> SecretStr:
        if not re.match(r"postgres(ql)?://", dsn.get_secret_value()):
            raise ValueError("must begin with postgresql://")
        # Stricter than the driver, whose own words on such a DSN would show parts of the password.
        authority = re.split("[/?#]", dsn.get_secret_value().partition("://")[2])[0]
        host = r"(\[[^@\[\]]+\]|[^:@\[\]]*)(:\d{1,5})?"
        if not re.fullmatch(rf"([^\[\]]*@)?{host}(,{host})*", authority):
            raise ValueError("host or port cannot be read; special characters in a password are written as %XX")
        for name, _ in re.findall(r"([^@:,\[\]]*)(:\d+)?(?:,|$)", authority.rpartition("@")[2]):
            if "%" not in name:  # the folder of a socket
                _require_host(name)
        return dsn


class BatchSettings(_Section):
    """When a batch is closed, and how much may be under way."""

    max_rows: int = Field(5000, ge=1, le=100_000, description="rows, 1 to 100000")
    max_age_ms: int = Field(100, ge=1, le=60_000, description="ms, 1 to 60000")
    max_in_flight_rows: int = Field(
        50_000,
        ge=1,
        le=10_000_000,
        description="rows taken in and not yet durable, 1 to 10000000; then intake stops",
    )
    max_in_flight_bytes: int = Field(
        67_108_864, ge=1_048_576, description="bytes of payload taken in and not yet durable, at least 1 MiB"
    )


class ServiceSettings(_Section):
    """The process."""

    shutdown_timeout_s: float = Field(20.0, ge=0.1, le=3600, description="s, 0.1 to 3600")


class SpoolSettings(_Section):
    """What goes to disk while the database is away."""

    directory: Annotated[Path, BeforeValidator(_given)] = Field(
        Path("/var/lib/esp-ingestd"), description="a directory that the daemon may write"
    )
    max_bytes: int = Field(10_737_418_240, ge=1_048_576, description="bytes, at least 1 MiB")


class HttpSettings(_Section):
    """Metrics and health."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(9464, ge=0, le=65535, description="TCP port, 0 to 65535; 0: any free one, named in the log")


class AlertSettings(_Section):
    """Where alerts go."""

    topic_prefix: Annotated[str, AfterValidator(_plain_topic)] = Field(
        "esp/alerts", min_length=1, description="a topic without wildcards"
    )
    flood_starts: int = Field(10, ge=0, le=100_000, description="annunciations, 0 to 100000; 0: no guard")
    flood_ends: int = Field(5, ge=0, le=100_000, description="annunciations, 0 to 100000")


class DiagnosisSettings(_Section):
    """What names the ailment."""

    tree_file: OptionalPath = Field(None, description="a decision tree; empty: the one that ships with the program")
    wells_file: OptionalPath = Field(None, description="what is known of each well; empty: defaults for all")
    max_wells: int = Field(20_000, ge=1, le=1_000_000, description="wells that are diagnosed, 1 to 1000000")


class ArchiveSettings(_Section):
    """Where closed days go."""

    url: str = Field("", repr=False, description="a directory or an object store's URL; empty: no archive")
    closes_after_s: float = Field(
        3600.0, ge=0, le=604_800, description="s after the end of a day, by UTC, until it is archived; 0 to 604800"
    )


class RetentionSettings(_Section):
    """How long rows stay in the database."""

    telemetry_days: int = Field(30, ge=1, description="days, at least 1")
    diagnostics_days: int = Field(90, ge=1, description="days, at least 1")
    require_verified_archive: bool = Field(default=True, description="true or false")


class MaintenanceSettings(_Section):
    """What the daemon does to the store beside ingest."""

    enabled: bool = Field(default=True, description="true or false; false: something else runs maintenance")
    interval_s: float = Field(300.0, ge=1, le=86_400, description="s, 1 to 86400")
    archive_interval_s: float = Field(3600.0, ge=1, le=604_800, description="s, 1 to 604800")


class LogSettings(_Section):
    """What is said on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")
    format: Literal["auto", "json", "text"] = Field("auto", description="auto, json or text")


class _Environment(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ANN401 - the library's
        """A list, or what was written in its place, so that the fault is named beside the others."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class Settings(BaseSettings):
    """Everything that can be set, checked and complete."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, case_sensitive=False
    )

    mqtt: MqttSettings = MqttSettings()
    database: DatabaseSettings = DatabaseSettings()
    batch: BatchSettings = BatchSettings()
    service: ServiceSettings = ServiceSettings()
    spool: SpoolSettings = SpoolSettings()
    http: HttpSettings = HttpSettings()
    alerts: AlertSettings = AlertSettings()
    diagnosis: DiagnosisSettings = DiagnosisSettings()
    archive: ArchiveSettings = ArchiveSettings()
    retention: RetentionSettings = RetentionSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file."""
        return _Environment(settings_cls), init_settings

    def effective(self) -> Iterator[str]:
        """Every setting as `section.key = value`, secrets masked."""
        for section_name, section in self:
            for key, value in section:
                yield f"{section_name}.{key} = {_show(value)}"


class _WellSection(_Section):
    """`[defaults]` or one `[wells."…"]` of the wells file; None is not given."""

    field: str | None = None
    nameplate_current_a: float | None = Field(None, gt=0, le=1000, description="A, above 0, at most 1000")
    trip_temperature_c: float | None = Field(None, gt=0, le=300, description="degC, above 0, at most 300")
    base_frequency_hz: float | None = Field(None, ge=30, le=120, description="Hz, 30 to 120")
    vibration_unit: VibrationUnit | None = Field(None, description='"g", "mm/s" or "in/s"')
    expected_interval_s: float | None = Field(None, gt=0, le=86_400, description="s, above 0, at most 86400")
    settle_s: float | None = Field(None, ge=0, le=604_800, description="s, 0 to 604800")
    transient_hold_s: float | None = Field(None, ge=0, le=604_800, description="s, 0 to 604800")
    baseline_days: float | None = Field(None, gt=0, le=60, description="days, above 0, at most 60")
    baseline_lag_h: float | None = Field(None, ge=0, le=240, description="h, 0 to 240")
    minimum_intake_pressure_psi: float | None = Field(None, ge=0, le=10_000, description="psi, 0 to 10000")
    flow_range_bpd: tuple[float, float] | None = Field(None, description="[low, high] in bbl/d, 0 <= low < high")
    enabled_rules: tuple[str, ...] | None = Field(None, description="a list of diagnoses")
    units: dict[str, str] | None = Field(None, description="a table channel = unit")

    @field_validator("flow_range_bpd")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1]:
            raise ValueError("low must be at least 0 and below high")
        return value

    @field_validator("enabled_rules")
    @classmethod
    def _are_diagnoses(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if unknown := set(value or ()) - set(DIAGNOSES):
            raise ValueError(f"no diagnosis: {', '.join(sorted(unknown))}; allowed: {', '.join(DIAGNOSES)}")
        return value

    @field_validator("units")
    @classmethod
    def _are_units(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for channel, unit in (value or {}).items():
            if not (known := CHANNEL_CONVERSIONS.get(channel)):
                convertible = ", ".join(name for name, units in CHANNEL_CONVERSIONS.items() if units)
                raise ValueError(f"{channel!r} is no channel that can be converted; allowed: {convertible}")
            if unit not in known:
                raise ValueError(f"{channel} cannot be in {unit!r}; allowed: {', '.join(known)}")
        return value

    def given(self) -> dict[str, Any]:
        """What this section says."""
        return self.model_dump(exclude_none=True)


class _WellsFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    defaults: _WellSection = _WellSection()
    wells: dict[Annotated[str, Field(pattern=WELL_ID_PATTERN)], _WellSection] = {}


class Wells:
    """What the wells file says, by well; a well that is not listed runs on the defaults."""

    def __init__(self, defaults: WellSettings | None = None, wells: Mapping[str, WellSettings] | None = None) -> None:
        self.defaults = defaults or WellSettings()
        self.listed = dict(wells or {})

    def __call__(self, well_id: str) -> WellSettings:
        """The settings of one well."""
        return self.listed.get(well_id, self.defaults)

    def units_of(self, well_id: str) -> Mapping[str, str]:
        """Channel -> unit in which the well's RTU sends it, where that is not the contract's."""
        return self(well_id).units


def load_settings(path: Path) -> Settings:
    """The settings in the TOML file `path`, overridden by the environment, paths made absolute, secrets read.

    Raises:
        ConfigurationError: with every fault of file and environment.
    """
    document = _read_toml(path)
    folder = path.resolve().parent
    faults = [*_misplaced_secrets(document, path), *_unknown_variables(os.environ)]
    faults += _read_secrets(document, folder, partial(_place_of_setting, path))
    try:
        settings = _resolve_paths(Settings(**document), folder)
    except ValidationError as error:
        faults += _name_faults(error, partial(_place_of_setting, path), Settings)
    else:
        faults += _unreadable_files(settings.mqtt, partial(_place_of_setting, path))
    if faults:
        raise ConfigurationError(faults)
    return settings


def changed_settings(before: Settings, after: Settings) -> list[str]:
    """The settings that differ, each as `section.key`."""
    return [
        f"{name}.{key}"
        for name, section in before
        for key, value in section
        if getattr(getattr(after, name), key) != value
    ]


def database_at(dsn: str) -> DatabaseSettings:
    """The settings of a database that is named on the command line.

    Raises:
        ConfigurationError: it is no DSN.
    """
    try:
        return DatabaseSettings.model_validate({"dsn": dsn})
    except ValidationError as error:
        raise ConfigurationError(_name_faults(error, lambda _loc: "--dsn", DatabaseSettings)) from None


def load_wells(path: Path | None) -> Wells:
    """The wells file, or the defaults for every well where there is none.

    Raises:
        ConfigurationError: with every fault of the file.
    """
    if path is None:
        return Wells()
    try:
        file = _WellsFile.model_validate(_read_toml(path))
    except ValidationError as error:
        raise ConfigurationError(_name_faults(error, lambda _loc: str(path), _WellsFile)) from None
    defaults = file.defaults.given()
    defaults_units = defaults.get("units", {})
    listed = {
        well_id: WellSettings(**{**defaults, **given, "units": {**defaults_units, **given.get("units", {})}})
        for well_id, given in ((well_id, section.given()) for well_id, section in file.wells.items())
    }
    return Wells(WellSettings(**defaults), listed)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError([f"{path}: is no TOML: {error}"]) from None


def _misplaced_secrets(document: dict[str, Any], path: Path) -> Iterator[str]:
    section = document.get("mqtt")
    if isinstance(section, dict) and section.pop("password", None) is not None:
        variable = f"{ENV_PREFIX}MQTT__PASSWORD"
        yield f"{path}: mqtt.password: a secret does not stand in this file; use mqtt.password_file or {variable}"


def _unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(environment):
        if name.upper().startswith(ENV_PREFIX):
            section = name[len(ENV_PREFIX) :].lower().partition("__")[0]
            if section not in Settings.model_fields or name.count("__") != 1:
                allowed = ", ".join(f"{ENV_PREFIX}{each.upper()}__…" for each in Settings.model_fields)
                yield f"{name}: is no setting; allowed: {allowed}"


def _place_of_setting(path: Path, loc: tuple[str | int, ...]) -> str:
    variable = ENV_PREFIX + "__".join(str(part).upper() for part in loc[:2])
    return f"environment {variable}" if variable in _variables() else str(path)


def _variables() -> dict[str, str]:
    return {name.upper(): value for name, value in os.environ.items()}


def _name_faults(error: ValidationError, place_of: _PlaceOf, model: type[BaseModel]) -> list[str]:
    faults = []
    for each in error.errors(include_url=False, include_context=False):
        key = ".".join(map(str, each["loc"]))
        message = each["msg"].removeprefix("Value error, ")
        if each["type"] == "extra_forbidden":
            faults.append(
                f"{place_of(each['loc'])}: {key}: is no setting; allowed: {_allowed_keys(model, each['loc'])}"
            )
            continue
        shown = _show_fault(key, each["input"])
        allowed = _description(model, each["loc"])
        faults.append(
            f"{place_of(each['loc'])}: {key}{shown}: {message}" + (f"; allowed: {allowed}" if allowed else "")
        )
    return faults


def _show_fault(key: str, value: object) -> str:
    """The wrong value; not a whole section, which may hold a secret, nor a secret itself."""
    if isinstance(value, dict) or "." not in key:
        return ""
    is_secret = any(word in key for word in ("password", "dsn")) and not key.endswith("_file")
    shown = "***" if is_secret else _show(value)
    return f" = {shown if len(shown) <= LONGEST_SHOWN else shown[:LONGEST_SHOWN] + '…'}"


def _walk(model: type[BaseModel], loc: tuple[str | int, ...]) -> Iterator[tuple[type[BaseModel], str]]:
    """The models along `loc`, each with the key that is looked up in it."""
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            yield model, part
            annotation = model.model_fields[part].annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                model = annotation
            elif model is _WellsFile:
                model = _WellSection


def _description(model: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    found = [owner.model_fields[key].description for owner, key in _walk(model, loc)]
    return (found[-1] if found else None) or ""


def _allowed_keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    for owner, key in _walk(model, loc[:-1]):
        annotation = owner.model_fields[key].annotation
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else _WellSection
    return ", ".join(model.model_fields)


def _resolve_paths(settings: Settings, folder: Path) -> Settings:
    sections = {}
    for name, section in settings:
        paths = {key: folder / value for key, value in section if isinstance(value, Path)}
        sections[name] = section.model_copy(update=paths)
    url = settings.archive.url
    if url and "://" not in url:
        sections["archive"] = settings.archive.model_copy(update={"url": str(folder / url)})
    return settings.model_copy(update=sections)


def _read_secrets(document: dict[str, Any], folder: Path, place_of: _PlaceOf) -> Iterator[str]:
    """Put the secrets that `_file` keys name into `document`, and say what is wrong with them."""
    variables = _variables()
    for section_name, key in SECRETS:
        variable = f"{ENV_PREFIX}{section_name}__{key}".upper()
        section = document.setdefault(section_name, {})
        if not isinstance(section, dict):
            continue
        file = variables.get(f"{variable}_FILE", section.get(f"{key}_file"))
        if not file or not isinstance(file, str):
            continue
        name = f"{place_of((section_name, f'{key}_file'))}: {section_name}.{key}_file = {_show(folder / file)}"
        if variable in variables or section.get(key, DEFAULT_DSN) != DEFAULT_DSN:
            yield f"{name}: {section_name}.{key} is given too; allowed: one of them"
        try:
            section[key] = (folder / file).read_text("utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            yield f"{name}: cannot be read: {_why_unread(error)}"


def _unreadable_files(mqtt: MqttSettings, place_of: _PlaceOf) -> Iterator[str]:
    for key in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
        path: Path | None = getattr(mqtt, key)
        if path is not None:
            try:
                path.read_bytes()
            except OSError as error:
                yield f"{place_of(('mqtt', key))}: mqtt.{key} = {_show(path)}: cannot be read: {_why_unread(error)}"


def _why_unread(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "is no UTF-8 text"


def _show(value: object) -> str:
    if isinstance(value, SecretStr):
        return f'"{mask_dsn(value.get_secret_value())}"'
    if value is None:
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_show, value))}]"
    return json.dumps(mask_url(str(value)), ensure_ascii=False) if isinstance(value, (str, Path)) else str(value)


def mask_dsn(secret: str) -> str:
    """A DSN without its password; any other secret as asterisks."""
    return mask_url(secret) if "://" in secret else "***"


def mask_url(text: str) -> str:
    """`text` without the password of a URL in it, even where that holds a slash or an at sign."""
    masked = re.sub(r"(://[^:@/]*):.*@", r"\1:***@", text, flags=re.DOTALL)
    return re.sub(r"(password=)[^&]*", r"\1***", masked, flags=re.IGNORECASE)
