"""How a start fails: the step, the kernel's answer, and Docker's words for both.

Owns   ``StartFailureError`` and the rule from an error's text to 126, 127 and 128.
Runs   in a container's init and its shim.
Spec   semantics "lifecycle exit codes"; the words are those of dockerd with runc.
"""

from __future__ import annotations

import os

_MOUNT_HINT = (": Are you trying to mount a directory onto a file (or vice-versa)? "
               "Check if the specified host path exists and is the expected type")


class StartFailureError(Exception):
    """A step of a start failed.

    Attributes:
        message: words that follow "unable to start container process: ".
        plain: ``message`` is the whole text: what dockerd finds out before it calls its runtime.
        native: False when ``message`` is the error of a runtime program.
    """

    def __init__(
        self, message: str, *, call: str = "", code: int = 0, path: str = "", plain: bool = False,
        native: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.call = call
        self.code = code
        self.path = path
        self.plain = plain
        self.native = native

    @classmethod
    def of(cls, error: OSError, doing: str) -> StartFailureError:
        """Return the failure of a step that met ``error`` while ``doing`` something."""
        call = getattr(error, "call", "")
        return cls(f"error during container init: {doing}: {reason(error)}", call=call,
                   code=error.errno or 0, path=str(error.filename or ""))


def reason(error: OSError) -> str:
    """The kernel's reason as Go words it: lower case."""
    return os.strerror(error.errno or 0).lower()


CONTAINER_PREFIX = ("failed to create task for container: failed to create shim task: "
                    "OCI runtime create failed: ")
EXEC_PREFIX = "OCI runtime exec failed: exec failed: "
NATIVE_PREFIX = "unable to start container process: "


def outcome(text: str) -> tuple[str, int]:
    """Return the client's text and the exit code 126, 127 or 128 that Docker stores for it."""
    lowered = text.lower()
    code = 128
    if "executable file not found" in lowered or "no such file or directory" in lowered:
        code = 127
    if "permission denied" in lowered or "is a directory" in lowered:
        code = 126
    if "not a directory" in lowered:
        return text + _MOUNT_HINT, 127
    return text, code
