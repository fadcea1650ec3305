"""The same command line makes the same request, whether docker's client or capsa sends it."""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import socketserver
import subprocess
import threading

import pytest
from fixtures.engine import CAPSA

VERSION = "1.47"
# Options of `create` and `run`; {tmp} is a directory with the files that some of them name.
OPTIONS = r"""
--add-host one:1.2.3.4 --add-host two=5.6.7.8
--annotation a=b --annotation c=
-a stdout -a STDERR
-a stdin -i
--blkio-weight 300 --blkio-weight-device /dev/sda:200
--cap-add NET_ADMIN --cap-add all --cap-drop mknod
--cgroup-parent /x --cgroupns host
--cpu-period 50000 --cpu-quota 25000 --cpu-rt-period 1000000 --cpu-rt-runtime 950000
-c 512 --cpuset-cpus 0-1 --cpuset-mems 0
--cpus 1.5
--device /dev/zero --device /dev/null:/dev/x --device /dev/null:rw --device /dev/null:/dev/y:r
--device-cgroup-rule "c 1:3 rwm"
--device-read-bps /dev/sda:1mb --device-write-bps /dev/sda:10
--device-read-iops /dev/sda:10 --device-write-iops /dev/sda:20
--dns 1.1.1.1 --dns-option ndots:2 --dns-search example.org
-h name --domainname example.org
--entrypoint /bin/sh
--entrypoint ""
-e A=1 -e B= -e HOME -e NOT_THERE --env-file {tmp}/env
--expose 80 --expose 90-92/udp
--gpus all
--gpus 2
--gpus "device=1"
--gpus "driver=x,count=1,capabilities=compute"
--group-add users --group-add 5
--health-cmd "test -e /x" --health-interval 10s --health-retries 3 --health-timeout 1m30s
--health-start-period 5s --health-start-interval 1s
--no-healthcheck
--init -i -t
--ipc host
--ipc shareable --shm-size 128m
--isolation default
-l a=b -l c --label-file {tmp}/labels
--link other:alias
--log-driver json-file --log-opt max-size=10m --log-opt max-file=3
--log-driver none
-m 64m --memory-reservation 32m --memory-swap 128m --memory-swappiness 10
-m 1g --memory-swap -1
--mount type=bind,source=/tmp,target=/mnt,readonly
--mount type=bind,src=/tmp,dst=/mnt,bind-propagation=rslave
--mount type=bind,src=/tmp,dst=/mnt,bind-recursive=disabled
--mount type=bind,src=/tmp,dst=/mnt,readonly,bind-recursive=writable
--mount type=volume,source=vol,target=/data,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=o=x
--mount source=vol,destination=/data,volume-subpath=sub,ro
--mount target=/anonymous
--mount type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1770
--mount type=image,source=busybox,target=/i
--mount '"type=bind","source=/with,comma","target=/mnt"'
--name box --platform linux/amd64
--network none
--network host
--network container:other
--network net
--network net --network-alias a --network-alias b --ip 10.1.2.3 --ip6 fd00::3 --link-local-ip 169.254.1.2
--network net --mac-address 02:42:00:00:00:01
--network net --link other:alias
--network name=net,alias=a,alias=b,ip=10.1.2.3,ip6=fd00::3,driver-opt=x=y,gw-priority=5
--network name=one,alias=a --network two
--oom-kill-disable --oom-score-adj 100
--pid host
--pids-limit 10
--pids-limit -1
--privileged
-p 80 -p 8080:80 -p 127.0.0.1:8081:81/udp -p 9000-9002:90-92 -p [::1]:5:6 -p 127.0.0.1::7
-P
--read-only --tmpfs /run --tmpfs /tmp:size=1m,exec
--restart always
--restart on-failure:5
--rm
--runtime runc
--security-opt no-new-privileges --security-opt apparmor=unconfined --security-opt seccomp=unconfined
--security-opt systempaths=unconfined
--security-opt label=disable
--stop-signal USR1 --stop-timeout 3
--storage-opt size=10g
--sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=65536
--ulimit nofile=100:200 --ulimit core=0 --ulimit memlock=-1
-u 1:2 -w /tmp
--userns host --uts host
-v vol:/data -v /tmp:/mnt:ro,z -v /anonymous
--volume-driver local --volumes-from other:ro
"""
# Whole command lines, with the path that is asked for.
OTHERS = r"""
update -m 64m --memory-swap -1 --memory-reservation 1m --cpus 0.5 --cpuset-cpus 0 --restart on-failure:2 box
update -c 5 --cpu-period 1000 --cpu-quota 2000 --pids-limit 7 --blkio-weight 100 --cpuset-mems 0 box
rename box other
network create net
network create -d bridge --internal --attachable --ipv6 --label a=b -o x=y net
network create --subnet 10.1.0.0/16 --ip-range 10.1.2.0/24 --gateway 10.1.0.1 --aux-address a=10.1.0.9 net
network create --subnet 10.1.0.0/16 --subnet fd00::/64 --gateway fd00::1 --gateway 10.1.0.1 net
network create --ipam-driver default --ipam-opt a=b --scope local net
network create --ipv4=false --ipv6 net
network create --config-from other net
network connect net box
network connect --alias a --alias b --ip 10.1.2.3 --ip6 fd00::3 --link other:x --link-local-ip 169.254.1.1 net box
network connect --driver-opt x=y --gw-priority 7 net box
network disconnect -f net box
volume create
volume create -d local -o type=tmpfs -o device=tmpfs --label a=b --label c vol
volume prune -f --filter label=a --filter label=b
volume prune -f -a
container prune -f --filter until=1h
image prune -f
image prune -af --filter label!=x
network prune -f
stop -t 3 -s INT box
restart -t 0 box
kill -s HUP box
rm -fv box
rm -l box
pause box
unpause box
tag busybox registry.example:5000/a/b:1
rmi -f --no-prune busybox
volume rm -f vol
network rm net
"""


