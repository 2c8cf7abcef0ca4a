"""A socket to serve on, and the secret that requests from elsewhere must bring."""

from __future__ import annotations

import secrets
import socket

LOOPBACK = "127.0.0.1", "localhost", "::1"
LOOPBACK_NAMES = [*LOOPBACK, "[::1]"]
"""Host headers of requests to a loopback address."""


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Args:
        host: interface.
        port: 0: any that is free.

    Raises:
        OSError: if the port can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By the protocol asyncio knows to set TCP_NODELAY.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a program that starts again takes the port at once
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise OSError(
            f"can't listen on port {port} of {host}: {error.strerror or error}; choose another port, or 0 for any that "
            f"is free"
        ) from error
    return listener


def address_of(listener: socket.socket, host: str) -> str:
    """Returns HOST:PORT under which a listening socket is reached, by the machine's name if it listens to all."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{name}:{listener.getsockname()[1]}"


def same(given: str, token: str) -> bool:
    """Returns whether a request may pass: it brings the token, or there is none."""
    return secrets.compare_digest(given.encode(), token.encode()) if token else True
