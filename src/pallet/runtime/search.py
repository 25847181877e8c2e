"""Finding the program to execute, inside the container.

Owns   the PATH look-up and the words of its failures.
Runs   in a container's init: root, cwd and environment are the container's.
Spec   the rules of Go's exec.LookPath, which runc follows; semantics "lifecycle exit codes".
"""

from __future__ import annotations

import errno
import os
import stat

from pallet.runtime.failure import StartFailureError, reason


def find_program(name: str, path: str) -> str:
    """Return the path to execute for ``name``.

    Args:
        path: the value of PATH in the container's environment.

    Raises:
        StartFailureError: not found (127), no execute bit or a directory (126).
    """
    if "/" in name:
        try:
            _check(name)
        except FileNotFoundError as error:
            raise _failure(name, f"stat {name}: {reason(error)}", error) from error
        except NotADirectoryError as error:
            raise _failure(name, f"stat {name}: {reason(error)}", error) from error
        except OSError as error:
            raise _failure(name, reason(error), error) from error
        return name
    if name:
        for directory in path.split(":"):
            candidate = f"{directory or '.'}/{name}"
            try:
                _check(candidate)
            except OSError:
                continue
            return candidate
    message = f'exec: "{name}": executable file not found in $PATH'
    raise StartFailureError(message, call="stat", code=errno.ENOENT, path=name)


def _check(path: str) -> None:
    mode = os.stat(path).st_mode
    # A directory is EISDIR to newer runcs; older docker CLIs only know 126 by "permission denied".
    if stat.S_ISDIR(mode) or not mode & 0o111:
        raise PermissionError(errno.EACCES, "", path)


def _failure(name: str, text: str, error: OSError) -> StartFailureError:
    return StartFailureError(f'exec: "{name}": {text}', call="stat", code=error.errno or 0,
                             path=name)
