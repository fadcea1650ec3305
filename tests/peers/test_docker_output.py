"""capsa prints what the real docker client prints of the same engine, and ends with the same code."""

from __future__ import annotations

import json
import re
import shlex

import pytest

# Each is run with both clients; text and code have to be the same.
SAME = r"""
ps
ps -a
ps -aq
ps -a --no-trunc
ps -as
ps -n 2
ps -l
ps -aq --no-trunc
ps --format table
ps -a --format "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.CreatedAt}}\t{{.Ports}}\t{{.State}}\t{{.Names}}\t{{.Size}}"
ps -a --format "table {{.Names}}\t{{.Labels}}\t{{.Mounts}}\t{{.Networks}}\t{{.LocalVolumes}}\t{{.Label \"colour\"}}"
ps -a --format "{{.Names}}: {{upper .State}} {{.Label \"a.b-c_d\"}}"
ps -f status=running --format "{{.Names}}"
ps -f nonsense=1
ps -f nonsense
ps --format "{{.Nope}}"
ps --format "{{"
ps x
images
images -q
images --no-trunc
images --digests
images nosuch
images --format "table {{.ID}}\t{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.CreatedSince}}\t{{.CreatedAt}}\t{{.Size}}"
images -f dangling=true
image ls
image list
history busybox
history -q busybox
history --no-trunc busybox
history --human=false busybox
history --format "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}" busybox
network ls
network ls --no-trunc
network ls -q
network ls -f driver=bridge
network ls -f label=a=b
network ls --format "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}\t{{.IPv6}}\t{{.Labels}}\t{{.CreatedAt}}"
network ls --format "{{.Name}} {{.Label \"a\"}}"
network inspect -f "{{.Name}} {{(index .IPAM.Config 0).Subnet}} {{.ID}}" net
network inspect -f "{{range .Containers}}{{.Name}}{{end}}" net
network rm bridge
network rm nosuch
network create net
network create --gateway 1.2.3.4 other
network connect net nosuch
volume ls
volume ls -q
volume ls -f name=vol
volume ls -f dangling=true
volume ls --format "table {{.Name}}\t{{.Driver}}\t{{.Scope}}\t{{.Mountpoint}}\t{{.Labels}}\t{{.Links}}\t{{.Size}}"
volume ls --format "{{.Name}} {{.Label \"x\"}}"
volume inspect -f "{{.Name}} {{.Labels.x}} {{.Driver}} {{.Options}}" vol1
volume rm nosuch
volume rm vol1
inspect --type image box
inspect --type nonsense box
inspect -f "{{.Id}} {{.Name}} {{.State.Status}} {{.Config.Labels}} {{.Args}}" box
inspect -f "{{.ID}}" box
inspect -f "{{range .Mounts}}{{.Type}} {{.Destination}}{{println}}{{end}}" box
inspect -f "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}}{{end}}" box
inspect -f "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}" box
inspect -f "{{with .State}}{{if .Running}}yes{{else}}no{{end}}{{end}}" box
inspect -f "{{len .Mounts}} {{printf \"%.5s|%5d|%q\" .Name 7 .Name}}" box
inspect -f "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}} {{json .Config.Cmd}}" web
inspect -f "{{range $p, $conf := .NetworkSettings.Ports}}{{$p}} -> {{(index $conf 0).HostPort}} {{end}}" web
image inspect -f "{{.Id}} {{.RepoTags}} {{.Config.Cmd}} {{.RootFS.Layers}}" busybox
system df
system df --format "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
system df --format "{{.Type}} {{.Active}}"
top box -o pid,cmd
top created
port web
port web 80
port web 80/tcp
port web 443/udp
port web 443
port box
stats --no-stream --format "table {{.Container}}\t{{.Name}}\t{{.ID}}\t{{.NetIO}}\t{{.PIDs}}" box web
stats --no-stream --format "{{.Name}} {{.Container}} {{.ID}} {{.CPUPerc}} {{.MemUsage}} {{.MemPerc}}" created
stats --no-stream nosuch
wait nosuch
wait
kill created
kill -s NOSUCH box
stop nosuch
rm box
start nosuch
pause created
unpause box
exec created true
exec box nosuch
exec box /etc/passwd
exec box sh -c "echo out; exit 9"
attach created
rename box web
update box
update -m 1k box
tag busybox UPPER
search busybox
events --since 1 --until 2
events --since nonsense
version --format "{{.Server.Version}} {{.Server.APIVersion}} {{.Server.Os}}"
info --format "{{.OSType}} {{.ServerVersion}} {{.NCPU}} {{.Swarm.LocalNodeState}}"
info --format "{{.Nope}}"
network prune
run
run --nosuch busybox
run -it busybox true
run --pull never nosuch true
run --rm busybox nosuch
run --rm busybox /etc/passwd
run --rm busybox sh -c "echo out; exit 5"
run --rm --restart always busybox
run --rm --memory 1 busybox
run --rm --memory x busybox
run --rm --network nosuch busybox
run --rm --name web busybox
run --rm --user nosuch busybox
run --rm --ulimit nofile busybox
run --rm --mount type=bind,src=/nosuch,dst=/x busybox
run --rm --network net --ip 10.77.0.99 busybox hostname -i
run --rm --network net --network-alias a --add-host h:1.2.3.4 busybox grep h /etc/hosts
create --name web busybox
nosuch
--nosuch
load -i /nosuch
save nosuch
"""
# What clients before 28 do otherwise.
NEW = r"""
ps -q --format "{{.Names}}"
rm -f nosuch
network rm -f nosuch
system df -v
container prune
image prune
image prune -a
volume prune
run --rm --network name=net,ip=10.77.0.98,alias=x busybox hostname -i
run --rm --network name=net --network bridge busybox
"""
# Alike as JSON: one document a line, names may have another order.
JSON = r"""
ps -a --format json
images --format json
network ls --format json
volume ls --format json
history --format json busybox
system df --format json
system df -v --format json
inspect box
inspect -f "{{json .}}" box
container inspect box web
image inspect busybox
network inspect net
volume inspect vol1 vol2
stats --no-stream --format json created
events --since 1h --until 0s --format json -f container=box -f event=start
info --format "{{json .Plugins}}"
"""
_OLD_DOCKER = 28


