"""The tree of commands as data: nothing is imported until a command is named.

An entry is ``(module, function, usage, (least, most), summary)``: ``pallet.cli.commands.<module>``
holds ``function(session, flags) -> int`` and its option table ``<FUNCTION>_FLAGS``; ``most`` -1
is any number. Names and usage lines are Docker's.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Entry = tuple[str, str, str, tuple[int, int], str]

# Commands whose options end at the first argument, because the rest is another command's line.
PASS_THROUGH = frozenset(("container run", "container create", "container exec", "container top"))

_ANY = -1
_MANY = "[OPTIONS] CONTAINER [CONTAINER...]"

ENTRIES: dict[str, Entry] = {
    "container run": ("run", "run", "[OPTIONS] IMAGE [COMMAND] [ARG...]", (1, _ANY),
                      "Create and run a new container from an image"),
    "container create": ("create", "create", "[OPTIONS] IMAGE [COMMAND] [ARG...]", (1, _ANY),
                         "Create a new container"),
    "container start": ("start", "start", _MANY, (1, _ANY),
                        "Start one or more stopped containers"),
    "container stop": ("lifecycle", "stop", _MANY, (1, _ANY),
                       "Stop one or more running containers"),
    "container restart": ("lifecycle", "restart", _MANY, (1, _ANY),
                          "Restart one or more containers"),
    "container kill": ("lifecycle", "kill", _MANY, (1, _ANY),
                       "Kill one or more running containers"),
    "container rm": ("lifecycle", "rm", _MANY, (1, _ANY), "Remove one or more containers"),
    "container pause": ("lifecycle", "pause", "CONTAINER [CONTAINER...]", (1, _ANY),
                        "Pause all processes within one or more containers"),
    "container unpause": ("lifecycle", "unpause", "CONTAINER [CONTAINER...]", (1, _ANY),
                          "Unpause all processes within one or more containers"),
    "container wait": ("lifecycle", "wait", "CONTAINER [CONTAINER...]", (1, _ANY),
                       "Block until one or more containers stop, then print their exit codes"),
    "container rename": ("lifecycle", "rename", "CONTAINER NEW_NAME", (2, 2),
                         "Rename a container"),
    "image build": ("build", "build", "[OPTIONS] PATH | URL | -", (1, 1), "Build an image from a Dockerfile"),
    "buildx bake": ("bake", "bake", "[OPTIONS] [TARGET...]", (0, _ANY), "Build from a file"),
    "builder prune": ("buildcache", "prune", "[OPTIONS]", (0, 0), "Remove build cache"),
    "builder du": ("buildcache", "du", "[OPTIONS]", (0, 0), "Disk usage of the build cache"),
    "container prune": ("prune", "containers", "[OPTIONS]", (0, 0),
                        "Remove all stopped containers"),
    "container ls": ("ps", "ls", "[OPTIONS]", (0, 0), "List containers"),
    "container logs": ("logs", "logs", "[OPTIONS] CONTAINER", (1, 1),
                       "Fetch the logs of a container"),
    "container attach": ("attach", "attach", "[OPTIONS] CONTAINER", (1, 1),
                         "Attach local standard input, output, and error streams to a running "
                         "container"),
    "container exec": ("exec", "exec_", "[OPTIONS] CONTAINER COMMAND [ARG...]", (2, _ANY),
                       "Execute a command in a running container"),
    "container inspect": ("inspect", "containers", _MANY, (1, _ANY),
                          "Display detailed information on one or more containers"),
    "container port": ("port", "port", "CONTAINER [PRIVATE_PORT[/PROTO]]", (1, 2),
                       "List port mappings or a specific mapping for the container"),
    "container commit": ("trees", "commit", "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]", (1, 2),
                         "Create a new image from a container's changes"),
    "container cp": ("cp", "cp", "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tpallet cp "
                     "[OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH", (2, 2),
                     "Copy files/folders between a container and the local filesystem"),
    "container diff": ("trees", "diff", "CONTAINER", (1, 1),
                       "Inspect changes to files or directories on a container's filesystem"),
    "container export": ("trees", "export", "[OPTIONS] CONTAINER", (1, 1),
                         "Export a container's filesystem as a tar archive"),
    "container top": ("top", "top", "CONTAINER [ps OPTIONS]", (1, _ANY),
                      "Display the running processes of a container"),
    "image ls": ("images", "ls", "[OPTIONS] [REPOSITORY[:TAG]]", (0, 1), "List images"),
    "image pull": ("pull", "pull", "[OPTIONS] NAME[:TAG|@DIGEST]", (1, 1),
                   "Download an image from a registry"),
    "image push": ("pull", "push", "[OPTIONS] NAME[:TAG]", (1, 1),
                   "Upload an image to a registry"),
    "image save": ("archives", "save", "[OPTIONS] IMAGE [IMAGE...]", (1, _ANY),
                   "Save one or more images to a tar archive (streamed to STDOUT by default)"),
    "image load": ("archives", "load", "[OPTIONS]", (0, 0),
                   "Load an image from a tar archive or STDIN"),
    "image tag": ("images", "tag", "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", (2, 2),
                  "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
    "image rm": ("images", "rm", "[OPTIONS] IMAGE [IMAGE...]", (1, _ANY),
                 "Remove one or more images"),
    "image inspect": ("inspect", "images", "[OPTIONS] IMAGE [IMAGE...]", (1, _ANY),
                      "Display detailed information on one or more images"),
    "image history": ("history", "history", "[OPTIONS] IMAGE", (1, 1),
                      "Show the history of an image"),
    "image import": ("importing", "import_", "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]", (1, 2),
                     "Import the contents from a tarball to create a filesystem image"),
    "image prune": ("prune", "images", "[OPTIONS]", (0, 0), "Remove unused images"),
    "image explore": ("explore", "explore", "[OPTIONS] IMAGE", (1, 1),
                      "Show an image's files by layer, and what is wasted"),
    "image pin": ("explore", "pin", "IMAGE [IMAGE...]", (1, _ANY),
                  "Keep images whatever the disk budget"),
    "image unpin": ("explore", "unpin", "IMAGE [IMAGE...]", (1, _ANY),
                    "Leave images to the disk budget again"),
    "image bootstrap": ("bootstrap", "bootstrap", "[OPTIONS] NAME[:TAG]", (1, 1),
                        "Make a base image from this distribution's own packages"),
    "network ls": ("networks", "ls", "[OPTIONS]", (0, 0), "List networks"),
    "network rm": ("networks", "rm", "NETWORK [NETWORK...]", (1, _ANY),
                   "Remove one or more networks"),
    "network prune": ("prune", "networks", "[OPTIONS]", (0, 0), "Remove all unused networks"),
    "network inspect": ("inspect", "networks", "[OPTIONS] NETWORK [NETWORK...]", (1, _ANY),
                        "Display detailed information on one or more networks"),
    "volume ls": ("volumes", "ls", "[OPTIONS]", (0, 0), "List volumes"),
    "volume create": ("volumes", "create", "[OPTIONS] [VOLUME]", (0, 1), "Create a volume"),
    "volume inspect": ("inspect", "volumes", "[OPTIONS] VOLUME [VOLUME...]", (1, _ANY),
                       "Display detailed information on one or more volumes"),
    "volume rm": ("volumes", "rm", "[OPTIONS] VOLUME [VOLUME...]", (1, _ANY),
                  "Remove one or more volumes"),
    "volume prune": ("prune", "volumes", "[OPTIONS]", (0, 0), "Remove unused local volumes"),
    "system info": ("info", "info", "[OPTIONS]", (0, 0), "Display system-wide information"),
    "system events": ("events", "events", "[OPTIONS]", (0, 0),
                      "Get real time events from the server"),
    "system df": ("df", "df", "[OPTIONS]", (0, 0), "Show disk usage"),
    "system check": ("check", "check", "[OPTIONS]", (0, 0),
                     "Verify blobs, layers and records, and repair them"),
    "system prune": ("prune", "system", "[OPTIONS]", (0, 0), "Remove unused data"),
    "system dial-stdio": ("dial", "dial_stdio", "", (0, 0),
                          "Proxy the stdio stream to the daemon connection"),
    "context ls": ("contexts", "ls", "[OPTIONS]", (0, 0), "List contexts"),
    "context show": ("contexts", "show", "", (0, 0), "Print the name of the current context"),
    "registry serve": ("registry", "serve", "[OPTIONS]", (0, 0),
                       "Serve images over the OCI distribution protocol"),
    "registry gc": ("registrystore", "gc", "[OPTIONS]", (0, 0),
                    "Apply retention and remove what no image needs, beside running registries"),
    "registry check": ("registrystore", "check", "[OPTIONS]", (0, 0),
                       "Verify a registry's content against its records"),
    "registry htpasswd": ("registryaccess", "htpasswd", "[OPTIONS] FILE [USER]", (1, 2),
                          "Set, remove or list the users of a registry"),
    "registry key": ("registryaccess", "key", "[OPTIONS] FILE", (1, 1),
                     "Make a key that signs a registry's tokens"),
    "manifest create": ("manifest", "create", "MANIFEST_LIST MANIFEST [MANIFEST...]", (2, _ANY),
                        "Create a local manifest list for annotating and pushing to a registry"),
    "manifest annotate": ("manifest", "annotate", "[OPTIONS] MANIFEST_LIST MANIFEST", (2, 2),
                          "Add additional information to a local image manifest"),
    "manifest inspect": ("manifest", "inspect", "[OPTIONS] [MANIFEST_LIST] MANIFEST", (1, 2),
                         "Display an image manifest, or manifest list"),
    "manifest push": ("manifest", "push", "[OPTIONS] MANIFEST_LIST", (1, 1),
                      "Push a manifest list to a repository"),
    "manifest rm": ("manifest", "rm", "MANIFEST_LIST [MANIFEST_LIST...]", (1, _ANY),
                    "Delete one or more manifest lists from local storage"),
    "inspect": ("inspect", "inspect", "[OPTIONS] NAME|ID [NAME|ID...]", (1, _ANY),
                "Return low-level information on Docker objects"),
    "version": ("version", "version", "[OPTIONS]", (0, 0),
                "Show the version of client and server"),
    "login": ("login", "login", "[OPTIONS] [SERVER]", (0, 1), "Authenticate to a registry"),
    "logout": ("login", "logout", "[SERVER]", (0, 1), "Log out from a registry"),
    "search": ("search", "search", "[OPTIONS] TERM", (1, 1), "Search Docker Hub for images"),
    "doctor": ("doctor", "doctor", "[OPTIONS]", (0, 0),
               "Say what this host lacks, what that costs, and how to get it"),
}

SHORTCUTS: dict[str, str] = {
    **{name: f"container {name}" for name in (
        "run", "create", "start", "stop", "restart", "kill", "rm", "pause", "unpause", "wait",
        "rename", "logs", "attach", "exec", "port", "top", "commit", "cp", "diff",
        "export")},
    **{name: f"image {name}" for name in (
        "pull", "push", "tag", "history", "import", "save", "load", "build")},
    "builder build": "image build", "buildx build": "image build",
    "buildx prune": "builder prune", "buildx du": "builder du", "buildx b": "image build",
    "bake": "buildx bake", "buildx f": "buildx bake",
    "ps": "container ls", "container list": "container ls", "container ps": "container ls",
    "container remove": "container rm",
    "images": "image ls", "image list": "image ls", "rmi": "image rm", "image remove": "image rm",
    "network list": "network ls", "network remove": "network rm",
    "volume list": "volume ls", "volume remove": "volume rm",
    "context list": "context ls",
    "info": "system info", "events": "system events",
}

_HIDDEN = frozenset(("system dial-stdio",))

GROUPS: dict[str, str] = {
    "builder": "Manage builds", "buildx": "Manage builds",
    "container": "Manage containers", "context": "Manage contexts", "image": "Manage images",
    "manifest": "Manage Docker image manifests and manifest lists",
    "network": "Manage networks", "registry": "Serve images to others",
    "system": "Manage the daemon", "volume": "Manage volumes",
}

SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Common Commands", ("run", "exec", "ps", "build", "pull", "push", "images", "login", "logout",
                         "search", "version", "info", "doctor")),
    ("Management Commands", (
        "builder", "container", "context", "image", "manifest", "network", "registry", "system", "volume")),
    ("Commands", ("attach", "bake", "commit", "cp", "create", "diff", "events", "export", "history", "import",
                  "inspect", "kill", "load", "logs", "pause", "port", "rename", "restart", "rm", "rmi", "save",
                  "start", "stop", "tag", "top",
                  "unpause", "wait")),
)


def members(group: str) -> list[str]:
    """Return the names of a group's commands, sorted."""
    names = [*SHORTCUTS, *ENTRIES] if group == "buildx" else ENTRIES
    return sorted(path.partition(" ")[2] for path in names
                  if path.startswith(group + " ") and path not in _HIDDEN)


def canonical(path: str) -> str:
    """Return the path an alias stands for, or ``path``."""
    return SHORTCUTS.get(path, path)


def entry(path: str) -> Entry:
    """Return the entry of a command named by its path or an alias of it."""
    return ENTRIES[canonical(path)]


def aliases(path: str) -> list[str]:
    """Return every name of a command, the canonical one first."""
    target = canonical(path)
    return [target, *sorted(name for name, meant in SHORTCUTS.items() if meant == target)]
