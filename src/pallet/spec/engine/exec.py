"""Exec instances: a further process in a running container.

Spec   Engine API ContainerExec, ExecStart, ExecInspect.
"""

from __future__ import annotations

from msgspec import UNSET, Struct, field

from pallet.spec.engine.wire import Maybe


class ExecConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Body of exec create. ``console_size`` is height, width."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: Maybe[tuple[int, int]] = UNSET
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | None = None


class ExecStartConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Body of exec start."""

    detach: bool = False
    tty: bool = False
    console_size: Maybe[tuple[int, int]] = UNSET


class ExecProcess(Struct, frozen=True, kw_only=True):
    """The process of an exec inspect."""

    tty: bool
    entrypoint: str
    arguments: list[str] | None
    privileged: Maybe[bool] = UNSET
    user: Maybe[str] = UNSET


class ExecInspect(Struct, frozen=True, kw_only=True, rename="pascal"):
    """State of an exec; ``exit_code`` is None until it ended."""

    id: str = field(name="ID")
    running: bool
    exit_code: int | None
    process_config: ExecProcess
    open_stdin: bool
    open_stderr: bool
    open_stdout: bool
    can_remove: bool
    container_id: str = field(name="ContainerID")
    detach_keys: str = ""
    pid: int