def lines(text):
    return [line for line in text.strip().splitlines() if line]


@pytest.fixture(scope="module")
def world(engine, busybox, docker_client):
    """Containers, networks and volumes to look at."""
    docker = engine.docker
    docker("tag", "busybox", "registry.example/a/b:2")
    docker("network", "create", "--subnet", "10.77.0.0/24", "--label", "a=b", "net")
    docker("volume", "create", "--label", "x=y", "vol1")
    docker("volume", "create", "vol2")
    docker("run", "-d", "--name", "web", "-p", "127.0.0.1::80", "-p", "127.0.0.1::443/udp", "busybox", "sleep", "1000")
    docker("create", "--name", "created", "busybox", "true")
    docker(
        *("run", "-d", "--name", "box", "--network", "net", "--network-alias", "alias", "-v", "vol1:/data"),
        *("-v", "/tmp:/mnt:ro", "-l", "colour=red", "-l", "a.b-c_d=1", "busybox", "sleep", "1000"),
    )
    return engine


def both(world, line):
    """What docker and capsa give for a command line."""
    words = shlex.split(line)
    return world.docker(*words, input="", check=False), world.capsa(*words, input="", check=False)


def text_of(done):
    """Standard output, without what an order or a moment decides."""
    text = re.sub(r"(Less than a second|About a minute|\d+ (second|minute)s?)( ago)?", "(now)", done.stdout)
    return sorted(line.rstrip() for line in re.sub(r"  +", "  ", text).splitlines() if line.strip())


@pytest.mark.parametrize("line", lines(SAME))
def test_both_print_the_same_and_end_with_the_same_code(world, line):
    docker, capsa = both(world, line)
    assert capsa.returncode == (1 if docker.returncode == 64 else docker.returncode), (docker.stderr, capsa.stderr)
    if not docker.returncode or "inspect" not in line:
        assert text_of(capsa) == text_of(docker)
    assert "Traceback" not in capsa.stderr


@pytest.mark.parametrize("line", lines(NEW))
def test_both_do_what_newer_clients_do(world, line):
    version = world.docker("version", "--format", "{{.Client.Version}}").stdout
    if int(version.partition(".")[0]) < _OLD_DOCKER:
        pytest.skip(f"needs a docker client of version {_OLD_DOCKER} or newer, this is {version.strip()}")
    docker, capsa = both(world, line)
    assert (capsa.returncode, text_of(capsa)) == (docker.returncode, text_of(docker)), capsa.stderr


def documents(done):
    decoder, found, position = json.JSONDecoder(), [], 0
    while position < len(done.stdout.rstrip()):
        document, position = decoder.raw_decode(done.stdout, position)
        found.append(document)
        while position < len(done.stdout) and done.stdout[position].isspace():
            position += 1
    return found


def hold(ours, theirs, where=""):
    """Whatever docker's document says, ours says as well; moments and the order of a list's entries may differ."""
    if isinstance(theirs, dict):
        for name, value in theirs.items():
            assert name in ours or not value, f"{where}.{name}"
            if name in ours:
                hold(ours[name], value, f"{where}.{name}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for mine, one in zip(ours, theirs, strict=True):
            hold(mine, one, where)
    elif where.endswith("Labels") and isinstance(theirs, str):
        assert sorted(ours.split(",")) == sorted(theirs.split(",")), where
    elif where.rpartition(".")[2] not in ("Status", "RunningFor", "CreatedSince", "SystemTime", "Digest"):
        assert ours == theirs, where


@pytest.mark.parametrize("line", lines(JSON))
def test_json_holds_what_dockers_holds(world, line):
    docker, capsa = both(world, line.replace("--format json", '--format "{{json .}}"') if old(world) else line)
    assert capsa.returncode == docker.returncode == 0, (docker.stderr, capsa.stderr)
    theirs, ours = (
        sorted(documents(done), key=lambda one: json.dumps(one, sort_keys=True)) for done in (docker, capsa)
    )
    assert theirs
    hold(ours, theirs)


def old(world):
    version = world.docker("version", "--format", "{{.Client.Version}}").stdout
    return int(version.partition(".")[0]) < _OLD_DOCKER
