"""``pallet image bootstrap``: a base image without any registry, from the distribution's packages."""

from __future__ import annotations

from pallet.cli.commands.importing import upload
from pallet.cli.errors import CommandError
from pallet.cli.host import build, recipes
from pallet.cli.references import parse_reference, repository_and_tag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

BOOTSTRAP_FLAGS: Table = (
    ("include", "", "strings", "Further packages, comma-separated (debian and ubuntu)"),
    ("mirror", "", "string", "Package mirror; by default the one this host's apt uses, if it is of the "
     "same distribution"),
    ("quiet", "q", "bool", "Show nothing but the image's id"),
    ("tag", "t", "string", "Name and tag of the image; by default NAME itself"),
)
_KNOWN = "debian[:bullseye|bookworm|trixie|sid|…][-slim], ubuntu[:jammy|noble|…], busybox"


def bootstrap(session: Session, flags: Flags) -> int:
    """``pallet image bootstrap``: prints the image's id."""
    name = flags.args[0]
    target = flags["tag"] or name
    parse_reference(target)
    distribution, tag = repository_and_tag(name)
    distribution = distribution.removeprefix("docker.io/").removeprefix("library/")
    if distribution == "busybox":
        if flags["include"] or flags["mirror"]:
            raise CommandError("--include and --mirror do not apply to busybox")
        origin, chunks = build.busybox_tar(session.env)
        command, words = '["sh"]', f"busybox from the package {origin}"
    elif distribution in ("debian", "ubuntu"):
        recipe = _recipe(distribution, tag, flags)
        tool, chunks = build.distribution_tar(recipe, session.env, quiet=flags["quiet"])
        command = '["bash"]'
        words = (f"{distribution} {recipe.suite} minimal base{' (slim)' if recipe.slim else ''} "
                 f"by {tool} from {recipe.mirror or 'its default mirror'}")
    else:
        raise CommandError(f"cannot make {distribution}: known are {_KNOWN}")
    repository, image_tag = repository_and_tag(target)
    upload(session.engine, {
        "repo": repository, "tag": image_tag or "latest",
        "message": f"pallet image bootstrap: {words}", "changes": [f"CMD {command}"]}, chunks)
    return 0


def _recipe(distribution: str, tag: str, flags: Flags) -> recipes.Recipe:
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            release = file.read()
    except OSError:
        release = ""
    suite, slim = recipes.suite_of(distribution, tag, release)
    if not suite.replace("-", "").isalnum():
        raise CommandError(f"not a suite: {suite}")
    mirror = flags["mirror"] or recipes.host_mirror(distribution, build.apt_sources())
    return recipes.Recipe(distribution, suite, slim=slim, packages=flags["include"],
                          mirrors=recipes.sources(distribution, suite, mirror.rstrip("/")))
