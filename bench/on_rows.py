"""What benchmarks on rows in a database share: their options, and a database of their own for the time of the run."""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from esp_ingestd import embedded


def run_on_rows(says: str | None, measure: Callable[[Path, str, int], None], *, rows: int, what: str) -> None:
    """Find a folder and a database, and measure.

    Args:
        says: what --help says.
        measure: prints the table, given a folder, the DSN of an empty database, and how many rows.
        rows: how many by default.
        what: they are.
    """
    parser = argparse.ArgumentParser(description=says, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=rows, help=f"{what} (default {rows})")
    parser.add_argument("--dsn", help="an empty database (default: one of its own, for the time of the run)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        print(f"{os.cpu_count()} cores shared by program and database; {options.rows} {what}")
        if options.dsn:
            print(f"database at {urlsplit(options.dsn).hostname}")
            measure(folder, options.dsn, options.rows)
        else:
            with embedded.Database(folder / "database") as database:
                print(f"{database.edition_hint}, {database.source}")
                measure(folder, database.dsn, options.rows)
