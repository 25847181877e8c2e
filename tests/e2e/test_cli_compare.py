"""``pallet`` beside the real ``docker`` on one daemon: same output, same exit code, other name."""

from __future__ import annotations

import re
import shlex
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.dockercli import DockerCli, Result

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")

# Mistakes in the command line: nothing of the daemon is involved.
MISTAKES = """
ps extra
ps --bogus
ps -n x
ps --no-trunc=x
ps -f bogus
ps --format {{.Bogus}}
rm
rename a
tag a
pull
port
port a b c
commit
commit a b c
commit a BAD!
commit --bogus a
diff
diff a b
export
export -o /nowhere/x a
export -o /tmp a
export -o /dev/null a
cp
cp a
cp a b
cp a: b
cp a:b c:d
cp a:/x /nowhere/y/z
logs
exec nope
image rm
image inspect
image bogus
container bogus
bogus
version --bogus
--bogus ps
-H
-H foo://x ps
-H unix:///nosock ps
create
create --rm=x
stop -t x a
inspect --type foo x
pull BAD!
pull -a busybox:latest
events --filter x
events --since xx
run
run --bogus
run -Z
run -itx busybox
run --memory
run -p
run --=x busybox
run ---x busybox
run -m abc busybox
run --shm-size x busybox
run -c x busybox
run --blkio-weight 70000 busybox
run --rm=maybe busybox
run --health-interval 1 busybox
run --cpus x busybox
run --cpus 0.0000000001 busybox
run -p abc busybox
run -p 80:99999 busybox
run -p 1.2.3:80:80 busybox
run -p 80-81:80-83 busybox
run -p 80:80/foo busybox
run -p published=x,target=80 busybox
run -p : busybox
run --expose x busybox
run --expose 80:80 busybox
run --expose 81-80 busybox
run -e =x busybox
run --label =x busybox
run --env-file /nofile busybox
run --label-file /nofile busybox
run -v '' busybox
run -v /a: busybox
run -v :/a busybox
run -v /a:/b:ro:x:y busybox
run --mount foo busybox
run --mount '' busybox
run --mount type=foo busybox
run --mount type=bind,source=/x,target=/y,bogus=1 busybox
run --mount type=bind,source=/x,target=/y,readonly=2 busybox
run --mount type=volume,target=/y,tmpfs-size=1 busybox
run --device x busybox
run --device /dev/null:/x:zz busybox
run --device /dev/null:/x:rw:z busybox
run --ulimit x busybox
run --ulimit foo=3 busybox
run --ulimit nofile=5:3 busybox
run --ulimit nofile=x busybox
run --link a:b:c:d busybox
run --add-host x busybox
run --add-host a:b busybox
run --dns x busybox
run --dns-search 'a b' busybox
run --sysctl x busybox
run --gpus x busybox
run --gpus bogus=1 busybox
run --blkio-weight-device x busybox
run --blkio-weight-device /dev/sda:5 busybox
run --device-read-bps x busybox
run --device-read-iops /dev/sda:x busybox
run --device-write-bps /dev/sda:1x busybox
run -a foo busybox
run -d -a stdout busybox
run -it busybox true
run --pull=x busybox
run --pid foo busybox
run --uts foo busybox
run --userns foo busybox
run --cgroupns foo busybox
run --security-opt foo busybox
run --security-opt seccomp=/nofile busybox
run --restart on-failure:x busybox
run --restart=always --rm busybox
run --log-driver none --log-opt a=b busybox
run --storage-opt x busybox
run --memory-swappiness 101 busybox
run --health-cmd x --no-healthcheck busybox
run --health-retries -2 --health-cmd x busybox
run --mac-address x busybox
run --network-alias x busybox
run --network bridge --network-alias x busybox
run --network name=foo,alias=x --network-alias y busybox
run --network bogus=foo busybox
run --network host --network foo busybox
run --network alias=x busybox
run --network '' busybox
run --network foo --network foo busybox
run --network name=foo,gw-priority=x busybox
run 'BAD!'
"""

