"""Classic BPF filters on sockets.

Owns   SO_ATTACH_FILTER.
Runs   anywhere.
Spec   socket(7), <linux/filter.h>.
"""

from __future__ import annotations

import ctypes
import socket
import struct

SO_ATTACH_FILTER = 26
_BPF_RET_K = 0x06


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def drop_all(sock: socket.socket) -> None:
    """Let no packet reach ``sock``: it only keeps its port. The kernel copies the program."""
    code = ctypes.create_string_buffer(struct.pack("=HBBI", _BPF_RET_K, 0, 0, 0))
    program = _Program(1, ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(program))
