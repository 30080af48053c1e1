"""Whether a code server has its definitions: `python -m crucible_dagster.service.health --port 4000`.

`dagster api grpc-health-check` asks for the port. The port is that of a proxy, which goes on answering when the process
that has the definitions is gone, and does not start another one. So this asks for the definitions and, if that process
is gone, has the proxy start one. Runs in flight are not affected: they are processes of their own.
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
    """Exit with 0 if the code server has definitions, else with 1; if their process is gone, have it started again."""
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