# Questions and refusals: the daemon's words, told the same way.
ANSWERS = """
images
images -q
images --no-trunc
images --digests
image ls --format '{{json .Repository}} {{json .Digest}} {{json .Size}} {{json .CreatedAt}}'
image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}'
image ls --format 'table {{.Repository}}\\t{{.ID}}'
images -f bogus=x
history busybox
history --no-trunc busybox
network ls
network ls --no-trunc
network ls --format json
network inspect bridge
network inspect nope
network inspect bridge -f '{{.Name}} {{.Driver}} {{range .IPAM.Config}}{{.Subnet}}{{end}}'
volume ls
inspect busybox
inspect busybox --format json
inspect busybox -f '{{.Id}} {{.Os}} {{.Config.Cmd}} {{len .RepoTags}} {{index .RepoTags 0}}'
inspect busybox -f '{{range $i, $t := .RepoTags}}{{$i}}={{$t}}{{end}} {{json .RootFS}}'
inspect busybox -f '{{.Bogus}}'
inspect busybox -f '{{'
inspect nope
inspect nope nope2
container inspect nope
image inspect nope
rm nope
rm -f nope
stop nope nope2
kill nope
start nope
start -a nope
exec nope sh
attach nope
logs nope
wait nope
port nope
top nope
rename nope b
rmi nope
rmi -f nope
tag nope b
history nope
system df --format json
version --format '{{.Server.Version}} {{.Server.APIVersion}} {{.Server.Os}}'
info --format '{{.ServerVersion}} {{.Driver}} {{json .Plugins}}'
context ls
context show
"""

RUNS = """
run --rm busybox echo hi
run --rm busybox sh -c 'echo out; echo err >&2; exit 42'
run --rm busybox nocmd
run --rm busybox /etc
run --rm -e A=b -e NONE busybox sh -c 'echo $A $HOME'
run --rm -w /tmp busybox pwd
run --rm -w rel busybox pwd
run --rm -u 1000:1000 busybox id
run --rm --entrypoint echo busybox a b
run --rm --entrypoint '' busybox echo c
run --rm -h box busybox hostname
run --rm -h=box busybox hostname
run --rm -t busybox echo tty
run --rm -a stdout busybox sh -c 'echo o; echo e >&2'
run --rm -a stderr busybox sh -c 'echo o; echo e >&2'
run --rm --read-only busybox touch /x
run --rm --tmpfs /foo:size=1m busybox df /foo
run --rm --add-host foo:1.2.3.4 busybox grep foo /etc/hosts
run --rm --net none busybox echo x
run --rm -- busybox echo -- hi
run --rm busybox echo --help
run --rm --help=false busybox echo x
run --rm --restart=foo busybox true
run --rm --stop-signal FOO busybox true
run --rm --ipc foo busybox true
run --rm --mount type=bind,source=/nonexist,target=/y busybox true
run --rm -v /a:/b:zz busybox true
run --rm --log-opt foo busybox true
run --rm --oom-score-adj 5000 busybox true
run --rm --cidfile /etc/passwd busybox true
create --name x/y busybox
"""


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


AGES = re.compile(r"(?:About an? \w+|Less than a second|\d+ (?:second|minute|hour)s?)(?: ago)?")


def normal(result: Result) -> tuple[int, str, str]:
    """Exit code and output without what differs by design: name, ids, ages and their padding.

    One word of docker's ("SRun") is a slip of its own.
    """
    texts = []
    for text in (result.out, result.err):
        level = AGES.sub("<age>", text.replace("docker", "pallet").replace("SRun", "Run"))
        texts.append(re.sub(r" {2,}", "  ", re.sub(r"\b[0-9a-f]{64}\b", "<id>", level)))
    return result.code, texts[0], texts[1]


@pytest.mark.parametrize("line", lines(MISTAKES + ANSWERS + RUNS))
def test_same_as_docker(line: str, docker: DockerCli, pallet_cli: DockerCli) -> None:
    words = shlex.split(line)
    assert normal(pallet_cli.run(*words)) == normal(docker.run(*words))


