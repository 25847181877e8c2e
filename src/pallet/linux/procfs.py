"""Facts about processes from /proc.

Owns   the parsing of /proc/<pid>/stat and friends.
Runs   anywhere.
Spec   proc(5).
"""

from __future__ import annotations


def start_time(pid: int) -> int:
    """Clock ticks since boot at which ``pid`` began: tells a process from a later one of its pid.

    Returns:
        0 when there is no such process.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.rpartition(b")")[2].split()[19])


def is_alive(pid: int, started: int) -> bool:
    """True when ``pid`` is still the process that began at ``started`` and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(fields[19]) == started and fields[0] not in {b"Z", b"X"}
