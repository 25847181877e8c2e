"""Base images from the distribution's own packages: what to run, as data. Pure but for reading files.

Owns   names to suites, mirrors from the host's apt sources, command lines, the files of a busybox
       image. ``build.py`` runs and streams what is decided here.
"""

from __future__ import annotations

import os

from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_DEBIAN = {"10": "buster", "11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky",
           "latest": "stable", "unstable": "sid"}
_UBUNTU = {"20.04": "focal", "22.04": "jammy", "24.04": "noble", "26.04": "resolute",
           "latest": "noble"}
_NO_SECURITY = frozenset(("sid", "unstable", "experimental", "rc-buggy"))
_MERGED_BY_PACKAGE = frozenset(("bookworm", "jammy", "noble"))
_MERGED_HOOK = "/usr/share/mmdebstrap/hooks/merged-usr"
_KEYRINGS = {"debian": "/usr/share/keyrings/debian-archive-keyring.gpg",
             "ubuntu": "/usr/share/keyrings/ubuntu-archive-keyring.gpg"}
_COMPONENTS = {"debian": "main", "ubuntu": "main universe"}
_SLIM = ("path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
         "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/info/*",
         "path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/groff/*",
         "path-exclude=/usr/share/lintian/*")

# What Debian's own container images change: no services started by package scripts, no caches kept.
_POLICY = "#!/bin/sh\nexit 101\n"
_APT_CLEAN = (
    'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb '
    '/var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };\n'
    'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
    'APT::AutoRemove::SuggestsImportant "false";\nAcquire::Languages "none";\n')


class Recipe:
    """A distribution image to make."""

    __slots__ = ("distribution", "mirrors", "packages", "slim", "suite")

    def __init__(
        self, distribution: str, suite: str, *, slim: bool, mirrors: list[str],
        packages: list[str],
    ) -> None:
        """``mirrors`` are one-line apt sources; ``packages`` come on top of the minimal set."""
        self.distribution = distribution
        self.suite = suite
        self.slim = slim
        self.mirrors = mirrors
        self.packages = packages

    @property
    def mirror(self) -> str:
        """URL of the release's mirror, empty for the tool's own default."""
        words = self.mirrors[0].split() if self.mirrors else ()
        return next((word for word in words if "://" in word), "")


def suite_of(distribution: str, tag: str, os_release: str = "") -> tuple[str, bool]:
    """Return the suite and whether it is the slim variant, for an image's tag.

    Args:
        distribution: ``debian`` or ``ubuntu``.
        tag: ``bookworm``, ``12``, ``12-slim``, ``latest``; empty is ``latest``.
        os_release: text of /etc/os-release; ``latest`` is the host's own suite where it fits.
    """
    slim = tag == "slim" or tag.endswith("-slim")
    base = tag.removesuffix("slim").removesuffix("-") if slim else tag
    base = base or "latest"
    if base == "latest":
        fields = dict(line.partition("=")[::2] for line in os_release.splitlines())
        name = fields.get("VERSION_CODENAME", "").strip('"')
        if fields.get("ID", "").strip('"') == distribution and name:
            return name, slim
    return (_DEBIAN if distribution == "debian" else _UBUNTU).get(base, base), slim


def host_mirror(distribution: str, texts: Iterable[str]) -> str:
    """Return the mirror that the host's apt uses for ``distribution``; empty when it has none.

    Args:
        distribution: ``debian`` or ``ubuntu``.
        texts: contents of apt source files, one-line and deb822 style.
    """
    for text in texts:
        for line in text.splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] == "deb":
                uris = [word for word in words[1:] if "://" in word][:1]
            elif words[0].lower() == "uris:":
                uris = words[1:]
            else:
                continue
            for uri in uris:
                last = uri.rstrip("/").rpartition("/")[2]
                if last == distribution:
                    return uri.rstrip("/")
    return ""


def sources(distribution: str, suite: str, mirror: str) -> list[str]:
    """Return one-line apt sources for ``suite``: the release, its updates and its security fixes.

    None for an empty ``mirror``: the tools have their own defaults then.
    """
    if not mirror:
        return []
    keyring = _KEYRINGS[distribution]
    options = f"[signed-by={keyring}] " if os.path.exists(keyring) else ""
    parts = _COMPONENTS[distribution]
    lines = [f"deb {options}{mirror} {suite} {parts}"]
    if distribution == "ubuntu":
        return [*lines, f"deb {options}{mirror} {suite}-updates {parts}",
                f"deb {options}{mirror} {suite}-security {parts}"]
    if suite in _NO_SECURITY:
        return lines
    security = mirror.rpartition("/")[0] + "/debian-security"
    name = f"{suite}/updates" if suite == "buster" else f"{suite}-security"
    return [*lines, f"deb {options}{mirror} {suite}-updates {parts}",
            f"deb {options}{security} {name} {parts}"]


