"""Readings from columns: rows of which nothing is odd, judged all at once.

What is judged here is judged as `core.decode` judges it, and nothing is refused here: a row with anything that is not
plain is named, for the decoder to judge it. This is what makes bulk loads fast: an eighth of the time a row.
"""

from collections.abc import Callable, Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any

from esp_ingestd.core.decode import EARLIEST_US, LATEST_AHEAD_US
from esp_ingestd.core.reading import CHANNELS, WELL_ID_PATTERN, Reading

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch


def read_columns(
    columns: "RecordBatch", received_us: int, units_of: Callable[[str], Mapping[str, str]]
) -> tuple[list[Reading], list[int]]:
    """The readings of all rows, and the places, rising, of those that are odd.

    Args:
        columns: `well_id` (text), `timestamp` (a time; without a zone it is UTC), channels (double precision).
        received_us: when they are taken to have arrived, microseconds since 1970 UTC.
        units_of: a well's channel -> unit where it is not ours; rows of such a well are odd.

    Returns:
        One reading a row. What stands at the place of an odd one means nothing.
    """
    import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
    from pyarrow import compute  # noqa: PLC0415 - likewise

    well_ids = columns.column("well_id")
    moments = columns.column("timestamp")
    times_us = moments.cast(pa.timestamp("us", moments.type.tz)).cast(pa.int64())
    converted = [well_id for well_id in well_ids.unique().to_pylist() if well_id and units_of(well_id)]
    channels: list[Array[Any]] = []
    is_plain: list[Array[Any]] = [
        compute.match_substring_regex(well_ids, WELL_ID_PATTERN),
        compute.invert(compute.is_in(well_ids, pa.array(converted, pa.string()))),
        compute.greater_equal(times_us, EARLIEST_US),
        compute.less_equal(times_us, received_us + LATEST_AHEAD_US),
    ]
    has_channel = pa.array([False]).take(pa.array([0] * columns.num_rows))
    for channel in CHANNELS:
        if channel.name not in columns.schema.names:
            channels.append(repeat(None))
            continue
        values = columns.column(channel.name)
        channels.append(values.to_pylist())
        has_channel = compute.or_(has_channel, values.is_valid())
        is_plain += (
            compute.fill_null(compute.greater_equal(values, channel.low), True),  # noqa: FBT003 - their signature
            compute.fill_null(compute.less_equal(values, channel.high), True),  # noqa: FBT003 - likewise
        )
    plain = has_channel
    for each in is_plain:
        plain = compute.and_kleene(plain, each)
    odd = compute.indices_nonzero(compute.invert(compute.fill_null(plain, False))).to_pylist()  # noqa: FBT003 - likewise
    rows = zip(
        well_ids.to_pylist(), times_us.to_pylist(), *channels, repeat(None), repeat(None), repeat(received_us)
    )  # one reading a row: `repeat` has no end, so no strict
    return list(map(Reading._make, rows)), odd
