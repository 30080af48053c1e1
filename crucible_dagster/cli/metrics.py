"""The command that prints or serves figures for Prometheus: `crucible metrics`."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import click

from crucible_core import CrucibleError
from crucible_core.cli.common import input_errors
from crucible_dagster.cli.home import existing_home
from crucible_dagster.dagster_internals import open_as_it_is
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.upkeep.metrics import CONTENT_TYPE, Meter

__all__ = ["MetricsServer", "metrics"]

STORE_EVERY = 300.0


@click.command()
@click.option("--port", type=click.IntRange(1, 65_535), help="Serve them at /metrics on this port, until Ctrl-C.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to serve them on.")
@click.option(
    "--store-every",
    type=click.FloatRange(min=0),
    default=STORE_EVERY,
    show_default=True,
    help="Seconds between two measurements of the store's size; each of them lists all its files.",
)
def metrics(port: int | None, host: str, store_every: float) -> None:
    """Print figures of the instance for Prometheus, or serve them.

    The instance is that of DAGSTER_HOME, or the one under .crucible/. It only reads. Anyone who can reach the port sees
    the names of experiments and stages, and how long they take.
    """
    with input_errors(), open_as_it_is(str(existing_home())) as instance:
        meter = Meter(instance, open_store(instance), store_every)
        if port is None:
            click.echo(meter.text(), nl=False)
            return
        try:
            server = MetricsServer((host, port), meter)
        except OSError as error:
            raise CrucibleError(f"port {port} of {host} cannot be used ({error.strerror}): choose another") from None
        with server:
            click.echo(f"http://{host}:{port}/metrics", err=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()


class MetricsServer(ThreadingHTTPServer):
    """Answers only GET /metrics."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], meter: Meter) -> None:
        super().__init__(address, _Handler)
        self.meter = meter
        self.one_at_a_time = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = 10  # so that a silent client does not hold a thread
    server_version = "crucible"
    sys_version = ""

    def do_GET(self) -> None:  # the name is http.server's
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        with self.server.one_at_a_time:
            body = self.server.meter.text().encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # it would print a line for each request
        pass