# What is asked for must arrive the same: the records of both are compared.
CREATED = """
busybox
-it busybox sh -c 'echo a'
-p 80 -p 8080:80 -p 127.0.0.1:9000-9002:90-92/udp -p 7000-7010:70 --expose 100-102 busybox
-P -p published=8081,target=81,protocol=udp busybox
-e A=b -e C -l a=b -l c busybox
-v /tmp:/x:ro --tmpfs /t:size=1m --tmpfs /t2 busybox
--mount type=bind,src=/tmp,dst=/m,ro,bind-propagation=rslave busybox
--mount type=tmpfs,dst=/tt,tmpfs-size=2m,tmpfs-mode=1700 busybox
-m 64m --memory-reservation 32m --memory-swap -1 --cpus 1.5 --cpuset-cpus 0 --pids-limit 10 busybox
--cpu-quota 5000 --cpu-period 50000 --memory 1g --memory-swap 2g --pids-limit -1 busybox
--ulimit nofile=10:20 --ulimit core=0 --ulimit nproc=5 --shm-size 1g busybox
--cap-add sys_admin --cap-add CAP_CHOWN --cap-drop ALL --group-add 5 busybox
--privileged --security-opt no-new-privileges --security-opt seccomp=unconfined busybox
--security-opt systempaths=unconfined busybox
--device /dev/null --device /dev/null:/dev/x:r --device-cgroup-rule 'c 1:3 rwm' busybox
--dns 1.1.1.1 --dns-search a.b --dns-option ndots:1 --add-host a:1.2.3.4 busybox
--hostname h --domainname d --mac-address 02:42:AC:11:00:55 busybox
--network none busybox
--network host busybox
--pid host --ipc host --uts host --cgroupns host busybox
--restart on-failure:5 --stop-signal SIGINT --stop-timeout 5 busybox
--health-cmd 'true x' --health-interval 5s --health-retries 3 --health-timeout 1m30s busybox
--no-healthcheck --log-driver json-file --log-opt max-size=1m --log-opt max-file=2 busybox
--read-only --rm --init -u 1:2 -w /w --sysctl net.ipv4.ip_forward=1 busybox
--entrypoint /bin/sh busybox -c true
--entrypoint '' busybox a
-a stdin -a stderr -i busybox
--annotation a=b --oom-score-adj 5 busybox
"""


@pytest.mark.parametrize("line", lines(CREATED))
def test_creates_the_same_container(line: str, docker: DockerCli, pallet_cli: DockerCli) -> None:
    records = []
    for cli in (docker, pallet_cli):
        container = cli.ok("create", *shlex.split(line))
        record = cli.inspect(container)
        if record["Config"]["Hostname"] == container[:12]:
            record["Config"]["Hostname"] = "<short id>"
        # The size of the window that docker has none of here.
        record["HostConfig"].pop("ConsoleSize", None)
        # docker sends its -e in the order of a Go map, another one each time.
        record["Config"]["Env"] = sorted(record["Config"]["Env"])
        records.append({key: record[key] for key in ("Path", "Args", "Config", "HostConfig")})
        cli.ok("rm", container)
    assert records[1] == records[0]


def test_lists_of_running_containers(docker: DockerCli, pallet_cli: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "-l", "a=b", "-p", "127.0.0.1::80", "-v", "/tmp:/data:ro",
              "busybox", "sh", "-c", "sleep 600 # with a long command line")
    until = str(int(time.time()) + 1)  # "0s" is another second for each of the two
    for words in (
        ["ps"], ["ps", "-a", "--no-trunc"], ["ps", "-q"], ["ps", "--size"], ["port", name],
        ["ps", "--format", "json"], ["ps", "--filter", f"name={name}", "--format", "{{.Ports}}"],
        ["ps", "--format", 'table {{.Names}}\\t{{.Label "a"}}\\t{{.Mounts}}\\t{{.Networks}}'],
        ["inspect", name], ["inspect", "-f", "{{.State.Status}} {{.NetworkSettings.Ports}}", name],
        ["inspect", "-s", "-f", "{{.HostConfig.Binds}} {{.Config.Labels}}", name],
        ["events", "--since", "1h", "--until", until, "--filter", f"container={name}"],
        ["events", "--since", "1h", "--until", until, "--format", "{{.Type}} {{.Action}}"],
    ):
        assert normal(pallet_cli.run(*words)) == normal(docker.run(*words)), words
