"""Every path Pallet owns on disk, and the version of that layout.

```
<data-root>/                       /var/lib/pallet
├── version                        LAYOUT_VERSION; a later one is refused
├── meta.db                        SQLite: the only place for records
├── content/
│   ├── blobs/sha256/<hex>         every blob as its registry sent it; never rewritten
│   └── ingest/<n>                 blobs on their way in; removed at start-up
├── snapshots/
│   ├── l/<n>/fs                   committed: one layer's tree with overlay whiteouts
│   ├── c/<key>/{upper,work,lower} active: one container's writable layer; ``lower`` is a link
│   │                              whose text is the numbers of the layers below, topmost first
│   ├── empty/                     lower directory of an image without layers
│   ├── ready/<n>/                 writable layers made ahead; removed at start-up
│   ├── draft/<n>/                 a layer being unpacked; removed at start-up
│   └── trash/<n>/                 renamed here, then deleted in the background
├── containers/<id>/               log files, hosts, hostname, resolv.conf
├── volumes/<name>/_data
├── indexes/<hex>                  what a layer holds by path, for ``image explore``
├── build/
│   ├── contexts/<key>/            the last copy of each client's tree
│   ├── scratch/                   trees on their way to a client; removed at start-up
│   └── caches/<id>                directories of ``RUN --mount=type=cache``
└── seccomp/<hash>.bpf             compiled filters

<exec-root>/                       /run/pallet
├── palletd.pid                    pid of the daemon that owns this pair of roots (locked)
└── shims/<id>/                    one a running container or exec
    ├── sock                       the shim's listening socket
    ├── state.json                 pid and start time of shim and init
    └── exit                       exit status, written once
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LAYOUT_VERSION = 1

DEFAULT_DATA_ROOT = "/var/lib/pallet"
DEFAULT_EXEC_ROOT = "/run/pallet"
DEFAULT_SOCKET = "/run/pallet.sock"
DEFAULT_CONFIG_FILE = "/etc/pallet/daemon.json"


class DataPaths:
    """Paths below one data root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.version_file = root / "version"
        self.database = root / "meta.db"
        self.blobs = root / "content" / "blobs"
        self.ingest = root / "content" / "ingest"
        self.snapshots = root / "snapshots"
        self.layers = root / "snapshots" / "l"
        self.active = root / "snapshots" / "c"
        self.ready = root / "snapshots" / "ready"
        self.drafts = root / "snapshots" / "draft"
        self.trash = root / "snapshots" / "trash"
        self.containers = root / "containers"
        self.volumes = root / "volumes"
        self.seccomp = root / "seccomp"
        self.indexes = root / "indexes"
        self.build = root / "build"

    def container(self, container_id: str) -> Path:
        """Directory of one container's files (not its root file system)."""
        return self.containers / container_id


class ExecPaths:
    """Paths below one exec root; nothing here survives a reboot."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pid_file = root / "palletd.pid"
        self.shims = root / "shims"

    def shim(self, shim_id: str) -> Path:
        """Directory of one shim: its socket, state and exit file."""
        return self.shims / shim_id