def mmdebstrap_argv(recipe: Recipe, *, quiet: bool) -> list[str]:
    """Return the command that writes the root file system as a tar stream to its stdout."""
    argv = ["mmdebstrap", "--variant=minbase", "--format=tar",
            "--aptopt=Acquire::Languages \"none\""]
    if quiet:
        argv.append("--quiet")
    packages = recipe.packages
    if recipe.suite in _MERGED_BY_PACKAGE and os.path.isdir(_MERGED_HOOK):
        # Otherwise the package usrmerge does it, and brings 50 MB of Perl.
        argv.append(f"--hook-dir={_MERGED_HOOK}")
        packages = ["usr-is-merged", *packages]
    if packages:
        argv.append("--include=" + ",".join(packages))
    if recipe.slim:
        argv += [f"--dpkgopt={option}" for option in _SLIM]
    # The policy goes in before the first package; mmdebstrap's own would be removed at the end.
    argv.append("--skip=chroot/policy-rc.d")
    for (path, text, mode), stage in zip(hook_files(), ("setup", "customize"), strict=True):
        argv.append(f"--{stage}-hook=mkdir -p \"$1{os.path.dirname(path)}\" && "
                    f"printf %s {shell_quote(text)} > \"$1{path}\" && chmod {mode} \"$1{path}\"")
    argv.append("--customize-hook=rm -f \"$1/etc/hostname\" \"$1/etc/resolv.conf\" "
                "\"$1\"/var/cache/apt/*.bin \"$1\"/var/cache/apt/archives/*.deb")
    return [*argv, recipe.suite, "-", *recipe.mirrors]


def debootstrap_argv(recipe: Recipe, target: str) -> list[str]:
    """Return the command that makes the root file system in the directory ``target``."""
    argv = ["debootstrap", "--variant=minbase"]
    if recipe.packages:
        argv.append("--include=" + ",".join(recipe.packages))
    return [*argv, recipe.suite, target, *([recipe.mirror] if recipe.mirror else [])]


def hook_files() -> list[tuple[str, str, str]]:
    """Return path, text and mode of the files added to a distribution image."""
    return [("/usr/sbin/policy-rc.d", _POLICY, "755"),
            ("/etc/apt/apt.conf.d/docker-clean", _APT_CLEAN, "644")]


def shell_quote(text: str) -> str:
    """Return ``text`` as one word of sh."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def missing_tool(distribution: str) -> CommandError:
    """Return the error for a host with neither tool."""
    return CommandError(
        f"making {distribution} images needs mmdebstrap (or debootstrap), which is not installed\n"
        "Install it with: apt-get install mmdebstrap")


# -- busybox --------------------------------------------------------------------------------------

_ACCOUNTS = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUP = """root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
wheel:x:10:root
mail:x:8:
kmem:x:9:
audio:x:29:
www-data:x:33:
utmp:x:43:
video:x:28:
plugdev:x:46:
staff:x:50:
users:x:100:
nogroup:x:65534:
"""
BUSYBOX_FILES: tuple[tuple[str, int, str], ...] = (
    ("etc/group", 0o644, _GROUP), ("etc/passwd", 0o644, _ACCOUNTS),
    ("etc/shadow", 0o600, "root:*:::::::\n"),
    ("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n"),
)
BUSYBOX_DIRECTORIES: tuple[tuple[str, int], ...] = (
    ("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("lib", 0o755),
    ("proc", 0o755), ("root", 0o700), ("run", 0o755), ("sbin", 0o755), ("sys", 0o755),
    ("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o755), ("usr/sbin", 0o755), ("var", 0o755),
    ("var/spool", 0o755), ("var/spool/mail", 0o755), ("var/tmp", 0o1777), ("var/www", 0o755),
)


def is_static_elf(data: bytes) -> bool:
    """Return whether ``data`` begins a 64-bit or 32-bit ELF program without an interpreter."""
    if data[:4] != b"\x7fELF":
        return False
    wide = data[4] == 2
    order = "little" if data[5] == 1 else "big"

    def field(at: int, size: int) -> int:
        return int.from_bytes(data[at:at + size], order)  # type: ignore[arg-type]

    table = field(32, 8) if wide else field(28, 4)
    size, count = (field(54, 2), field(56, 2)) if wide else (field(42, 2), field(44, 2))
    return all(field(table + at * size, 4) != 3 for at in range(count))  # 3: PT_INTERP
