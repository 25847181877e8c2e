"""``pallet bake``.

Spec   docker buildx bake; ``docs/build.md``.
"""

from __future__ import annotations

import sys
import time

from pallet.cli.errors import CommandError
from pallet.cli.session import out, warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pallet.cli.bake.building import Bakery
    from pallet.cli.bake.definition import Definition
    from pallet.cli.bake.remote import Remote
    from pallet.cli.bake.resolve import Plan
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

BAKE_FLAGS: Table = (
    ("allow", "", "list", "Allow build to access specified resources"),
    ("builder", "", "string", "Override the configured builder instance", "", "hidden"),
    ("call", "", "string", 'Set method for evaluating build ("check", "outline", "targets")', "build"),
    ("check", "", "bool", 'Shorthand for "--call=check"'),
    ("debug", "D", "bool", "Enable debug logging", "", "hidden"),
    ("file", "f", "list", "Build definition file"),
    ("list", "", "string", "List targets or variables"),
    ("load", "", "bool", 'Shorthand for "--set=*.output=type=docker". Conditional.'),
    ("metadata-file", "", "string", "Write build result metadata to a file"),
    ("no-cache", "", "bool", "Do not use cache when building the image"),
    ("print", "", "bool", "Print the options without building"),
    ("progress", "", "string",
     'Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty")', "auto"),
    ("provenance", "", "string", 'Shorthand for "--set=*.attest=type=provenance"'),
    ("pull", "", "bool", "Always attempt to pull all referenced images"),
    ("push", "", "bool", 'Shorthand for "--set=*.output=type=registry". Conditional.'),
    ("sbom", "", "string", 'Shorthand for "--set=*.attest=type=sbom"'),
    ("set", "", "list", 'Override target value (e.g., "targetpattern.key=value")'),
    ("var", "", "list", 'Set a variable value (e.g., "name=value")'),
)


def bake(session: Session, flags: Flags) -> int:
    """``pallet bake``: builds targets at the same time; progress on stderr, ``--print`` and ``--list`` on stdout."""
    from pallet.cli.bake import files, resolve
    from pallet.cli.bake.hcl.errors import HclError
    from pallet.cli.bake.remote import Remote, is_url

    if flags["print"] and flags["list"]:
        raise CommandError("--print and --list are mutually exclusive")
    started_ns = time.time_ns()
    words = list(flags.args)
    remote = Remote(session, words.pop(0)) if words and is_url(words[0]) else None
    around = words.pop(0) if remote is not None and words and is_url(words[0]) else ""
    read: list[tuple[str, int]] = []
    try:
        environment = _environment(session, flags["var"])
        if around:
            environment["BAKE_CMD_CONTEXT"] = around
        definition = files.load(flags["file"], environment, read, remote)
        if flags["list"]:
            return _list(definition, flags["list"])
        given = resolve.overrides(_sets(flags), list(definition.targets), session.env)
        plan = resolve.resolve(definition, words, given)
        for target in plan.targets.values() if _called(flags) else ():
            target["call"] = _called(flags)
    except HclError as error:
        warn(error.snippet())
        return _error(str(error))
    except CommandError as error:
        return _error(str(error))
    except RecursionError:
        return _error("the definition is nested too deeply")
    if flags["print"]:
        if remote is not None:
            plan.rebase(remote)
        from pallet.client import wire

        out(wire.indent(wire.escape_html(wire.encode_text(resolve.document(plan))), "  "))
        return 0
    return _build(session, flags, plan, (read, started_ns), remote)


def _error(text: str) -> int:
    warn(f"ERROR: {text}")
    return 1


def _environment(session: Session, given: Sequence[str]) -> dict[str, str]:
    found = dict(session.env)
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CommandError(f"invalid variable format: {text}, expected name=value")
        found[name] = value
    return found


def _called(flags: Flags) -> str:
    if flags["check"]:
        return "lint"
    found: str = flags["call"]
    return "" if found == "build" else "lint" if found == "check" else found


def _sets(flags: Flags) -> list[str]:
    found = list(flags["set"])
    found += [f"*.{name}=true" for name in ("no-cache", "pull") if flags[name]]
    found += [f"*.{name}=true" for name in ("push", "load") if flags[name]]
    for kind in ("sbom", "provenance"):
        text = flags[kind]
        if text:
            more = {"true": "", "false": ",disabled=true"}.get(text, f",{text}" if "=" in text else f",mode={text}")
            found.append(f"*.attest=type={kind}{more}")
    return found


