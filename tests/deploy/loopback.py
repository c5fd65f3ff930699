"""Ports on loopback, for programs that are told theirs beforehand."""

import contextlib
import random
import socket


def free_ports(count):
    """Free on all addresses, and below the range that the system gives to others."""
    found = []
    while len(found) < count:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe:
            with contextlib.suppress(OSError):
                probe.bind(("0.0.0.0", port))
                found.append(port)
    return found
