"""Exceptions as data, on their way to the daemon.

Owns   the translation; ``supervisor/failures.py`` has the way back.
Runs   in shims and workers.
Spec   style.md section 5: errors cross the zygote pipe as data, never as text only.
"""

from __future__ import annotations

from pallet.errors import PalletError
from pallet.runtime import failure
from pallet.runtime.failure import StartFailureError
from pallet.zygote.messages import Failure


def of_start(error: Exception, *, is_container: bool) -> Failure:
    """Return the answer to a start that failed, in Docker's words."""
    if isinstance(error, StartFailureError):
        if error.plain:
            return Failure(kind="SystemFailureError", message=error.message, call=error.call,
                           errno=error.code, path=error.path,
                           exit_code=128 if is_container else 126)
        text = failure.NATIVE_PREFIX + error.message if error.native else error.message
        call, code, path = error.call, error.code, error.path
    else:
        text = f"{failure.NATIVE_PREFIX}error during container init: {_text(error)}"
        call, code, path = _kernel(error)
    prefix = failure.CONTAINER_PREFIX if is_container else failure.EXEC_PREFIX
    message, exit_code = failure.outcome(f"{prefix}{text}: unknown")
    kind = "SystemFailureError" if exit_code == 128 else "InvalidParameterError"
    return Failure(kind=kind, message=message, call=call, errno=code, path=path,
                   exit_code=exit_code)


def of_worker(error: BaseException) -> Failure:
    """Return the answer of a worker that raised ``error``; its kind and its text are kept."""
    call, code, path = _kernel(error)
    kind = next((base.__name__ for base in type(error).__mro__
                 if base.__module__ == PalletError.__module__ and issubclass(base, PalletError)),
                "SystemFailureError")
    return Failure(kind=kind, message=_text(error), call=call, errno=code, path=path,
                   detail=str(getattr(error, "detail", "")))


def of_loss(error: OSError) -> Failure:
    """Return the answer to a request whose descriptors did not come."""
    call, code, path = _kernel(error)
    return Failure(kind="SystemFailureError", message=str(error), call=call, errno=code, path=path, exit_code=128)


def _text(error: BaseException) -> str:
    if isinstance(error, PalletError) or type(error).__module__.startswith("pallet."):
        return str(error)
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return f"{failure.reason(error)}{where}"
    return f"{type(error).__name__}: {error}"


def _kernel(error: BaseException) -> tuple[str, int, str]:
    if isinstance(error, OSError):
        return getattr(error, "call", ""), error.errno or 0, str(error.filename or "")
    return "", 0, ""