# --- lists -----------------------------------------------------------------------------------------


def _list(definition: Definition, text: str) -> int:
    from pallet.cli.build.request import attributes

    fields = attributes(text, "value") if "=" in text else {"type": text}
    if fields.get("type") not in ("targets", "variables"):
        return _error(f"invalid list type \"{fields.get('type', '')}\"")
    rows = _variables(definition) if fields["type"] == "variables" else _targets(definition)
    if fields.get("format") == "json":
        from pallet.client import wire

        documents = [{key: value for key, value in row.items() if value or (key == "value" and value is not None)}
                     for row in rows]
        out(wire.indent(wire.escape_html(wire.encode_text(documents)), "  "))
        return 0
    heads = ("name", "type", "value", "description") if fields["type"] == "variables" else ("name", "description")
    titles = ["VARIABLE" if fields["type"] == "variables" else "TARGET", *(head.upper() for head in heads[1:])]
    _tabulate([titles, *([_cell(row.get(head, "")) for head in heads] for row in rows)])
    return 0


def _variables(definition: Definition) -> list[dict[str, Any]]:
    from pallet.cli.bake.definition import shown

    return [{"name": one.name, "description": one.description, "type": one.type, "value": shown(one.value)}
            for one in definition.variables]


def _cell(value: str | None) -> str:
    return "<null>" if value is None else value


def _targets(definition: Definition) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": name, "description": target.get("description", "")}
                                   for name, target in definition.targets.items() if name[0] != "_"]
    found += [{"name": name, "description": group.description or ", ".join(group.targets), "group": True}
              for name, group in definition.groups.items() if name[0] != "_"]
    return sorted(found, key=lambda row: (row["name"], "group" not in row))


def _tabulate(rows: list[list[str]]) -> None:
    """Columns with tabs, as Go's tabwriter has them with cells of eight."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    cells = [(width // 8 + 1) * 8 for width in widths]
    for row in rows:
        line = ""
        for at, text in enumerate(row[:-1]):
            line += text + "\t" * -(-(cells[at] - len(text)) // 8)
        out(line + row[-1])


# --- building --------------------------------------------------------------------------------------


def _build(session: Session, flags: Flags, plan: Plan, told: tuple[list[tuple[str, int]], int],
           remote: Remote | None) -> int:
    from pallet.cli.bake import privileges
    from pallet.cli.bake.building import Bakery, prepared
    from pallet.cli.build.talk import BuildFailedError
    from pallet.cli.commands.build import view_of

    try:
        if missing := privileges.problem(plan.targets, flags["allow"], remote=remote, environment=session.env):
            warn(missing)
            return _error("additional privileges requested")
        wanted = prepared(session, plan, remote)
    except CommandError as error:
        return _error(str(error))
    calls = {name for name, made in wanted.items() if made.call["call"]}
    progress = "quiet" if calls else "quiet" if flags["progress"] == "none" else flags["progress"]
    bakery = Bakery(session, wanted, view_of(progress))
    bakery.tell(*told, remote=remote is not None)
    bakery.run()
    if bakery.error is not None:
        for text in bakery.snippet():
            warn(text)
        solving = "failed to solve: " if isinstance(bakery.error, BuildFailedError) else ""
        return _error(f"target {bakery.failed}: {solving}{bakery.error}" if len(wanted) > 1
                      else f"{solving}{bakery.error}")
    if calls:
        return _answers(bakery, {name: wanted[name].call["call"] for name in sorted(calls)})
    if flags["metadata-file"]:
        from pallet.cli.commands.build import metadata_of, write_document

        write_document(flags["metadata-file"], {
            name: metadata_of(wanted[name].call["ref"], result) for name, result in sorted(bakery.results.items())})
    return 0


def _answers(bakery: Bakery, calls: dict[str, str]) -> int:
    from pallet.cli.commands.build import print_answer

    code = 0
    for at, (name, call) in enumerate(calls.items()):
        if len(calls) > 1:
            sys.stdout.write("\n" if at else "")
            out(f"{name}\n")
        code = max(code, print_answer(call, bakery.results[name]))
    return code
