"""Recordings: CSV and JSON lines back into readings, and what is wrong named by file and line."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from data import ESP01

from esp_ingestd.core.decode import Decoder
from esp_ingestd.core.reading import SECOND_US
from esp_ingestd.recording import Recorded, RecordingError, read_recording, to_timestamp_us

NOON_US = 1_735_732_800 * SECOND_US  # 2025-01-01T12:00:00Z


def write(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> Sequence[Recorded]:
    return list(read_recording(path))


def test_csv(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "field.csv",
        "timestamp,well_id,pip,motor_current,operator",
        "2025-01-01T12:00:00Z,007,512.5,61,Ada",
        "2025-01-01T13:00:01+01:00,WELL-2,,62.5,",
    )
    first, second = read(path)
    assert first.well_id == "007"
    assert first.timestamp_us == NOON_US
    assert first.line == 2
    assert json.loads(first.payload) == {
        "timestamp": "2025-01-01T12:00:00Z",
        "well_id": "007",
        "pip": 512.5,
        "motor_current": 61.0,
        "operator": "Ada",
    }
    assert second.timestamp_us == NOON_US + SECOND_US
    assert set(second.values) == {"timestamp", "well_id", "motor_current"}


def test_csv_cells_that_json_has_no_number_for_stay_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "well_id,timestamp,pip,motor_temp", "W,2025-01-01T12:00:00Z,NaN,1e999")
    (reading,) = read(path)
    assert reading.values["pip"] == "NaN"
    assert reading.values["motor_temp"] == "1e999"


def test_csv_with_quotes_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.CSV"
    path.write_bytes(b'\xef\xbb\xbfwell_id,timestamp,pip,note\r\nW,2025-01-01T12:00:00Z,1,"two\r\nlines"\r\n\r\n')
    (reading,) = read(path)
    assert reading.values["note"] == "two\r\nlines"


def test_json_lines_keep_their_bytes(tmp_path: Path) -> None:
    line = '{"timestamp": 1735732800000,  "well_id": "W", "pip": 512.50}'
    (reading,) = read(write(tmp_path, "a.jsonl", "", line))
    assert reading.payload == line.encode()
    assert (reading.well_id, reading.timestamp_us, reading.line) == ("W", NOON_US, 2)


@pytest.mark.parametrize(
    "value", ["2025-01-01T12:00:00Z", "2025-01-01 12:00:00+00:00", 1_735_732_800, 1_735_732_800_000, "1735732800"]
)
def test_timestamps(value: object) -> None:
    assert to_timestamp_us(value) == NOON_US


def test_timestamps_mean_what_they_mean_to_decoding() -> None:
    decoder = Decoder(["esp/{well_id}/telemetry"])
    for value in ("2025-01-01T12:00:00.123456789Z", 1735732800.25, 1735732800250, "2025-01-01T12:00:00-05:30"):
        payload = json.dumps({"timestamp": value, "pip": 1}).encode()
        (reading,) = decoder.decode("esp/W/telemetry", payload, NOON_US + 86_400 * SECOND_US).readings
        assert to_timestamp_us(value) == reading.timestamp_us


def test_naive_timestamps_are_refused_unless_told(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "well_id,timestamp,pip", "W,2025-01-01T12:00:00,1")
    with pytest.raises(RecordingError, match="has no offset from UTC"):
        read(path)
    (reading,) = read_recording(path, naive_is_utc=True)
    assert reading.timestamp_us == NOON_US


@pytest.mark.parametrize(
    ("name", "line", "why"),
    [
        ("a.csv", "W,2025-01-01T12:00:00Z", "2 cells under 3 columns"),
        ("a.csv", "W,yesterday,1", "timestamp 'yesterday'"),
        ("a.csv", "W,,1", "it has no timestamp"),
        ("a.csv", ",2025-01-01T12:00:00Z,1", "well_id None is none"),
        ("a.csv", "W 1,2025-01-01T12:00:00Z,1", "well_id 'W 1' is none"),
        ("a.jsonl", "{", "Expecting property name"),
        ("a.jsonl", "[1]", "it is no JSON object"),
        ("a.jsonl", "[" * 100_000, "recursion"),
        ("a.jsonl", '{"well_id": "W", "timestamp": true}', "it has no timestamp"),
        ("a.jsonl", '{"well_id": 7, "timestamp": 1735732800}', "well_id 7 is none"),
    ],
)
def test_a_line_that_is_no_reading_is_named_and_costs_itself(tmp_path: Path, name: str, line: str, why: str) -> None:
    if name == "a.csv":
        path = write(tmp_path, name, "well_id,timestamp,pip", line, "W,2025-01-01T12:00:00Z,1")
    else:
        path = write(tmp_path, name, "", line, '{"well_id": "W", "timestamp": 1735732800}')
    with pytest.raises(RecordingError, match=rf"{name}:2: .*{why}"):
        read(path)
    faults: list[RecordingError] = []
    assert [reading.line for reading in read_recording(path, on_error=faults.append)] == [3]
    assert [(fault.path, fault.line) for fault in faults] == [(path, 2)]


@pytest.mark.parametrize(
    "header", ["", "well_id,pip", "timestamp,pip", "well_id,timestamp,pressure", "well_id,timestamp,pip,pip"]
)
def test_a_header_that_cannot_be(tmp_path: Path, header: str) -> None:
    path = write(tmp_path, "a.csv", header)
    with pytest.raises(RecordingError, match=r"a\.csv:1: the header must name well_id, timestamp"):
        read(path)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"a\.xlsx: files of this kind are not read; allowed are \.csv"):
        read(write(tmp_path, "a.xlsx"))


def test_a_csv_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"well_id,timestamp,pip\nW,2025-01-01T12:00:00Z,1\n\xff\xfe,,\n")
    with pytest.raises(RecordingError, match=r"a\.csv:\d+: .*utf-8"):
        read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.csv")


@pytest.mark.skipif(not ESP01.exists(), reason="the recording of the real pump is not on this machine")
def test_the_real_pump() -> None:
    readings = read(ESP01)
    assert len(readings) == 34_560
    assert {reading.well_id for reading in readings} == {"ESP01"}
    assert [reading.timestamp_us for reading in readings] == sorted(reading.timestamp_us for reading in readings)
    assert readings[0].values["pip"] == 673.71
