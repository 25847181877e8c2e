"""Capabilities and seccomp on a real process."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from pallet.engine.security import default_capabilities
from pallet.errors import SyscallError
from pallet.linux import caps, seccomp
from pallet.runtime.cgroup import remove_parent
from pallet.runtime.seccomp_compile import compile_filter
from pallet.runtime.seccomp_default import default_profile
from pallet.runtime.seccomp_profile import Host, resolve
from pallet.spec.seccomp import LinuxSeccomp, Syscall
from tests.support import cgroups, isolation

pytestmark = pytest.mark.needs("root")
DEFAULT = caps.mask_of(default_capabilities())


def sets_of_self() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line[3:6]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}


def in_child(body: object) -> dict[str, int]:
    answer = cgroups.result_of(lambda: json.dumps(body()))  # type: ignore[operator]
    result: dict[str, int] = json.loads(answer)
    return result


def test_apply_sets_all_five() -> None:
    def body() -> dict[str, int]:
        caps.apply(bounding=DEFAULT, effective=DEFAULT, permitted=DEFAULT,
                   inheritable=1 << 5, ambient=1 << 5)
        return sets_of_self()

    assert in_child(body) == {"Bnd": DEFAULT, "Prm": DEFAULT, "Eff": DEFAULT, "Inh": 1 << 5,
                              "Amb": 1 << 5}


def test_a_user_keeps_ambient_capabilities_over_setuid() -> None:
    def body() -> dict[str, int]:
        wanted = caps.mask_of(["CAP_NET_BIND_SERVICE"])
        caps.drop_bounding(DEFAULT)
        caps.keep_caps(on=True)
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        caps.keep_caps(on=False)
        caps.set_caps(effective=wanted, permitted=wanted, inheritable=wanted)
        caps.raise_ambient(wanted)
        return sets_of_self()

    assert in_child(body) == {"Bnd": DEFAULT, "Prm": 1 << 10, "Eff": 1 << 10, "Inh": 1 << 10,
                              "Amb": 1 << 10}


def test_what_is_dropped_cannot_come_back() -> None:
    def body() -> str:
        caps.apply(bounding=0, effective=0, permitted=0, inheritable=0, ambient=0)
        try:
            caps.set_caps(effective=1, permitted=1, inheritable=0)
        except SyscallError as error:
            return str(error)
        return "came back"

    assert cgroups.result_of(body) == "capset: operation not permitted"


def test_capabilities_above_last_cap_are_no_error() -> None:
    def body() -> dict[str, int]:
        caps.apply(bounding=2**63 | DEFAULT, effective=2**63, permitted=2**63, inheritable=0,
                   ambient=0)
        return sets_of_self()

    assert in_child(body)["Eff"] == 0


_libc = ctypes.CDLL(None, use_errno=True)

# Name -> arguments that fail with something else than EPERM or ENOSYS, or do nothing, where the
# call is allowed.
PROBES: dict[str, tuple[int, ...]] = {
    "getpid": (), "getuid": (), "umask": (0o22,), "uname": (0,), "sysinfo": (0,), "times": (0,),
    "ptrace": (99, 0, 0, 0), "personality": (0xFFFFFFFF,), "chroot": (0,), "kcmp": (0, 0, 9, 0, 0),
    "mount": (0, 0, 0, 0, 0), "umount2": (0, 0), "unshare": (0,), "setns": (-1, 0),
    "pivot_root": (0, 0), "swapon": (0, 0), "swapoff": (0,), "sethostname": (0, 0),
    "bpf": (999, 0, 0), "perf_event_open": (0, 0, 0, 0, 0), "keyctl": (999, 0, 0, 0, 0),
    "add_key": (0, 0, 0, 0, 0), "request_key": (0, 0, 0, 0), "userfaultfd": (99,),
    "init_module": (0, 0, 0), "finit_module": (-1, 0, 0), "delete_module": (0, 0),
    "io_uring_setup": (0, 0), "io_setup": (0, 0), "clock_settime": (0, 0), "settimeofday": (0, 0),
    "quotactl": (0, 0, 0, 0), "acct": (1,), "syslog": (99, 0, 0), "vhangup": (),
    "open_by_handle_at": (-1, 0, 0), "name_to_handle_at": (-1, 0, 0, 0, 0), "mbind": (1, 0, 0, 0, 0),
    "move_pages": (0, 0, 0, 0, 0, 0), "kexec_load": (0, 0, 0, 99), "lookup_dcookie": (0, 0, 0),
    "seccomp": (99, 0, 0), "landlock_create_ruleset": (0, 0, 99), "process_vm_readv": (-1, 0, 0, 0, 0, 0),
    "clone3": (0, 0), "fsopen": (0, 0), "open_tree": (-1, 0, 0), "cachestat": (-1, 0, 0, 99),
}
MACHINE = r'''
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
answers = {}
for name, number, arguments in json.loads(sys.argv[1]):
    ctypes.set_errno(0)
    result = libc.syscall(number, *(ctypes.c_long(a) for a in arguments))
    answers[name] = errno.errorcode.get(ctypes.get_errno(), "") if result == -1 else "ok"
print(json.dumps(answers))
'''


def default_document() -> LinuxSeccomp:
    document = resolve(default_profile(), bounding=default_capabilities(), host=Host.here())
    assert document is not None
    return document


def numbered() -> list[tuple[str, int, tuple[int, ...]]]:
    library = seccomp.binding()
    found = [(name, int(library.resolve_syscall(library.Arch.NATIVE, name)), arguments)
             for name, arguments in PROBES.items() if name != "vhangup"]
    return [probe for probe in found if probe[1] >= 0]


def ask(probes: list[tuple[str, int, tuple[int, ...]]]) -> dict[str, str]:
    answers = {}
    for name, number, arguments in probes:
        ctypes.set_errno(0)
        result = _libc.syscall(number, *(ctypes.c_long(value) for value in arguments))
        answers[name] = errno.errorcode.get(ctypes.get_errno(), "") if result == -1 else "ok"
    return answers


@pytest.mark.needs("seccomp")
def test_default_filter_refuses_only_what_it_should() -> None:
    """Every probe answers as without a filter, or EPERM (ENOSYS for clone3) where refused."""
    document = default_document()
    allowed = {name for rule in document.syscalls if rule.action == "SCMP_ACT_ALLOW"
               for name in rule.names}
    bpf, probes = compile_filter(document), numbered()
    assert len(probes) > 40

    def unfiltered() -> str:
        isolation.unshare(isolation.CLONE_NEWUTS)  # sethostname is one of the probes
        return json.dumps(ask(probes))

    def filtered() -> str:
        isolation.unshare(isolation.CLONE_NEWUTS)
        # Capabilities stay: what fails, fails because of the filter.
        seccomp.load(bpf, seccomp.FLAG_SPEC_ALLOW)
        return json.dumps(ask(probes))

    free = json.loads(cgroups.result_of(unfiltered))
    bound = json.loads(cgroups.result_of(filtered))
    expected = {name: free[name] if name in allowed else "EPERM" for name, *_ in probes}
    expected["clone3"] = "ENOSYS"
    assert bound == expected


@pytest.mark.needs("seccomp", "runc", "busybox")
def test_runc_decides_as_the_native_filter(tmp_path: Path) -> None:
    """The OCI document under runc and the compiled filter give a process the same answers."""
    document, probes = default_document(), numbered()
    # Calls that libseccomp under runc may not know are another matter.
    probes = [probe for probe in probes if probe[0] != "cachestat"]
    names = default_capabilities()
    config = {
        "ociVersion": "1.0.2", "root": {"path": "rootfs"},
        "process": {"args": ["/usr/bin/python3", "-I", "-S", "-c", MACHINE, json.dumps(probes)],
                    "cwd": "/", "env": ["PATH=/usr/bin"], "user": {"uid": 0, "gid": 0},
                    "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names)},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                   {"destination": "/usr", "type": "bind", "source": "/usr",
                    "options": ["rbind", "ro"]}],
        "linux": {"namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")],
                  "cgroupsPath": f"{cgroups.PARENT}/t-runc", "seccomp": _plain(document)},
    }
    for name in ("usr", "proc"):
        (tmp_path / "rootfs" / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (tmp_path / "rootfs" / name).symlink_to(f"usr/{name}")
    (tmp_path / "config.json").write_text(json.dumps(config))
    try:
        done = subprocess.run(
            ["runc", "--root", f"{tmp_path}/state", "run", "--bundle", str(tmp_path), "t-seccomp"],
            capture_output=True, text=True, check=False, timeout=60)
    finally:
        remove_parent(cgroups.PARENT)
    assert done.returncode == 0, done.stderr
    bpf = compile_filter(document)

    def native() -> str:
        # As runc does it: without no_new_privs the filter needs CAP_SYS_ADMIN, so it comes first.
        seccomp.load(bpf)
        mask = caps.mask_of(names)
        caps.apply(bounding=mask, effective=mask, permitted=mask, inheritable=0, ambient=0)
        return json.dumps(ask(probes))

    assert json.loads(done.stdout) == json.loads(cgroups.result_of(native))


def _plain(document: LinuxSeccomp) -> object:
    import msgspec

    return json.loads(msgspec.json.encode(document))


def test_a_filter_needs_privilege_or_no_new_privs() -> None:
    bpf = compile_filter(LinuxSeccomp(default_action="SCMP_ACT_ALLOW"))

    def body(*, restrained: bool) -> str:
        caps.set_caps(effective=0, permitted=0, inheritable=0)
        if restrained:
            seccomp.set_no_new_privs()
        try:
            seccomp.load(bpf)
        except SyscallError as error:
            return str(error)
        return "loaded"

    assert cgroups.result_of(lambda: body(restrained=False)) == "seccomp: permission denied"
    assert cgroups.result_of(lambda: body(restrained=True)) == "loaded"


def test_killing_actions_kill() -> None:
    document = LinuxSeccomp(default_action="SCMP_ACT_ALLOW", syscalls=[
        Syscall(names=["getppid"], action="SCMP_ACT_KILL_PROCESS")])
    bpf = compile_filter(document)

    def body() -> str:
        seccomp.load(bpf, seccomp.FLAG_LOG)
        os.getppid()
        return "survived"

    assert cgroups.result_of(body) == f"killed {signal.SIGSYS}"


def test_seccomp_is_supported() -> None:
    assert seccomp.is_supported()
    assert seccomp.library_version().startswith("2.")
