"""Go templates, tables, units and the fields of lists."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pallet.cli.commands.events import event_line
from pallet.cli.errors import CommandError
from pallet.cli.format import units
from pallet.cli.format.lexer import TemplateError
from pallet.cli.format.table import align, layout_for, render
from pallet.cli.format.template import Template
from pallet.cli.format.values import go_format, mark
from pallet.cli.format.views import (
    CONTAINER_TABLE,
    IMAGE_TABLE,
    container_view,
    display_ports,
    history_view,
    image_rows,
    image_view,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = {
    "Id": "sha256:1", "Size": 12, "Os": "linux", "RepoTags": ["a:1", "b:2"], "Author": "",
    "Config": {"Cmd": ["sh"], "Labels": {"k": "v", "a": "b"}, "Env": None, "Volumes": None},
    "State": {"Running": True, "Pid": 7, "Health": None}, "Ports": {"80/tcp": [
        {"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": None},
}


@pytest.mark.parametrize(("text", "output"), [
    ("{{.Id}} {{ .Size }}", "sha256:1 12"), ("{{.ID}}", "sha256:1"),
    ("{{json .Config.Labels}}", '{"k":"v","a":"b"}'), ("{{json .Config.Env}}", "null"),
    ("{{.Config.Env}} {{.Config.Volumes}}", "[] map[]"),
    ("{{.Config.Labels}}", "map[a:b k:v]"), ("{{.Config.Cmd}}", "[sh]"),
    ("{{.State.Running}} {{.State.Health}}", "true <nil>"),
    ("{{.Ports}}", "map[80/tcp:[{0.0.0.0 8080}] 81/tcp:<nil>]"),
    ("{{range .RepoTags}}[{{.}}]{{end}}", "[a:1][b:2]"),
    ("{{range $i, $t := .RepoTags}}{{$i}}={{$t}};{{end}}", "0=a:1;1=b:2;"),
    ("{{range $k, $v := .Config.Labels}}{{$k}}{{$v}}{{end}}", "abkv"),
    ("{{range .Config.Env}}x{{else}}none{{end}}", "none"),
    ("{{range $p, $b := .Ports}}{{if $b}}{{$p}}->{{(index $b 0).HostPort}}{{end}}{{end}}",
     "80/tcp->8080"),
    ("{{if .Author}}a{{else if .Size}}b{{else}}c{{end}}", "b"),
    ("{{with .Config}}{{.Cmd}}{{end}}{{with .Author}}x{{else}}y{{end}}", "[sh]y"),
    ("{{$x := .Size}}{{with .Config}}{{$x}}{{$.Id}}{{end}}", "12sha256:1"),
    ("{{index .RepoTags 1}} {{index .Config.Labels \"k\"}} {{len .RepoTags}}", "b:2 v 2"),
    ("{{upper .Os}} {{lower \"AB\"}} {{title .Os}} {{truncate .Os 3}}", "LINUX ab Linux lin"),
    ("{{join .RepoTags \", \"}} {{split \"a,b\" \",\"}}", "a:1, b:2 [a b]"),
    ("{{.Os | upper | printf \"%s-%d\" }}", "LINUX-%!d(MISSING)"),
    ("{{printf \"%q %5d|%-5s|\" .Os .Size \"ab\"}}", '"linux"    12|ab   |'),
    ("{{println \"a\" 1}}{{print \"a\" 1 2}}", "a 1\na1 2"),
    ("{{eq .Os \"x\" \"linux\"}} {{ne 1 2}} {{lt 1 2}} {{ge 1 2}}", "true true true false"),
    ("{{and .Size .Author}}|{{or .Author \"d\"}}|{{not .Author}}", "|d|true"),
    ("a  {{- \" b \" -}}  c", "a b c"), ("{{/* note */}}x{{- /* n */ -}} y", "xy"),
    ("{{`raw`}}{{\"a\\tb\\u0041\"}}{{'a'}}", "rawa\tbA97"), ("{{slice .Os 1 3}}", "in"),
    ("{{range .RepoTags}}{{break}}{{end}}|{{range .RepoTags}}{{continue}}x{{end}}", "|"),
    ("{{html \"<a>\"}}", "&lt;a&gt;"), ("{{(.Config).Cmd}}", "[sh]"), ("", ""), ("plain", "plain"),
])
def test_templates(text: str, output: str) -> None:
    assert Template(text).execute(mark(DATA)) == output


@pytest.mark.parametrize(("text", "words"), [
    ("{{.Bogus}}", 'template: :1:2: executing "" at <.Bogus>: map has no entry for key "Bogus"'),
    ("x\n{{.Config.No}}",
     'template: :2:9: executing "" at <.Config.No>: map has no entry for key "No"'),
    ("{{.State.Health.Status}}", "nil pointer evaluating interface {}.Status"),
    ("{{.Os.X}}", "can't evaluate field X"), ("{{index .RepoTags 9}}", "index out of range: 9"),
    ("{{len 3}}", "len of type int"), ("{{upper}}", "wrong number or type of args for upper"),
    ("{{range .Os}}{{end}}", "range can't iterate over linux"),
])
def test_templates_fail_to_execute(text: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(text).execute(mark(DATA))
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [
    ("{{", "unclosed action"), ("{{.A", "unclosed action"), ("{{foo .}}", 'function "foo" not defined'),
    ("{{if .A}}x", "unexpected EOF"), ("{{end}}", "unexpected {{end}}"), ("{{}}", "missing value"),
    ("{{\"a}}", "unterminated quoted string"), ("{{if}}{{end}}", "missing value for if"),
    ("{{.A # }}", "unrecognized character"), ("{{template \"x\"}}", "unsupported action"),
    ("{{/* x }}", "unclosed comment"), ("{{`a}}", "unterminated raw quoted string"),
])
def test_templates_fail_to_parse(text: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "args", "output"), [
    ("%d%%", (5,), "5%"), ("%v %v", (1, [1, 2]), "1 [1 2]"), ("%s", (), "%!s(MISSING)"),
    ("x", (1,), "x%!(EXTRA int=1)"), ("%05d|%.2f|%x", (7, 1.5, 255), "00007|1.50|ff"),
    ("%d", ("a",), "%!d(string=a)"), ("%t %5.2s|", (True, "abc"), "true    ab|"),
])
def test_printf(text: str, args: tuple[object, ...], output: str) -> None:
    assert go_format(text, *args) == output


# -- tables ---------------------------------------------------------------------------------------


def test_columns_align_as_tabwriter_does() -> None:
    assert align(["A\tLONG HEADER\tC", "aaaaaaaaaaaa\tb\tc"]) == (
        "A              LONG HEADER   C\naaaaaaaaaaaa   b             c\n")
    assert align(["A\tB"]) == "A         B\n"


def test_cells_align_only_with_their_neighbours() -> None:
    assert align(["a\tb", "alone", "a\tb\tc"]) == "a         b\nalone\na         b         c\n"


CONTAINER = {
    "Id": "f" * 64, "Names": ["/web", "/other/link"], "Image": "busybox", "ImageID": "sha256:" + "a" * 64,
    "Command": "sh -c 'echo \"a long command line\"'", "Created": int(time.time()) - 3600 * 5,
    "State": "running", "Status": "Up 5 hours", "Labels": {"b": "2", "a": "1"}, "SizeRw": 0,
    "SizeRootFs": 1_982_000, "Ports": [], "Mounts": [{"Name": "n" * 64, "Driver": "local"}],
    "NetworkSettings": {"Networks": {"bridge": {}}},
}


def test_ps_table() -> None:
    text = render(container_view(truncate=True), [CONTAINER], f"table {CONTAINER_TABLE}")
    assert text.splitlines() == [
        "CONTAINER ID   IMAGE     COMMAND                   CREATED       STATUS       PORTS     "
        "NAMES",
        'ffffffffffff   busybox   "sh -c \'echo \\"a long…"   5 hours ago   Up 5 hours             web']


@pytest.mark.parametrize(("layout", "output"), [
    ("{{.ID}} {{.Names}}", "ffffffffffff web"), ('{{.Label "a"}}', "1"), ("{{.Labels}}", "a=1,b=2"),
    ("{{.Size}}", "0B (virtual 1.98MB)"), ("{{.Mounts}} {{.LocalVolumes}}", "nnnnnnnnnnnnnn… 1"),
    ("{{.Networks}}", "bridge"), ("{{json .Names}}", '"web"'),
    ('table {{.ID}}\\t{{.Label "b"}}', "CONTAINER ID   b\nffffffffffff   2"),
])
def test_ps_formats(layout: str, output: str) -> None:
    assert render(container_view(truncate=True), [CONTAINER], layout) == output + "\n"


def test_json_rows_have_every_field_and_gos_escapes() -> None:
    row = render(container_view(truncate=False), [{**CONTAINER, "Image": "<none>"}], "json")
    assert row.startswith('{"Command":')
    assert '"Image":"\\u003cnone\\u003e"' in row
    assert '"Names":"web,other/link"' in row


def test_wrong_fields_are_found_without_rows() -> None:
    with pytest.raises(CommandError) as caught:
        render(container_view(truncate=True), [], "{{.Bogus}}")
    assert str(caught.value) == (
        'failed to execute template: template: :1:2: executing "" at <.Bogus>: '
        "can't evaluate field Bogus in type *formatter.ContainerContext")


@pytest.mark.parametrize(("given", "quiet", "configured", "layout"), [
    ("", False, "", "table D"), ("", True, "", "{{.ID}}"), ("table", False, "", "table D"),
    ("table {{.A}}", True, "", "{{.ID}}"), ("{{.A}}", True, "", "{{.A}}"), ("", False, "C", "C"),
    ("", True, "C", "{{.ID}}"), ("json", False, "C", "json"),
])
def test_choice_of_layout(given: str, quiet: bool, configured: str, layout: str) -> None:
    assert layout_for(given, "D", quiet=quiet, configured=configured) == layout


def port(private: int, public: int = 0, address: str = "", proto: str = "tcp") -> dict[str, object]:
    found: dict[str, object] = {"PrivatePort": private, "Type": proto}
    return {**found, "PublicPort": public, "IP": address} if public else found


@pytest.mark.parametrize(("ports", "text"), [
    ([port(80)], "80/tcp"), ([port(81), port(80), port(82)], "80-82/tcp"),
    ([port(80, 8080, "0.0.0.0"), port(80, 8080, "::")],
     "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"),
    ([port(80, 80, "0.0.0.0"), port(81, 81, "0.0.0.0")], "0.0.0.0:80-81->80-81/tcp"),
    ([port(80), port(82), port(53, proto="udp")], "80/tcp, 53/udp, 82/tcp"),
])
def test_ports(ports: list[dict[str, object]], text: str) -> None:
    assert sorted(display_ports(ports).split(", ")) == sorted(text.split(", "))


def test_images_have_a_row_for_each_name() -> None:
    image = {"Id": "sha256:" + "a" * 64, "Created": 1, "Size": 1, "RepoTags": ["a:1", "reg:5000/b:2"],
             "RepoDigests": ["a@sha256:d", "c@sha256:e"]}
    rows = image_rows([image], digests=False)
    assert [(row["_repo"], row["_tag"]) for row in rows] == [
        ("a", "1"), ("reg:5000/b", "2"), ("c", "<none>")]
    digests = image_rows([image], digests=True)
    assert [row["_digest"] for row in digests] == ["sha256:d", "<none>", "sha256:e"]
    dangling = image_rows([{**image, "RepoTags": [], "RepoDigests": []}], digests=False)
    assert render(image_view(truncate=True), dangling, "{{.Repository}} {{.ID}}") == (
        "<none> aaaaaaaaaaaa\n")


@pytest.mark.parametrize(("created", "image", "layer", "moment"), [  # as docker 28.2.2 tells them
    (-62135596800, "N/A", "N/A", "0001-01-01T00:00:00Z"),
    (-62135596801, "292 years ago", "N/A", "0000-12-31T23:59:59Z"),
    (0, "%d years ago", "N/A", "1970-01-01T00:00:00Z"),
    (-1, "%d years ago", "N/A", "1969-12-31T23:59:59Z"),
    (946684800, "%d years ago", "N/A", "2000-01-01T00:00:00Z"),
    (946684801, "%d years ago", "%d years ago", "2000-01-01T00:00:01Z"),
])
@pytest.mark.usefixtures("utc")
def test_times_that_are_none(created: int, image: str, layer: str, moment: str) -> None:
    years = int((time.time() - created) / 3600 / 24 / 365)
    record = {"Id": "sha256:" + "a" * 64, "Created": created, "Size": 1, "RepoTags": ["a:1"], "RepoDigests": []}
    table = IMAGE_TABLE.split("\t")[3]
    view = image_view(truncate=True)
    assert render(view, image_rows([record], digests=False), f"{table}|{{{{.CreatedAt}}}}") == (
        f"{image.replace('%d', str(years))}|{moment.replace('T', ' ').replace('Z', ' +0000 UTC')}\n")
    for human, since in ((True, layer.replace("%d", str(years))), (False, moment)):
        view = history_view(truncate=True, human=human)
        assert render(view, [record], "{{.CreatedSince}}|{{.CreatedAt}}") == f"{since}|{moment}\n"


# -- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "words"), [
    (0.4, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"),
    (119, "About a minute"), (120, "2 minutes"), (3599, "59 minutes"), (3600, "About an hour"),
    (5399, "About an hour"), (5400, "2 hours"), (48 * 3600, "2 days"), (14 * 86400, "2 weeks"),
    (60 * 86400, "2 months"), (730 * 86400, "2 years"),
])
def test_durations(seconds: float, words: str) -> None:
    assert units.human_duration(seconds) == words


def test_sizes() -> None:
    assert [units.human_size(n) for n in (0, 999, 1000, 1_982_296)] == ["0B", "999B", "1kB", "1.982MB"]
    assert units.human_size(1_982_296, 3) == "1.98MB"
    assert units.binary_size(25_276_063_744) == "23.54GiB"


@pytest.mark.parametrize(("text", "parsed"), [
    ("1970-01-01T00:00:01Z", (1, 0)), ("2024-02-29T12:00:00.5+02:00", (1709200800, 500000000)),
    ("0001-01-01T00:00:00Z", (-62135596800, 0)),
])
def test_times(text: str, parsed: tuple[int, int]) -> None:
    assert units.parse_rfc3339(text) == parsed


def test_go_prints_times() -> None:
    assert units.go_time("2024-01-02T03:04:05.120Z") == "2024-01-02 03:04:05.12 +0000 UTC"


@pytest.mark.parametrize(("text", "sent"), [
    ("", ""), ("1700000000.5", "1700000000.5"), ("10m", "400"),
    ("1.5s", "998"), ("1970-01-01T00:00:10Z", "10.000000000"),
    ("1970-01-02Z", "86400.000000000"),
])
def test_since_and_until(text: str, sent: str) -> None:
    assert units.api_time(text, now=1000.0) == sent


def test_no_time() -> None:
    with pytest.raises(ValueError, match='failed to parse value as time or duration: "xx"'):
        units.api_time("xx")


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("utc")
def test_event_lines() -> None:
    assert event_line({
        "Type": "container", "Action": "die", "timeNano": 1_700_000_000_000_000_001,
        "Actor": {"ID": "abc", "Attributes": {"name": "n", "exitCode": "0"}}}) == (
        "2023-11-14T22:13:20.000000001Z container die abc (exitCode=0, name=n)")
