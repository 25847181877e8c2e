"""``pallet info``."""

from __future__ import annotations

import sys

from pallet.cli.commands.version import client_version, formatted
from pallet.cli.errors import CommandError
from pallet.cli.format.units import binary_size
from pallet.cli.session import out, warn
from pallet.client.errors import ConnectionFailedError, DaemonError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

INFO_FLAGS: Table = (("format", "f", "string", "Format output: json, or a Go template"),)


def info(session: Session, flags: Flags) -> int:
    """``pallet info``: the client alone, and exit code 1, when no daemon answers."""
    server: dict[str, Any] = {}
    problem = ""
    try:
        server = session.engine.json("GET", "/info")
    except (ConnectionFailedError, DaemonError, ProtocolError) as error:
        problem = str(error)
    client = {"Debug": session.options["debug"], **client_version(session, server),
              "Plugins": [], "Warnings": None}
    if flags["format"]:
        document = {**server, "ClientInfo": client}
        if problem:
            document["ServerErrors"] = [problem]
        formatted(flags["format"], document)
    else:
        out(f"Client:\n Version:    {client['Version']}\n Context:    {client['Context']}\n"
            f" Debug Mode: {_word(client['Debug'])}\n\nServer:")
        if server:
            _print_server(server)
    if problem:
        sys.stdout.flush()
        warn(problem if flags["format"] else f"{problem}\nerrors pretty printing info")
        raise CommandError("")
    return 0


def _word(value: object) -> str:
    return "true" if value else "false"


def _print_server(server: dict[str, Any]) -> None:
    lines = [
        f" Containers: {server['Containers']}", f"  Running: {server['ContainersRunning']}",
        f"  Paused: {server['ContainersPaused']}", f"  Stopped: {server['ContainersStopped']}",
        f" Images: {server['Images']}", f" Server Version: {server.get('ServerVersion', '')}",
        f" Storage Driver: {server.get('Driver', '')}"]
    lines += [f"  {name}: {value}" for name, value in server.get("DriverStatus") or ()]
    for label, key in (("Logging Driver", "LoggingDriver"), ("Cgroup Driver", "CgroupDriver"),
                       ("Cgroup Version", "CgroupVersion")):
        if server.get(key):
            lines.append(f" {label}: {server[key]}")
    lines += _plugins(server.get("Plugins") or {})
    lines.append(f" Swarm: {(server.get('Swarm') or {}).get('LocalNodeState', 'inactive')}")
    runtimes = sorted(server.get("Runtimes") or {})
    if runtimes:
        lines += [f" Runtimes: {' '.join(runtimes)}",
                  f" Default Runtime: {server.get('DefaultRuntime', '')}"]
    lines.append(f" Init Binary: {server.get('InitBinary', '')}")
    for label, key in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"),
                       ("init", "InitCommit")):
        commit = server.get(key) or {}
        if key in server and (commit.get("ID") or label == "init"):
            lines.append(f" {label} version: {commit.get('ID', '')}")
    lines += _security(server.get("SecurityOptions") or ())
    for label, key in (("Kernel Version", "KernelVersion"), ("Operating System",
                       "OperatingSystem"), ("OSType", "OSType"), ("Architecture", "Architecture"),
                       ("CPUs", "NCPU")):
        lines.append(f" {label}: {server.get(key, '')}")
    lines.append(f" Total Memory: {binary_size(server.get('MemTotal', 0))}")
    for label, key in (("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir")):
        lines.append(f" {label}: {server.get(key, '')}")
    lines.append(f" Debug Mode: {_word(server.get('Debug'))}")
    if server.get("Debug"):
        lines += [f"  File Descriptors: {server.get('NFd', 0)}",
                  f"  Goroutines: {server.get('NGoroutines', 0)}",
                  f"  System Time: {server.get('SystemTime', '')}",
                  f"  EventsListeners: {server.get('NEventsListener', 0)}"]
    for label, key in (("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"),
                       ("No Proxy", "NoProxy")):
        if server.get(key):
            lines.append(f" {label}: {server[key]}")
    if server.get("Labels"):
        lines += [" Labels:", *(f"  {label}" for label in server["Labels"])]
    lines.append(f" Experimental: {_word(server.get('ExperimentalBuild'))}")
    lines += _registries(server.get("RegistryConfig") or {})
    lines.append(f" Live Restore Enabled: {_word(server.get('LiveRestoreEnabled'))}")
    if server.get("DefaultAddressPools"):
        lines.append(" Default Address Pools:")
        lines += [f"   Base: {pool['Base']}, Size: {pool['Size']}"
                  for pool in server["DefaultAddressPools"]]
    if server.get("FirewallBackend"):
        lines.append(f" Firewall Backend: {server['FirewallBackend'].get('Driver', '')}")
    out("\n".join(lines))
    out("")
    sys.stdout.flush()
    for warning in server.get("Warnings") or ():
        warn(warning)


def _plugins(plugins: dict[str, Any]) -> list[str]:
    lines = [" Plugins:"]
    lines += [f"  {kind}: {' '.join(plugins[kind])}"
              for kind in ("Volume", "Network", "Authorization", "Log") if plugins.get(kind)]
    return lines


def _security(options: list[str] | tuple[str, ...]) -> list[str]:
    if not options:
        return []
    lines = [" Security Options:"]
    for option in options:
        parts = dict(part.partition("=")[::2] for part in option.split(","))
        lines.append(f"  {parts.pop('name', option)}")
        lines += [f"   {key.capitalize()}: {value}" for key, value in parts.items()]
    return lines


def _registries(config: dict[str, Any]) -> list[str]:
    lines = []
    insecure = [name for name, index in (config.get("IndexConfigs") or {}).items()
                if not index.get("Secure")]
    insecure += config.get("InsecureRegistryCIDRs") or []
    if insecure:
        lines += [" Insecure Registries:", *(f"  {name}" for name in insecure)]
    if config.get("Mirrors"):
        lines += [" Registry Mirrors:", *(f"  {mirror}" for mirror in config["Mirrors"])]
    return lines
