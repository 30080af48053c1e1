"""What a code server is asked: for its definitions, and to load them again.

Over gRPC as it is, without Dagster's client: a check that imports Dagster takes nine times as long, every 30 seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import grpc

__all__ = ["CodeServerState", "reload_code_server", "state_of_code_server"]

# Of Dagster's protocol, whose client and server may be of different versions.
_SERVICE = "/api.DagsterApi/"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
# What the proxy says when the process that is to have the definitions ended, or hung, before it had them.
_NOT_STARTED = ("gRPC server exited with return code", "Timed out waiting for gRPC server to start")


@dataclass(frozen=True, slots=True)
class CodeServerState:
    """What a code server answers when it is asked for its definitions."""

    problem: str | None
    """Why it has none; None if it has."""
    is_lost: bool = False
    """Whether that is because there is no process that has them."""


def state_of_code_server(host: str, port: int) -> CodeServerState:
    """Whether the code server has definitions, not only an open port; it is given 15 seconds to answer."""
    try:
        answer = _ask(host, port, "ListRepositories", timeout=15)
    except grpc.RpcError as error:
        said = f"{error.code().name}: {error.details()}"
        # From the proxy, whose own answer then holds that of the process behind it.
        return CodeServerState(said, is_lost="UNAVAILABLE" in said)
    found = json.loads(_text(answer))
    problem = found.get("message") if found.get("__class__") == "SerializableErrorInfo" else None
    return CodeServerState(problem, is_lost=problem is not None and any(one in problem for one in _NOT_STARTED))


def reload_code_server(host: str, port: int) -> None:
    """Have the code server load its definitions again, in a new process; runs are not affected.

    Raises grpc.RpcError: always, if the old process is gone, because the server then tries to end it.
    """
    _ask(host, port, "ReloadCode", timeout=10)


def _ask(host: str, port: int, method: str, timeout: float) -> bytes:
    """The reply to a request without fields, as it is on the wire."""
    with grpc.insecure_channel(f"{host}:{port}", options=_OPTIONS) as channel:
        reply: bytes = channel.unary_unary(_SERVICE + method)(b"", timeout=timeout)
    return reply


def _text(reply: bytes) -> bytes:
    """The one field of a reply, a text in JSON: behind the byte of its number, and those of its length."""
    start = 1
    while reply[start] & 0x80:
        start += 1
    return reply[start + 1 :]
