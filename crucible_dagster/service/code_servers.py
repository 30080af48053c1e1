"""Requests to a code server: for its definitions, and to load them again.

They use plain gRPC, not Dagster's client: every 30 seconds, a check that imports Dagster would take nine times as long.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import grpc

__all__ = ["CodeServerState", "reload_code_server", "state_of_code_server"]

# From Dagster's protocol, which allows different versions of client and server.
_SERVICE = "/api.DagsterApi/"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
# The proxy's messages if the process for the definitions ended, or hung, before it had loaded them.
_NOT_STARTED = ("gRPC server exited with return code", "Timed out waiting for gRPC server to start")


@dataclass(frozen=True, slots=True)
class CodeServerState:
    """The answer of a code server to a request for its definitions."""

    problem: str | None
    """Why it has no definitions; None if it has them."""
    is_lost: bool = False
    """Whether it has none because the process that had them is gone."""


def state_of_code_server(host: str, port: int) -> CodeServerState:
    """Whether the code server has definitions, not just an open port; it has 15 seconds to answer."""
    try:
        answer = _ask(host, port, "ListRepositories", timeout=15)
    except grpc.RpcError as error:
        said = f"{error.code().name}: {error.details()}"
        # This comes from the proxy; its answer contains that of the process behind it.
        return CodeServerState(said, is_lost="UNAVAILABLE" in said)
    found = json.loads(_text(answer))
    problem = found.get("message") if found.get("__class__") == "SerializableErrorInfo" else None
    return CodeServerState(problem, is_lost=problem is not None and any(one in problem for one in _NOT_STARTED))


def reload_code_server(host: str, port: int) -> None:
    """Have the code server load its definitions again, in a new process; runs are not affected.

    Raises grpc.RpcError; always if the old process is gone, because the server then tries to end it.
    """
    _ask(host, port, "ReloadCode", timeout=10)


def _ask(host: str, port: int, method: str, timeout: float) -> bytes:
    """The raw bytes of the reply to a request without fields."""
    with grpc.insecure_channel(f"{host}:{port}", options=_OPTIONS) as channel:
        reply: bytes = channel.unary_unary(_SERVICE + method)(b"", timeout=timeout)
    return reply


def _text(reply: bytes) -> bytes:
    """The only field of a reply, a JSON text. It comes after one byte for its number, and the bytes of its length."""
    start = 1
    while reply[start] & 0x80:
        start += 1
    return reply[start + 1 :]
