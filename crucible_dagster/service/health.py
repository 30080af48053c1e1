"""Whether a code server has its definitions: `python -m crucible_dagster.service.health --port 4000`.

`dagster api grpc-health-check` only checks the port. The port belongs to a proxy, which goes on answering when the
process with the definitions is gone, and does not start another one. So this check asks for the definitions. If that
process is gone, it has the proxy start a new one. Runs in flight are not affected: they have their own processes.
"""

from __future__ import annotations

import contextlib
import sys

import click

from crucible_dagster.service.code_servers import reload_code_server, state_of_code_server

__all__ = ["main"]


@click.command()
@click.option("-h", "--host", default="127.0.0.1", show_default=True)
@click.option("-p", "--port", type=int, required=True)
def main(host: str, port: int) -> None:
    """Exit with 0 if the code server has definitions, else with 1; if their process is gone, have a new one started."""
    state = state_of_code_server(host, port)
    if state.problem is None:
        return
    click.echo(f"the code server on {host}:{port} has no definitions: {state.problem}", err=True)
    if state.is_lost:
        with contextlib.suppress(Exception):  # the next check says whether it worked
            reload_code_server(host, port)
        click.echo("it was told to load them again", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
