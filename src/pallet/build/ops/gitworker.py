"""Worker kind ``build.git``: the git program, on behalf of a build.

Owns   what git is allowed to see and do: an environment of its own, no configuration of this host's, no
       hooks, no prompts, no transports but the network's.
Runs   ``run`` in a zygote child, one request a child; git in its process group, killed with it.
Needs  the git program.
Spec   gitprotocol; BuildKit's git source.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Literal

import msgspec

from pallet.errors import InvalidParameterError, NotFoundError, PalletError, SyscallError, SystemFailureError
from pallet.layer.worker import WorkerFailure, failure_of
from pallet.linux import safepath

if TYPE_CHECKING:
    from collections.abc import Sequence

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_CONFIG = ("protocol.file.allow=never", "protocol.ext.allow=never", "core.hooksPath=/dev/null",
           "credential.helper=", "advice.detachedHead=false", "init.defaultBranch=main", "gc.auto=0",
           "core.fsmonitor=false", "safe.directory=*")
_MAX_ERROR_BYTES = 2000
_MASK = "xxxxx"


class GitRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask a remote for a ref's commit, or check one out. No fds."""

    action: Literal["resolve", "checkout"]
    remote: str
    ref: str = ""
    commit: str = ""
    """What ``ref`` was resolved to."""
    scratch: str = ""
    """Empty directory for the clone; what is wanted of it ends in ``target``."""
    target: str = ""
    """Empty directory on the same file system."""
    subdirectory: str = ""
    keep_git_dir: bool = False
    submodules: bool = True
    commit_times: bool = False
    """Every file gets the commit's time."""
    headers: list[str] = []
    """Extra HTTP headers for the remote's host: credentials."""
    agent: str = ""
    """Socket of an ssh agent."""
    proxies: dict[str, str] = {}
    """Proxy variables of the daemon's environment."""


class GitReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The commit, or what went wrong."""

    commit: str = ""
    failure: WorkerFailure | None = None

    def result(self) -> str:
        """Return the commit or raise what went wrong."""
        if self.failure is not None:
            self.failure.raise_()
        return self.commit


_request = msgspec.json.Decoder(GitRequest)


def run(request: bytes, _fds: Sequence[int]) -> bytes:
    """Worker kind ``build.git``: ``GitRequest`` to ``GitReply``."""
    wanted = _request.decode(request)
    try:
        os.umask(0o022)
        git = _Git(wanted)
        reply = GitReply(commit=git.resolve() if wanted.action == "resolve" else git.checkout())
    except (PalletError, OSError) as error:
        reply = GitReply(failure=failure_of(error))
    return msgspec.json.encode(reply)


class _Git:
    def __init__(self, wanted: GitRequest) -> None:
        self._wanted = wanted
        self._directory = wanted.scratch or "/"
        self._environment = {
            "PATH": _PATH, "HOME": "/nonexistent", "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false",
            "GIT_ALLOW_PROTOCOL": "git:http:https:ssh",
            # The client's agent alone: neither keys nor known hosts of this host's users.
            "GIT_SSH_COMMAND": "ssh -F /dev/null -o StrictHostKeyChecking=accept-new -o BatchMode=yes "
                               "-o UserKnownHostsFile=/dev/null -o IdentityFile=none -o LogLevel=ERROR",
        }
        self._environment |= wanted.proxies
        if any(text.startswith("-") for text in (wanted.remote, wanted.ref, wanted.commit)):
            message = f"invalid git reference {wanted.ref or wanted.remote!r}"
            raise InvalidParameterError(message)
        if wanted.agent:
            # By the directory's descriptor: the whole path is longer than a socket's name may be.
            directory_fd = os.open(posixpath.dirname(wanted.agent), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._environment["SSH_AUTH_SOCK"] = (
                f"/proc/{os.getpid()}/fd/{directory_fd}/{posixpath.basename(wanted.agent)}")
        # Credentials by environment: the command line is anybody's to read.
        pairs = [item.split("=", 1) for item in _CONFIG]
        pairs += [[f"http.{wanted.remote}.extraheader", header] for header in wanted.headers]
        self._environment["GIT_CONFIG_COUNT"] = str(len(pairs))
        for number, (key, value) in enumerate(pairs):
            self._environment[f"GIT_CONFIG_KEY_{number}"] = key
            self._environment[f"GIT_CONFIG_VALUE_{number}"] = value

    def resolve(self) -> str:
        """Commit of the wanted ref."""
        wanted = self._wanted
        if _COMMIT.fullmatch(wanted.ref):
            return wanted.ref
        ref = wanted.ref or "HEAD"
        lines = self._run("ls-remote", "--", wanted.remote, ref, f"{ref}^{{}}").splitlines()
        found: dict[str, str] = {}
        for line in lines:
            commit, _, name = line.partition("\t")
            found[name] = commit
        for name in (f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"{ref}^{{}}", ref):
            if name in found:
                return found[name]
        message = f"repository does not contain ref {wanted.ref or 'HEAD'}, output: {chr(10).join(lines)!r}"
        raise NotFoundError(message)

    def checkout(self) -> str:
        """Fetch the commit and put the wanted part of it into the target."""
        wanted = self._wanted
        self._run("init", "--quiet", "--template=", ".")
        self._run("remote", "add", "origin", wanted.remote)
        self._fetch()
        self._run("checkout", "--quiet", "--force", "--detach", wanted.commit)
        commit = self._run("rev-parse", "HEAD").strip()
        if wanted.submodules and os.path.lexists(f"{self._directory}/.gitmodules"):
            self._run("submodule", "update", "--init", "--recursive", "--depth=1", "--quiet")
        moment = int(self._run("show", "-s", "--format=%ct", "HEAD").strip()) if wanted.commit_times else None
        if not wanted.keep_git_dir:
            _remove_git(self._directory)
        elif (bare := _without_user(wanted.remote)) != wanted.remote:
            self._run("remote", "set-url", "origin", bare)  # what is kept becomes a layer
        self._hand_over(moment)
        return commit

    def _fetch(self) -> None:
        """Fetch as little as the server lets one: the commit, the ref, everything."""
        wanted = self._wanted
        named = wanted.ref if wanted.ref and not _COMMIT.fullmatch(wanted.ref) else ""
        attempts = [["--depth=1", "origin", wanted.commit]]
        if named:
            attempts.append(["--depth=1", "origin", named])
        attempts.append(["--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"])
        failure: PalletError | None = None
        for arguments in attempts:
            try:
                self._run("fetch", "--quiet", "--force", "--no-auto-gc", *arguments)
                self._run("cat-file", "-e", f"{wanted.commit}^{{commit}}")
            except PalletError as error:
                failure = failure or error
            else:
                return
        assert failure is not None
        raise failure

    def _hand_over(self, moment: int | None) -> None:
        wanted = self._wanted
        root_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            part_fd = safepath.open_in_root(root_fd, wanted.subdirectory or "/", os.O_RDONLY | os.O_DIRECTORY)
        except SyscallError as error:
            message = f"subdir not found: no such file or directory: {wanted.subdirectory}"
            raise NotFoundError(message) from error
        finally:
            os.close(root_fd)
        for name in os.listdir(part_fd):
            os.rename(name, f"{wanted.target}/{name}", src_dir_fd=part_fd)
        os.close(part_fd)
        if moment is not None:
            _set_times(wanted.target, moment)

    def _run(self, *arguments: str) -> str:
        git = shutil.which("git", path=_PATH)
        if git is None:
            message = "git is not installed on the daemon's host"
            raise SystemFailureError(message)
        done = subprocess.run(
            [git, *arguments], cwd=self._directory, env=self._environment, stdin=subprocess.DEVNULL,
            capture_output=True, check=False, preexec_fn=_die_with_parent)
        if done.returncode:
            text = done.stderr.decode(errors="replace")[-_MAX_ERROR_BYTES:].strip()
            message = f"failed to {arguments[0]} {self._wanted.remote}: exit status {done.returncode}: {text}"
            raise InvalidParameterError(message.replace(self._wanted.remote, redacted(self._wanted.remote)))
        return done.stdout.decode(errors="surrogateescape")


def over_ssh(remote: str) -> bool:
    """Whether git fetches from a remote with ssh: by its scheme, or as ``user@host:path``."""
    return remote.startswith("ssh://") if "://" in remote else "@" in remote.partition(":")[0]


def redacted(url: str) -> str:
    """A URL as it may be shown: user and password as BuildKit masks them."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if not separator or not at:
        return url
    masked = f"{_MASK}:{_MASK}" if ":" in user else _MASK
    return f"{scheme}://{masked}@{host}{slash}{path}"


def _without_user(url: str) -> str:
    """A remote without what is secret in it: over ssh the user is none."""
    return redacted(url).replace(f"{_MASK}:{_MASK}@", "").replace(f"{_MASK}@", "") if url.startswith("http") else url


def _die_with_parent() -> None:
    from pallet.linux import process

    process.set_parent_death_signal(signal.SIGKILL)


def _remove_git(directory: str) -> None:
    """Remove git's own: the repository, and what submodules point to it with."""
    for where, directories, files in os.walk(directory):
        if ".git" in directories:
            shutil.rmtree(posixpath.join(where, ".git"))
            directories.remove(".git")
        if ".git" in files:
            os.unlink(posixpath.join(where, ".git"))


def _set_times(directory: str, moment: int) -> None:
    for where, directories, files in os.walk(directory, topdown=False):
        for name in (*directories, *files):
            path = posixpath.join(where, name)
            os.utime(path, (moment, moment), follow_symlinks=False)
