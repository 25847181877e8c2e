"""The option table of ``run`` and ``create``: data only, grouped for a readable ``--help``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Table

_COMMON = "Common options"
_IMAGE = "Image options"
_ENV = "Environment and identity"
_FILES = "Files and devices"
_NET = "Network options"
_LIMITS = "Resource limits"
_SAFE = "Isolation and security"
_LIFE = "Life cycle, health and logs"
_OTHER = "Other options"

_RUN_ONLY: Table = (
    ("detach", "d", "bool", "Run container in background and print container ID", "", _COMMON),
    ("detach-keys", "", "string", "Override the key sequence for detaching a container", "",
     _COMMON),
    ("sig-proxy", "", "bool", "Proxy received signals to the process", "true", _LIFE),
)

_SHARED: Table = (
    ("interactive", "i", "bool", "Keep STDIN open even if not attached", "", _COMMON),
    ("tty", "t", "bool", "Allocate a pseudo-TTY", "", _COMMON),
    ("rm", "", "bool", "Remove the container and its anonymous volumes when it exits", "", _COMMON),
    ("name", "", "string", "Assign a name to the container", "", _COMMON),
    ("env", "e", "list:env", "Set environment variables", "", _COMMON),
    ("volume", "v", "list", "Bind mount a volume (SOURCE:TARGET[:OPTIONS])", "", _COMMON),
    ("publish", "p", "list", "Publish a container's port(s) to the host "
     "([IP:][HOST:]CONTAINER[/PROTO])", "", _COMMON),
    ("workdir", "w", "string", "Working directory inside the container", "", _COMMON),
    ("user", "u", "string", "Username or UID (format: <name|uid>[:<group|gid>])", "", _COMMON),
    ("network", "", "network", "Connect a container to a network", "", _COMMON),
    ("memory", "m", "bytes", "Memory limit", "", _COMMON),
    ("cpus", "", "decimal", "Number of CPUs", "", _COMMON),

    ("pull", "", "string", "Pull image before running (always, missing, never)", "missing", _IMAGE),
    ("platform", "", "string", "Set platform if server is multi-platform capable", "", _IMAGE),
    ("quiet", "q", "bool", "Suppress the pull output", "", _IMAGE),
    ("entrypoint", "", "string", "Overwrite the default ENTRYPOINT of the image", "", _IMAGE),
    ("disable-content-trust", "", "bool", "Skip image verification", "true", "hidden"),

    ("env-file", "", "list", "Read in a file of environment variables", "", _ENV),
    ("hostname", "h", "string", "Container host name", "", _ENV),
    ("domainname", "", "string", "Container NIS domain name", "", _ENV),
    ("group-add", "", "list", "Add additional groups to join", "", _ENV),
    ("label", "l", "list:label", "Set meta data on a container", "", _ENV),
    ("label-file", "", "list", "Read in a line delimited file of labels", "", _ENV),
    ("annotation", "", "map", "Add an annotation (passed through to the OCI runtime)", "", _ENV,
     "1.43"),
    ("cidfile", "", "string", "Write the container ID to the file", "", _ENV),

    ("mount", "", "mount", "Attach a filesystem mount to the container", "", _FILES),
    ("tmpfs", "", "list", "Mount a tmpfs directory", "", _FILES),
    ("volumes-from", "", "list", "Mount volumes from the specified container(s)", "", _FILES),
    ("volume-driver", "", "string", "Optional volume driver for the container", "", _FILES),
    ("read-only", "", "bool", "Mount the container's root filesystem as read only", "", _FILES),
    ("device", "", "list", "Add a host device to the container", "", _FILES),
    ("device-cgroup-rule", "", "list", "Add a rule to the cgroup allowed devices list", "", _FILES),
    ("gpus", "", "gpus", "GPU devices to add to the container ('all' to pass all GPUs)", "", _FILES,
     "1.40"),
    ("storage-opt", "", "list", "Storage driver options for the container", "", _FILES),
    ("shm-size", "", "bytes", "Size of /dev/shm", "", _FILES),

    ("net", "", "network", "Connect a container to a network", "", "deprecated:network:"),
    ("publish-all", "P", "bool", "Publish all exposed ports to random ports", "", _NET),
    ("expose", "", "list", "Expose a port or a range of ports", "", _NET),
    ("add-host", "", "list:add-host", "Add a custom host-to-IP mapping (host:ip)", "", _NET),
    ("dns", "", "list:dns", "Set custom DNS servers", "", _NET),
    ("dns-opt", "", "list", "Set DNS options", "", "deprecated:dns-option:"),
    ("dns-option", "", "list", "Set DNS options", "", _NET),
    ("dns-search", "", "list:domain", "Set custom DNS search domains", "", _NET),
    ("ip", "", "string", "IPv4 address (e.g., 172.30.100.104)", "", _NET),
    ("ip6", "", "string", "IPv6 address (e.g., 2001:db8::33)", "", _NET),
    ("mac-address", "", "string", "Container MAC address (e.g., 92:d0:c6:0a:29:33)", "", _NET),
    ("link", "", "list:link", "Add link to another container", "", _NET),
    ("link-local-ip", "", "list", "Container IPv4/IPv6 link-local addresses", "", _NET),
    ("network-alias", "", "list", "Add network-scoped alias for the container", "", _NET),
    ("net-alias", "", "list", "Add network-scoped alias", "", "deprecated:network-alias:"),

    ("memory-reservation", "", "bytes", "Memory soft limit", "", _LIMITS),
    ("memory-swap", "", "memswap", "Memory plus swap: '-1' to enable unlimited swap", "", _LIMITS),
    ("memory-swappiness", "", "int", "Tune container memory swappiness (0 to 100)", "-1", _LIMITS),
    ("kernel-memory", "", "bytes", "Kernel memory limit", "", "hidden"),
    ("oom-kill-disable", "", "bool", "Disable OOM Killer", "", _LIMITS),
    ("oom-score-adj", "", "int", "Tune host's OOM preferences (-1000 to 1000)", "", _LIMITS),
    ("cpu-shares", "c", "int", "CPU shares (relative weight)", "", _LIMITS),
    ("cpu-period", "", "int", "Limit CPU CFS (Completely Fair Scheduler) period", "", _LIMITS),
    ("cpu-quota", "", "int", "Limit CPU CFS (Completely Fair Scheduler) quota", "", _LIMITS),
    ("cpu-rt-period", "", "int", "Limit CPU real-time period in microseconds", "", _LIMITS),
    ("cpu-rt-runtime", "", "int", "Limit CPU real-time runtime in microseconds", "", _LIMITS),
    ("cpuset-cpus", "", "string", "CPUs in which to allow execution (0-3, 0,1)", "", _LIMITS),
    ("cpuset-mems", "", "string", "MEMs in which to allow execution (0-3, 0,1)", "", _LIMITS),
    ("pids-limit", "", "int", "Tune container pids limit (set -1 for unlimited)", "", _LIMITS),
    ("ulimit", "", "list:ulimit", "Ulimit options", "", _LIMITS),
    ("blkio-weight", "", "uint16", "Block IO (relative weight), between 10 and 1000, or 0 to "
     "disable", "", _LIMITS),
    ("blkio-weight-device", "", "list:weight", "Block IO weight (relative device weight)", "",
     _LIMITS),
    ("device-read-bps", "", "list:bps", "Limit read rate (bytes per second) from a device", "",
     _LIMITS),
    ("device-read-iops", "", "list:iops", "Limit read rate (IO per second) from a device", "",
     _LIMITS),
    ("device-write-bps", "", "list:bps", "Limit write rate (bytes per second) to a device", "",
     _LIMITS),
    ("device-write-iops", "", "list:iops", "Limit write rate (IO per second) to a device", "",
     _LIMITS),
    ("cgroup-parent", "", "string", "Optional parent cgroup for the container", "", _LIMITS),

    ("privileged", "", "bool", "Give extended privileges to this container", "", _SAFE),
    ("cap-add", "", "list", "Add Linux capabilities", "", _SAFE),
    ("cap-drop", "", "list", "Drop Linux capabilities", "", _SAFE),
    ("security-opt", "", "list", "Security Options", "", _SAFE),
    ("userns", "", "string", "User namespace to use", "", _SAFE),
    ("pid", "", "string", "PID namespace to use", "", _SAFE),
    ("ipc", "", "string", "IPC mode to use", "", _SAFE),
    ("uts", "", "string", "UTS namespace to use", "", _SAFE),
    ("cgroupns", "", "string", "Cgroup namespace to use (host|private)", "", _SAFE, "1.41"),
    ("sysctl", "", "list:sysctl", "Sysctl options", "", _SAFE),
    ("runtime", "", "string", "Runtime to use for this container", "", _SAFE),
    ("isolation", "", "string", "Container isolation technology", "", _SAFE),

    ("attach", "a", "list:attach", "Attach to STDIN, STDOUT or STDERR", "", _LIFE),
    ("init", "", "bool", "Run an init inside the container that forwards signals and reaps "
     "processes", "", _LIFE),
    ("restart", "", "string", "Restart policy to apply when a container exits", "no", _LIFE),
    ("stop-signal", "", "string", "Signal to stop the container", "", _LIFE),
    ("stop-timeout", "", "int", "Timeout (in seconds) to stop a container", "", _LIFE),
    ("health-cmd", "", "string", "Command to run to check health", "", _LIFE),
    ("health-interval", "", "duration", "Time between running the check (ms|s|m|h)", "", _LIFE),
    ("health-retries", "", "int", "Consecutive failures needed to report unhealthy", "", _LIFE),
    ("health-start-interval", "", "duration", "Time between running the check during the start "
     "period (ms|s|m|h)", "", _LIFE, "1.44"),
    ("health-start-period", "", "duration", "Start period for the container to initialize before "
     "starting health-retries countdown (ms|s|m|h)", "", _LIFE),
    ("health-timeout", "", "duration", "Maximum time to allow one check to run (ms|s|m|h)", "",
     _LIFE),
    ("no-healthcheck", "", "bool", "Disable any container-specified HEALTHCHECK", "", _LIFE),
    ("log-driver", "", "string", "Logging driver for the container", "", _LIFE),
    ("log-opt", "", "list", "Log driver options", "", _LIFE),

    ("cpu-count", "", "int", "CPU count (Windows only)", "", "hidden"),
    ("cpu-percent", "", "int", "CPU percent (Windows only)", "", "hidden"),
    ("io-maxbandwidth", "", "bytes", "Maximum IO bandwidth limit (Windows only)", "", "hidden"),
    ("io-maxiops", "", "uint", "Maximum IOps limit (Windows only)", "", "hidden"),
)

RUN_FLAGS: Table = _RUN_ONLY + _SHARED
CREATE_FLAGS: Table = _SHARED
