"""The daemon and what it stands on: run it, check its settings, make its schema, keep its store, look at its spool."""

from typing import TYPE_CHECKING, Annotated

import typer

from esp_ingestd.cli.options import ConfigOption, load, loop_factory, refuse

if TYPE_CHECKING:
    from esp_ingestd.config import Settings

spool = typer.Typer(name="spool", help="Look at what is kept on disk while the database is away.", no_args_is_help=True)


def run(config: ConfigOption) -> None:
    """Run the daemon: ingest, diagnose, alert, until SIGTERM or Ctrl-C. SIGHUP reads tree and wells file anew."""
    import asyncio
    import logging
    import signal
    import sys

    from esp_ingestd.service import Service
    from esp_ingestd.telemetry import PatientLog, set_up_log

    # Until the service listens for it: what a reload asks for, a start does anyway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = load(config)
    log = PatientLog(sys.stderr.fileno())
    set_up_log(settings.log.level, settings.log.format, log)

    async def serve() -> None:
        await Service(settings, config, log).run()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(serve())
        except ExceptionGroup:  # one entry of the log, which waits for nobody
            logging.getLogger(__name__).critical("a task ended, and so does the daemon", exc_info=True)
            raise typer.Exit(1) from None


def check(
    config: ConfigOption,
    *,
    connect: Annotated[
        bool, typer.Option("--connect", help="Also reach the broker and the database, whose edition it names.")
    ] = False,
) -> None:
    """Check the configuration, the wells file and the decision tree, and print the effective settings."""
    from esp_ingestd.service import load_diagnosis

    settings = load(config)
    wells, tree = load_diagnosis(settings)
    for line in settings.effective():
        typer.echo(line)
    typer.echo(f"# decision tree {tree.version}; {len(wells.listed)} wells listed")
    for well_id, well in {"[defaults]": wells.defaults, **wells.listed}.items():
        for diagnosis, why in tree.off_for(well).items():
            typer.echo(f"# {well_id}: {diagnosis} is off: {why}")
    if settings.archive.url:
        _check_archive(settings.archive.url)
    if connect:
        _check_connections(settings)


def _check_archive(url: str) -> None:
    from esp_ingestd.archive import ArchiveError, require_extra

    try:
        require_extra(url)
    except ArchiveError as error:
        refuse(str(error))


def _check_connections(settings: "Settings") -> None:
    import asyncio

    from esp_ingestd.database import Database
    from esp_ingestd.errors import Unavailable
    from esp_ingestd.mqtt import Mqtt
    from esp_ingestd.telemetry import set_up_log

    set_up_log("warning", "text")

    async def reach() -> list[str]:
        faults = []
        # Another client id: the daemon's own session is not to be taken over.
        broker = Mqtt(settings.mqtt, client_id=f"{settings.mqtt.client_id}-check", keep_session=False)
        database = Database(settings.database)
        for name, part in (("broker", broker), ("database", database)):
            try:
                edition = await part.connect()
                typer.echo(f"# {name} {part.address}: reached" + (f", {edition}" if edition else ""))
            except Unavailable as unavailable:
                faults.append(str(unavailable))
            await part.close()
        return faults

    if faults := asyncio.run(reach()):
        for fault in faults:
            typer.echo(fault, err=True)
        raise typer.Exit(1)


def migrate(config: ConfigOption) -> None:
    """Create or upgrade the database schema; safe to repeat. Say what was done, and the database's edition."""
    import asyncio

    from esp_ingestd import database

    edition, applied = asyncio.run(database.migrate(load(config).database))
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("nothing to do, the schema is up to date")
    typer.echo(f"edition: {edition}")


def maintenance(config: ConfigOption) -> None:
    """One pass over the store, as the daemon's maintenance does it: rollups, archive, verification, retention.

    For cron or a timer; safe beside the daemon and beside itself. What another one is at is left to it.
    """
    import asyncio

    from esp_ingestd.maintenance import EVERYTHING, run_steps
    from esp_ingestd.telemetry import set_up_log

    settings = load(config)
    set_up_log("warning", settings.log.format)
    steps = asyncio.run(run_steps(settings, EVERYTHING))
    for step in steps:
        for line in step.lines():
            typer.echo(line)
    if any(step.faults for step in steps):
        raise typer.Exit(1)


@spool.command("status")
def spool_status(config: ConfigOption) -> None:
    """Say how much is in the spool, how old the oldest reading is, and how much room is left."""
    import time

    from esp_ingestd.core.reading import to_iso
    from esp_ingestd.spool import read_status

    settings = load(config).spool
    status = read_status(settings)
    typer.echo(f"directory: {settings.directory}")
    typer.echo(f"state: {'holds readings for the database' if status.batches else 'empty'}")
    typer.echo(f"readings: {status.readings} in {status.batches} batches")
    typer.echo(f"size: {status.size_bytes} bytes of at most {settings.max_bytes}")
    if status.oldest_us is not None:
        age_s = time.time() - status.oldest_us / 1e6
        typer.echo(f"oldest: arrived {to_iso(status.oldest_us)}, {age_s:.0f} s ago")