class Recorder(socketserver.ThreadingUnixStreamServer):
    """Answers whatever is asked so that a client goes on, and keeps what changes something."""

    daemon_threads = True
    said: list[tuple[str, str, object]]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = re.sub(r"^/v1\.\d+", "", self.path)
        if self.command != "GET" and path != "/_ping":
            self.server.said.append((self.command, path, json.loads(body) if body.strip() else None))
        answer = json.dumps(ANSWERS.get(path.partition("?")[0], {"Id": "x", "StatusCode": 0, "Name": "vol"})).encode()
        if path.startswith("/images/busybox?"):
            answer = b"[]"
        self.send_response(200)
        self.send_header("Api-Version", VERSION)
        self.send_header("OSType", "linux")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_POST = do_DELETE = do_HEAD = do_PUT = handle_any

    def address_string(self):
        return "client"

    def log_message(self, *arguments):
        pass


ANSWERS = {"/info": {"OSType": "linux"}, "/version": {"ApiVersion": VERSION}, "/_ping": "OK"}


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    path = tmp_path_factory.mktemp("r") / "s"
    with Recorder(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def requests_of(recorder, docker_client, tmp_path):
    """What a client sends for a command line: method, path and body of each request."""
    (tmp_path / "env").write_text("# a comment\nC=3\nHOME\nD=a b\n")
    (tmp_path / "labels").write_text("from=file\nempty\n")

    def run(program, line):
        recorder.said = []
        done = subprocess.run(
            [*program, *shlex.split(line.replace("{tmp}", str(tmp_path)))],
            env={**os.environ, "DOCKER_HOST": f"unix://{recorder.server_address}", "DOCKER_CONFIG": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, recorder.said

    return run


def full(value):
    """A document without what is empty: a null, a zero, an empty text, list or object."""
    if isinstance(value, dict):
        value.pop("CheckDuplicate", None)  # what every engine does since long
        for ipam in [value["IPAM"]] if isinstance(value.get("IPAM"), dict) else []:
            if ipam.get("Config"):  # docker's client walks a map: each run has an order of its own
                ipam["Config"].sort(key=lambda pool: pool.get("Subnet", ""))
        return {name: one for name, item in value.items() if (one := full(item)) not in (None, "", 0, False, [], {})}
    return [full(item) for item in value] if isinstance(value, list) else value


def like_docker(document):
    """What docker's client sends besides, and what another word says the same."""
    document = full(document)
    host = document.get("HostConfig", {})
    if host.get("NetworkMode") in ("default", "bridge"):
        del host["NetworkMode"]
    endpoints = document.get("NetworkingConfig", {}).get("EndpointsConfig", {})
    for name in list(endpoints):
        if not endpoints[name]:
            del endpoints[name]
    if "default" in endpoints:
        endpoints["bridge"] = endpoints.pop("default")
    if not endpoints:
        document.pop("NetworkingConfig", None)
    for name in ("MemorySwappiness", "ConsoleSize", "ContainerIDFile"):
        if host.get(name) in (-1, [0, 0]):
            del host[name]
    host.pop("ConsoleSize", None)
    if host.get("RestartPolicy") == {"Name": "no"}:
        del host["RestartPolicy"]
    address = document.pop("MacAddress", None)
    if address:  # older clients say it of the container alone
        endpoints.setdefault(host["NetworkMode"], {}).setdefault("MacAddress", address)
        document["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    for name in ("CapAdd", "CapDrop"):
        if name in host:
            host[name] = sorted(one.upper().removeprefix("CAP_") for one in host[name])
    for where, name in ((host, "Ulimits"), (document, "Env"), (host, "Binds")):
        if name in where:
            where[name] = sorted(where[name], key=str)
    if host == {}:
        document.pop("HostConfig", None)
    return document


def path_of(path):
    """A request's path, the parts of its query in order and as what they mean."""
    from urllib.parse import parse_qsl, urlsplit

    parts = urlsplit(path)
    query = []
    for name, value in parse_qsl(parts.query):
        if name == "filters":
            decoded = json.loads(value)
            value = sorted((key, sorted(values)) for key, values in decoded.items())
        query.append((name, str(value).replace("SIG", "")))
    return parts.path, sorted(pair for pair in query if pair[1] not in ("", "0", "false") or pair[0] == "t")


def unsupported(done):
    words = ("unknown flag", "unknown shorthand", "unexpected key", "invalid field", "bad format for add-host")
    return any(word in done.stderr for word in words)


@pytest.mark.parametrize("options", [line for line in OPTIONS.splitlines() if line])
def test_a_container_is_asked_for_alike(requests_of, options):
    line = f"create {options} busybox sh -c 'echo -n x'"
    done, theirs = requests_of(["docker"], line)
    if unsupported(done):
        pytest.skip(f"this docker client knows it not: {done.stderr.splitlines()[0]}")
    assert theirs, done.stderr
    if "-bps" in options or "-iops" in options:
        host = theirs[-1][2]["HostConfig"]
        if not (host["BlkioDeviceReadBps"] or host["BlkioDeviceReadIOps"]):
            pytest.skip("this docker client loses these options (26.1 does)")
    done, ours = requests_of(CAPSA, line)
    assert ours, done.stderr
    assert path_of(ours[-1][1]) == path_of(theirs[-1][1])
    assert like_docker(ours[-1][2]) == like_docker(theirs[-1][2])


@pytest.mark.parametrize("line", [line for line in OTHERS.splitlines() if line])
def test_other_verbs_ask_alike(requests_of, line):
    done, theirs = requests_of(["docker"], line)
    if unsupported(done):
        pytest.skip(f"this docker client knows it not: {done.stderr.splitlines()[0]}")
    assert theirs, done.stderr
    done, ours = requests_of(CAPSA, line)
    assert [(method, path_of(path), full(body)) for method, path, body in ours] == [
        (method, path_of(path), full(body)) for method, path, body in theirs
    ], done.stderr
