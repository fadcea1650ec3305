"""Docker's SDK for Python: containers."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
from docker.types import LogConfig, Mount, Ulimit
from docker.utils.socket import frames_iter

pytestmark = pytest.mark.usefixtures("tidy")
SLEEP = ["sleep", "1000"]


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_group(version_1: str, version_2: str) -> str:
    """A command that shows a control group's file, whichever version there is."""
    return f"sh -c 'cat /sys/fs/cgroup/{version_1} 2>/dev/null || cat /sys/fs/cgroup/{version_2}'"


# ---- created as wished ----

STATUS = "grep {} /proc/self/status"
OPTIONS: list[tuple[dict[str, Any], Any, str, dict[str, Any]]] = [
    # how it is run, a command, what that says at least, what the inspection's HostConfig has
    ({"cap_add": ["SYS_PTRACE"]}, STATUS.format("CapEff"), "00000000a80c25fb", {"CapAdd": ["SYS_PTRACE"]}),
    ({"cap_drop": ["ALL"]}, STATUS.format("CapEff"), "0000000000000000", {"CapDrop": ["ALL"]}),
    ({"privileged": True}, STATUS.format("Seccomp:"), "\t0\n", {"Privileged": True}),
    ({"security_opt": ["no-new-privileges"]}, STATUS.format("NoNewPrivs"), "\t1\n", {}),
    ({"security_opt": ["seccomp=unconfined"]}, STATUS.format("Seccomp:"), "\t0\n", {}),
    ({"cpu_shares": 512}, in_group("cpu/cpu.shares", "cpu.weight"), "", {"CpuShares": 512}),
    ({"cpu_quota": 20000, "cpu_period": 100000}, in_group("cpu/cpu.cfs_quota_us", "cpu.max"), "20000", {}),
    ({"nano_cpus": 500_000_000}, in_group("cpu/cpu.cfs_quota_us", "cpu.max"), "50000", {"NanoCpus": 500_000_000}),
    ({"cpuset_cpus": "0", "cpuset_mems": "0"}, STATUS.format("Cpus_allowed_list"), "\t0\n", {"CpusetCpus": "0"}),
    ({"mem_limit": "32m"}, in_group("memory/memory.limit_in_bytes", "memory.max"), "33554432", {"Memory": 32 << 20}),
    ({"mem_limit": "32m", "memswap_limit": "64m"}, "true", "", {"MemorySwap": 64 << 20}),
    ({"mem_reservation": "16m"}, in_group("memory/memory.soft_limit_in_bytes", "memory.low"), "16777216", {}),
    ({"pids_limit": 30}, in_group("pids/pids.max", "pids.max"), "30\n", {"PidsLimit": 30}),
    ({"oom_score_adj": 500}, "cat /proc/self/oom_score_adj", "500\n", {"OomScoreAdj": 500}),
    ({"ulimits": [Ulimit(name="nofile", soft=100, hard=200)]}, "sh -c 'ulimit -n; ulimit -Hn'", "100\n200\n", {}),
    ({"devices": ["/dev/full:/dev/mine:rw"]}, "sh -c 'echo x > /dev/mine || ls /dev/mine'", "/dev/mine\n", {}),
    ({"device_cgroup_rules": ["c 1:7 rwm"]}, "true", "", {"DeviceCgroupRules": ["c 1:7 rwm"]}),
    ({"dns": ["192.0.2.7"]}, "cat /etc/resolv.conf", "192.0.2.7\n", {"Dns": ["192.0.2.7"]}),
    ({"dns_search": ["example.net"]}, "cat /etc/resolv.conf", "search example.net\n", {"DnsSearch": ["example.net"]}),
    ({"dns_opt": ["ndots:3"]}, "cat /etc/resolv.conf", "ndots:3", {"DnsOptions": ["ndots:3"]}),
    (
        {"extra_hosts": {"far": "192.0.2.9"}},
        "grep far /etc/hosts",
        "192.0.2.9\tfar\n",
        {"ExtraHosts": ["far:192.0.2.9"]},
    ),
    ({"group_add": ["users", 77]}, "id -G", "77 100\n", {"GroupAdd": ["users", "77"]}),
    ({"hostname": "here", "domainname": "example.net"}, "hostname", "here\n", {}),
    ({"init": True}, "cat /proc/1/comm", "", {"Init": True}),
    ({"ipc_mode": "host"}, "true", "", {"IpcMode": "host"}),
    ({"pid_mode": "host"}, f"cat /proc/{os.getpid()}/comm", "", {"PidMode": "host"}),
    ({"uts_mode": "host"}, "hostname", socket.gethostname(), {"UTSMode": "host"}),
    ({"network_mode": "host"}, "true", "", {"NetworkMode": "host"}),
    ({"network_mode": "none"}, "sh -c 'ls /sys/class/net'", "lo", {"NetworkMode": "none"}),
    ({"network_disabled": True}, "sh -c 'ls /sys/class/net'", "lo", {}),
    ({"cgroupns": "host"}, "cat /proc/self/cgroup", "", {"CgroupnsMode": "host"}),
    ({"read_only": True}, "sh -c 'touch /x || echo no'", "no\n", {"ReadonlyRootfs": True}),
    ({"shm_size": "8m"}, "df -k /dev/shm", "8192", {"ShmSize": 8 << 20}),
    ({"sysctls": {"net.ipv4.ip_forward": "0"}}, "cat /proc/sys/net/ipv4/ip_forward", "0\n", {}),
    ({"tmpfs": {"/fast": "size=4m"}}, "df -k /fast", "4096", {"Tmpfs": {"/fast": "size=4m"}}),
    ({"log_config": LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"})}, "true", "", {}),
    ({"restart_policy": {"Name": "on-failure", "MaximumRetryCount": 2}}, "true", "", {}),
    ({"runtime": "runc"}, "true", "", {"Runtime": "runc"}),
    ({"isolation": "default"}, "true", "", {"Isolation": "default"}),
    ({"volume_driver": "local", "volumes": ["/data"]}, "ls -d /data", "/data\n", {"VolumeDriver": "local"}),
    ({"environment": {"A": "b c", "D": None}}, "env", "A=b c\n", {}),
    ({"user": "nobody"}, "id -un", "nobody\n", {}),
    ({"user": "12:34"}, "id -g", "34\n", {}),
    ({"working_dir": "/made/here"}, "pwd", "/made/here\n", {}),
    ({"entrypoint": ["echo", "entry"]}, ["and", "command"], "entry and command\n", {}),
    ({"entrypoint": "echo 'two words'"}, None, "two words\n", {}),
    ({"mac_address": "02:42:ac:11:22:33"}, "cat /sys/class/net/eth0/address", "02:42:ac:11:22:33\n", {}),
    ({"use_config_proxy": True}, "true", "", {}),
    ({"stop_signal": "SIGINT"}, "true", "", {}),
    ({"tty": True}, "stty size", "", {}),
]


@pytest.mark.parametrize(
    ("options", "command", "says", "host"),
    OPTIONS,
    ids=[",".join(options) for options, *_ in OPTIONS],
)
def test_an_option_holds_in_the_container_and_is_shown(sdk, options, command, says, host):
    container = sdk.containers.create("busybox", command, **options)
    container.start()
    assert container.wait(timeout=30)["StatusCode"] == 0, container.logs()
    assert says in container.logs().decode()
    shown = container.attrs["HostConfig"]
    container.reload()
    assert {key: container.attrs["HostConfig"][key] for key in host} == host
    assert shown.keys() == container.attrs["HostConfig"].keys()


def test_a_parent_of_its_control_groups(sdk, engine):
    parent = f"/{engine.base.name}"
    container = sdk.containers.run("busybox", SLEEP, cgroup_parent=parent, init=True, detach=True)
    try:
        container.reload()
        groups = Path(f"/proc/{container.attrs['State']['Pid']}/cgroup")
        assert f"{parent}/{container.id}" in groups.read_text()
        assert container.attrs["HostConfig"]["CgroupParent"] == parent
        container.remove(force=True)
    finally:
        for base in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")):
            with contextlib.suppress(OSError):
                (base / parent[1:]).rmdir()  # it is its owner's, not the engine's


def test_what_is_shown_of_the_rest(sdk):
    container = sdk.containers.create(
        "busybox",
        ["sh", "-c", "true"],
        name="shown",
        hostname="here",
        domainname="example.net",
        user="nobody",
        environment={"A": "1"},
        labels={"org.example.label": "x"},
        working_dir="/tmp",
        entrypoint=["env"],
        stdin_open=True,
        tty=True,
        stop_signal="SIGINT",
        ports={"80/tcp": None, 53: None},
        healthcheck={
            "test": ["CMD", "true"],
            "interval": 10**9,
            "timeout": 2 * 10**9,
            "retries": 2,
            "start_period": 10**9,
        },
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 3},
        blkio_weight=300,
        device_read_bps=[{"Path": "/dev/null", "Rate": 1000}],
        device_write_iops=[{"Path": "/dev/null", "Rate": 10}],
        auto_remove=False,
        mem_swappiness=40,
        publish_all_ports=True,
    )
    config, host = container.attrs["Config"], container.attrs["HostConfig"]
    assert container.attrs["Name"] == "/shown" and container.name == "shown" and container.status == "created"
    assert (config["Hostname"], config["Domainname"], config["User"]) == ("here", "example.net", "nobody")
    assert "A=1" in config["Env"] and any(entry.startswith("PATH=") for entry in config["Env"])
    assert container.labels == {"org.example.label": "x"}
    assert (config["WorkingDir"], config["Entrypoint"], config["Cmd"]) == ("/tmp", ["env"], ["sh", "-c", "true"])
    assert config["OpenStdin"] and config["Tty"] and config["StopSignal"] == "SIGINT"
    assert config["ExposedPorts"] == {"80/tcp": {}, "53/tcp": {}}
    assert config["Healthcheck"]["Retries"] == 2 and config["Healthcheck"]["Test"] == ["CMD", "true"]
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert host["BlkioWeight"] == 300 and host["MemorySwappiness"] == 40 and host["PublishAllPorts"]
    assert host["BlkioDeviceReadBps"] == [{"Path": "/dev/null", "Rate": 1000}]
    assert host["BlkioDeviceWriteIOps"] == [{"Path": "/dev/null", "Rate": 10}]
    assert container.image.tags == ["busybox:latest"]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"name": "a b"}, 400, "Invalid container name"),
        ({"mem_limit": "1m"}, 400, "Minimum memory limit allowed is 6MB"),
        ({"cap_add": ["NOSUCH"]}, 400, "unknown capability"),
        ({"network_mode": "container:nosuch"}, 400, "No such container: nosuch"),
        ({"volumes_from": ["nosuch"]}, 400, "No such container: nosuch"),
        ({"volumes": {"/x": {"bind": "relative", "mode": "rw"}}}, 400, "must be absolute"),
        ({"volumes": {"/x": {"bind": "/y", "mode": "odd"}}}, 400, "invalid mode: odd"),
        ({"log_config": LogConfig(type="odd")}, 400, "no log driver named 'odd' is registered"),
        ({"runtime": "odd"}, 400, "unknown or invalid runtime name: odd"),
        ({"restart_policy": {"Name": "odd"}}, 400, "invalid restart policy"),
        ({"platform": "linux/odd"}, 404, "platform"),
        ({"storage_opt": {"size": "1G"}}, 501, "StorageOpt"),
        ({"volume_driver": "odd", "volumes": ["/data"]}, 400, 'plugin "odd" not found'),
    ],
)
def test_what_cannot_be_is_refused(sdk, options, status, words):
    with pytest.raises(APIError) as failure:
        sdk.containers.create("busybox", "true", **options)
    assert failure.value.response.status_code == status
    assert words in failure.value.explanation
    assert sdk.containers.list(all=True) == []


def test_classes_of_errors(sdk):
    with pytest.raises(ImageNotFound, match="No such image: nosuch:latest"):
        sdk.api.create_container("nosuch")
    with pytest.raises(NotFound, match="No such container: nosuch") as missing:
        sdk.containers.get("nosuch")
    assert missing.value.is_client_error() and not missing.value.is_server_error()
    with pytest.raises(ContainerError) as failed:
        sdk.containers.run("busybox", ["sh", "-c", "echo why >&2; exit 3"], remove=True)
    assert failed.value.exit_status == 3 and failed.value.stderr == b"why\n"
    with pytest.raises(APIError) as refused:
        sdk.containers.run("busybox", "nosuch")
    assert refused.value.status_code == 400 and "executable file not found" in refused.value.explanation
    sdk.containers.create("busybox", name="taken")
    with pytest.raises(APIError, match='name "/taken" is already in use') as conflict:
        sdk.containers.create("busybox", name="taken")
    assert conflict.value.status_code == 409


# ---- mounts ----


def test_binds_volumes_and_mounts(sdk, tmp_path):
    (tmp_path / "file").write_text("from the host")
    container = sdk.containers.run(
        "busybox",
        ["sh", "-c", "cat /bound/file; touch /bound/x || echo read-only; touch /named/y /mount/z; ls -d /t"],
        volumes={str(tmp_path): {"bind": "/bound", "mode": "ro"}, "dpy-named": {"bind": "/named", "mode": "rw"}},
        mounts=[
            Mount("/mount", "dpy-mount", labels={"a": "b"}),
            Mount("/t", None, type="tmpfs", tmpfs_size=1 << 20, tmpfs_mode=0o700),
            Mount("/again", str(tmp_path), type="bind", read_only=True, propagation="rslave"),
        ],
        detach=True,
    )
    container.wait()
    assert container.logs(stderr=False) == b"from the hostread-only\n/t\n"
    mounts = {each["Destination"]: each for each in container.attrs["Mounts"]}
    assert (mounts["/bound"]["Source"], mounts["/bound"]["RW"], mounts["/bound"]["Mode"]) == (
        str(tmp_path),
        False,
        "ro",
    )
    assert (mounts["/named"]["Name"], mounts["/named"]["Type"], mounts["/named"]["RW"]) == ("dpy-named", "volume", True)
    assert mounts["/again"]["Propagation"] == "rslave" and not mounts["/again"]["RW"]
    assert sdk.volumes.get("dpy-mount").attrs["Labels"] == {"a": "b"}
    other = sdk.containers.run("busybox", "ls /named /bound", volumes_from=[container.id], remove=True)
    assert other == b"/bound:\nfile\n\n/named:\ny\n"
    container.remove(v=True)
    assert {volume.name for volume in sdk.volumes.list()} >= {"dpy-named", "dpy-mount"}  # they have names
    for name in ("dpy-named", "dpy-mount"):
        sdk.volumes.get(name).remove()


def test_anonymous_volumes_go_with_their_container(sdk):
    container = sdk.containers.run("busybox", "touch /data/x", volumes=["/data"], detach=True)
    container.wait()
    (mount,) = container.attrs["Mounts"]
    assert sdk.volumes.get(mount["Name"])
    container.remove(v=True)
    with pytest.raises(NotFound):
        sdk.volumes.get(mount["Name"])


# ---- lists ----


def test_lists_and_filters(sdk):
    one = sdk.containers.run(
        "busybox", SLEEP, name="dpy-one", labels={"a": "1"}, detach=True, volumes=["/v"], init=True
    )
    two = sdk.containers.create("busybox", "true", name="dpy-two", labels={"a": "2", "b": ""}, ports={"81/udp": None})
    three = sdk.containers.run("busybox", "sh -c 'exit 5'", name="dpy-three", detach=True)
    three.wait()

    def names(**options: Any) -> list[str]:
        return [container.name for container in sdk.containers.list(**options)]

    assert names() == ["dpy-one"]
    assert names(all=True) == ["dpy-three", "dpy-two", "dpy-one"]
    assert names(limit=2) == ["dpy-three", "dpy-two"]
    for filters, expected in (
        ({"id": two.id[:20]}, ["dpy-two"]),
        ({"name": "dpy-t"}, ["dpy-three", "dpy-two"]),
        ({"name": "^/dpy-one$"}, ["dpy-one"]),
        ({"label": "a"}, ["dpy-two", "dpy-one"]),
        ({"label": ["a=2", "b"]}, ["dpy-two"]),
        ({"since": "dpy-one"}, ["dpy-three", "dpy-two"]),
        ({"before": "dpy-three"}, ["dpy-two", "dpy-one"]),
        ({"exited": 5}, ["dpy-three"]),
        ({"exited": "0"}, []),
        ({"status": "created"}, ["dpy-two"]),
        ({"status": ["running", "exited"]}, ["dpy-three", "dpy-one"]),
        ({"ancestor": "busybox"}, ["dpy-three", "dpy-two", "dpy-one"]),
        ({"ancestor": "nosuch"}, []),
        ({"volume": "/v"}, ["dpy-one"]),
        ({"network": "bridge"}, ["dpy-three", "dpy-two", "dpy-one"]),
        ({"expose": "81/udp"}, ["dpy-two"]),
        ({"publish": "81/udp"}, ["dpy-two"]),
        ({"health": "none"}, ["dpy-three", "dpy-two", "dpy-one"]),
        ({"isolation": "default"}, ["dpy-three", "dpy-two", "dpy-one"]),
        ({"is-task": "true"}, []),
    ):
        assert names(all=True, filters=filters) == expected, filters
    assert [each.id for each in sdk.containers.list(sparse=True)] == [one.id]
    with pytest.raises(APIError, match="invalid filter"):
        names(filters={"nosuch": "x"})
    (shown,) = sdk.api.containers(size=True, filters={"name": "dpy-one"})
    assert shown["Names"] == ["/dpy-one"] and shown["State"] == "running" and shown["Status"].startswith("Up ")
    assert shown["Image"] == "busybox" and shown["Command"] == "sleep 1000" and shown["SizeRootFs"] > 0
    assert one.short_id == one.id[:12]
    assert sdk.api.containers(quiet=True)[0]["Id"] == one.id


# ---- output ----


def test_logs(sdk):
    container = sdk.containers.run(
        "busybox", ["sh", "-c", "echo 1; echo e >&2; sleep 0.1; echo 2; echo 3"], detach=True
    )
    container.wait()
    assert sorted(container.logs().split()) == [b"1", b"2", b"3", b"e"]
    assert container.logs(stderr=False) == b"1\n2\n3\n"
    assert container.logs(stdout=False) == b"e\n"
    assert container.logs(tail=1) == b"3\n" and container.logs(tail=0) == b"" and container.logs(tail="all")
    stamped = container.logs(timestamps=True, tail=1).decode()
    moment, text = stamped.split(" ", 1)
    assert text == "3\n" and moment.endswith("Z")
    assert container.logs(since=int(time.time()) + 100) == b""
    assert container.logs(until=int(time.time()) - 100) == b""
    assert container.logs(since=time.time() - 1000.5) == container.logs()
    assert b"".join(container.logs(stream=True)) == container.logs()
    with pytest.raises(APIError, match="choose at least one stream"):
        container.logs(stdout=False, stderr=False)


def test_logs_follow_until_the_end(sdk):
    container = sdk.containers.run("busybox", ["sh", "-c", "echo one; cat; echo two"], stdin_open=True, detach=True)
    stream = container.logs(stream=True, follow=True)
    assert next(stream) == b"one\n"
    container.exec_run(["sh", "-c", "kill $(pidof cat)"])
    # The shell says that cat was terminated on its standard error: between two pipes there is no order.
    assert b"two\n" in b"".join(stream).splitlines(keepends=True)


def test_a_followed_log_can_be_let_go(sdk):
    container = sdk.containers.run("busybox", ["sh", "-c", "echo one; sleep 1000"], detach=True, init=True)
    stream = container.logs(stream=True, follow=True)
    assert next(stream) == b"one\n"
    closing = threading.Timer(0.2, stream.close)
    closing.start()
    assert list(stream) == []
    closing.join()


def test_output_of_no_log(sdk):
    container = sdk.containers.run("busybox", "echo x", log_config=LogConfig(type="none"), detach=True)
    container.wait()
    with pytest.raises(APIError, match="configured logging driver does not support reading"):
        container.logs()
    assert sdk.containers.run("busybox", "echo x", log_config=LogConfig(type="none")) is None


def test_attach(sdk):
    container = sdk.containers.create("busybox", ["sh", "-c", "echo out; echo err >&2"])
    stream = container.attach(stream=True, stdout=True, stderr=True, demux=True)
    container.start()
    pieces = list(stream)
    assert b"".join(out for out, _ in pieces if out) == b"out\n"
    assert b"".join(err for _, err in pieces if err) == b"err\n"
    assert sorted(container.attach(logs=True, stream=False).split()) == [b"err", b"out"]
    assert container.attach(stdout=False, logs=True) == b"err\n"


def test_attach_socket_with_input(sdk):
    container = sdk.containers.create("busybox", ["sh", "-c", "read x; echo got $x; cat"], stdin_open=True)
    wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    stream = container.attach_socket(params=wanted)
    container.start()
    stream._sock.sendall(b"this\nand that")
    stream._sock.shutdown(socket.SHUT_WR)
    stream._sock.settimeout(20)
    assert b"".join(data for _, data in frames_iter(stream, tty=False)) == b"got this\nand that"
    container.wait()
    late = sdk.containers.run("busybox", ["sh", "-c", "echo before; sleep 1000"], tty=True, detach=True, init=True)
    wait_for(late.logs)
    stream = late.attach_socket(params={"stdout": 1, "stream": 1, "logs": 1})
    stream._sock.settimeout(20)
    assert stream._sock.recv(100) == b"before\r\n"
    late.kill()
    assert stream._sock.recv(100) == b""


def test_a_terminal_is_resized(sdk):
    container = sdk.containers.run("busybox", ["sh", "-c", "read x; stty size"], tty=True, stdin_open=True, detach=True)
    container.resize(height=21, width=43)
    stream = container.attach_socket(params={"stdin": 1, "stream": 1})
    stream._sock.sendall(b"\n")
    assert container.wait(timeout=30)["StatusCode"] == 0
    assert b"21 43" in container.logs()


def test_stats_and_top(sdk):
    container = sdk.containers.run("busybox", SLEEP, detach=True, init=True)
    now = container.stats(stream=False)
    assert now["id"] == container.id and now["name"] == f"/{container.name}"
    assert now["memory_stats"]["usage"] > 0 and now["pids_stats"]["current"] >= 1
    assert now["cpu_stats"]["online_cpus"] >= 1 and "eth0" in now["networks"]
    stream = container.stats(decode=True)
    first, second = next(stream), next(stream)
    assert second["precpu_stats"]["cpu_usage"] == first["cpu_stats"]["cpu_usage"]
    stream.close()
    listed = container.top()
    assert "PID" in listed["Titles"] and any("sleep" in " ".join(row) for row in listed["Processes"])
    assert container.top(ps_args="-o pid,comm")["Titles"][0] == "PID"
    container.kill()
    with pytest.raises(APIError, match="is not running"):
        container.top()


# ---- its life ----


def test_stop_kill_restart_and_signals(sdk):
    trap = "trap 'echo hup' HUP; trap 'exit 9' TERM; trap 'exit 8' INT; echo ready; while :; do sleep 0.05; done"
    container = sdk.containers.run("busybox", ["sh", "-c", trap], detach=True)
    wait_for(lambda: b"ready" in container.logs())
    container.kill(signal="HUP")
    wait_for(lambda: b"hup" in container.logs())
    container.stop(timeout=20)
    container.reload()
    assert container.status == "exited" and container.attrs["State"]["ExitCode"] == 9
    container.restart(timeout=20)
    wait_for(lambda: container.logs().count(b"ready") == 2)
    container.kill(signal=2)
    assert container.wait() == {"StatusCode": 8}
    with pytest.raises(APIError, match="is not running") as failure:
        container.kill()
    assert failure.value.status_code == 409
    container.start()
    with pytest.raises(APIError, match="Invalid signal"):
        container.kill(signal="NOSUCH")
    container.kill()
    assert container.wait()["StatusCode"] == 137


def test_pause_and_unpause(sdk):
    container = sdk.containers.run("busybox", SLEEP, detach=True, init=True)
    container.pause()
    container.reload()
    assert container.status == "paused" and container.attrs["State"]["Paused"]
    with pytest.raises(APIError, match="is already paused"):
        container.pause()
    container.unpause()
    container.reload()
    assert container.status == "running"
    with pytest.raises(APIError, match="is not paused"):
        container.unpause()


def test_rename(sdk):
    container = sdk.containers.create("busybox", name="dpy-before")
    container.rename("dpy-after")
    assert sdk.containers.get("dpy-after").id == container.id
    sdk.containers.create("busybox", name="dpy-taken")
    with pytest.raises(APIError) as failure:
        container.rename("dpy-taken")
    assert failure.value.status_code == 409


def test_update(sdk):
    container = sdk.containers.run("busybox", SLEEP, mem_limit="64m", detach=True, init=True)
    assert not container.update(mem_limit="96m", memswap_limit="192m", cpu_shares=300, cpuset_cpus="0")["Warnings"]
    container.reload()
    host = container.attrs["HostConfig"]
    assert (host["Memory"], host["CpuShares"], host["CpusetCpus"]) == (96 << 20, 300, "0")
    assert b"100663296" in container.exec_run(in_group("memory/memory.limit_in_bytes", "memory.max")).output
    container.update(restart_policy={"Name": "on-failure", "MaximumRetryCount": 4})
    container.reload()
    assert container.attrs["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 4}
    with pytest.raises(APIError, match="Minimum memory limit"):
        container.update(mem_limit="1m")


def test_wait_conditions(sdk):
    container = sdk.containers.create("busybox", "sh -c 'read x; exit 6'", stdin_open=True)
    found: dict[str, Any] = {}
    threads = []
    for condition in ("next-exit", "removed"):

        def waiting(condition: str = condition) -> None:
            found[condition] = sdk.containers.get(container.id).wait(condition=condition, timeout=30)["StatusCode"]

        threads.append(threading.Thread(target=waiting))
        threads[-1].start()
    assert container.wait(condition="not-running") == {"StatusCode": 0}  # it never ran
    time.sleep(0.2)
    container.start()
    container.attach_socket(params={"stdin": 1, "stream": 1})._sock.sendall(b"\n")
    assert container.wait()["StatusCode"] == 6
    threads[0].join(20)
    assert found == {"next-exit": 6}
    container.remove()
    threads[1].join(20)
    assert found["removed"] == 6
    with pytest.raises(APIError, match="invalid condition"):
        sdk.containers.create("busybox").wait(condition="odd")


def test_restart_policies(sdk):
    failing = sdk.containers.run(
        "busybox", "sh -c 'echo x; exit 1'", restart_policy={"Name": "on-failure", "MaximumRetryCount": 2}, detach=True
    )
    wait_for(lambda: sdk.containers.get(failing.id).status == "exited")
    failing.reload()
    assert failing.attrs["RestartCount"] == 2 and failing.logs() == b"x\n" * 3
    always = sdk.containers.run("busybox", "sh -c 'sleep 0.05'", restart_policy={"Name": "always"}, detach=True)
    wait_for(lambda: sdk.containers.get(always.id).attrs["RestartCount"] >= 2)
    always.stop()
    always.reload()
    assert always.status == "exited"


def test_health(sdk):
    def probed(command: str, **options: Any) -> Any:
        check = {"test": ["CMD-SHELL", command], "interval": 50_000_000, "timeout": 10**10, "retries": 1, **options}
        return sdk.containers.run("busybox", SLEEP, healthcheck=check, detach=True, init=True)

    well, ill = probed("true"), probed("echo bad; exit 1")
    wait_for(lambda: sdk.containers.get(well.id).health == "healthy")
    wait_for(lambda: sdk.containers.get(ill.id).health == "unhealthy")
    ill.reload()
    health = ill.attrs["State"]["Health"]
    assert (
        health["FailingStreak"] >= 1 and health["Log"][-1]["Output"] == "bad\n" and health["Log"][-1]["ExitCode"] == 1
    )
    assert [each.id for each in sdk.containers.list(filters={"health": "healthy"})] == [well.id]


def test_remove_and_prune(sdk):
    running = sdk.containers.run("busybox", SLEEP, detach=True, init=True)
    with pytest.raises(APIError, match="stop the container before removing or force remove") as failure:
        running.remove()
    assert failure.value.status_code == 409
    running.remove(force=True)
    with pytest.raises(NotFound):
        running.reload()
    kept = sdk.containers.create("busybox", labels={"keep": "1"})
    gone = sdk.containers.create("busybox")
    assert sdk.containers.prune(filters={"label!": ["keep=1"]})["ContainersDeleted"] == [gone.id]
    assert sdk.containers.prune(filters={"until": "1h"})["ContainersDeleted"] is None
    assert sdk.containers.prune()["ContainersDeleted"] == [kept.id]


def test_auto_remove(sdk):
    container = sdk.containers.run("busybox", "sh -c 'exit 3'", auto_remove=True, detach=True)
    wait_for(lambda: sdk.containers.list(all=True, ignore_removed=True) == [])
    with pytest.raises(NotFound):
        container.reload()
    assert sdk.containers.run("busybox", "echo out", remove=True) == b"out\n"
    assert list(sdk.containers.run("busybox", "echo out", remove=True, stream=True)) == [b"out\n"]
    assert sdk.containers.list(all=True) == []


def test_published_ports(sdk):
    script = "while :; do echo hello | nc -l -p 80; done"
    container = sdk.containers.run(
        "busybox", ["sh", "-c", script], ports={"80/tcp": ("127.0.0.1", None), "81/udp": None}, detach=True
    )
    container.reload()
    (binding,) = container.ports["80/tcp"]
    assert binding["HostIp"] == "127.0.0.1" and sdk.api.port(container.id, 80) == [binding]

    def answered() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", int(binding["HostPort"])), 5) as connection:
                return connection.recv(10) == b"hello\n"
        except OSError:
            return False

    wait_for(answered)
    with pytest.raises(APIError, match="port is already allocated") as failure:
        sdk.containers.run("busybox", SLEEP, ports={"80/tcp": ("127.0.0.1", binding["HostPort"])}, detach=True)
    assert failure.value.status_code == 500


# ---- files ----


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.uid, entry.mode = len(data), 7, 0o640
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def unpacked(chunks: Any) -> dict[str, bytes | None]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        files = {member.name: tar.extractfile(member) for member in tar}
        return {name: file.read() if file is not None else None for name, file in files.items()}


@pytest.mark.parametrize("running", [False, True])
def test_files_in_and_out(sdk, running):
    container = sdk.containers.create("busybox", SLEEP, init=True)
    if running:
        container.start()
    assert container.put_archive("/tmp", archive(a=b"1", b=b"22"))
    chunks, about = container.get_archive("/tmp/b")
    assert unpacked(chunks) == {"b": b"22"}
    assert (about["name"], about["size"], about["linkTarget"]) == ("b", 2, "") and about["mode"] & 0o777 == 0o640
    assert unpacked(container.get_archive("/tmp", chunk_size=512)[0]) == {"tmp": None, "tmp/a": b"1", "tmp/b": b"22"}
    with pytest.raises(NotFound, match="Could not find the file /nosuch in container"):
        container.get_archive("/nosuch")
    with pytest.raises(NotFound, match="Could not find the file /nosuch in container"):
        container.put_archive("/nosuch", archive(a=b""))
    with pytest.raises(APIError) as failure:
        container.put_archive("/etc/passwd", archive(a=b""))
    assert failure.value.status_code == 400


def test_export(sdk):
    container = sdk.containers.run("busybox", "sh -c 'echo made > /made'", detach=True)
    container.wait()
    found = unpacked(container.export())
    assert found["made"] == b"made\n" and "bin/busybox" in found and "etc/passwd" in found


def test_what_changed(sdk):
    container = sdk.containers.run(
        "busybox", "sh -c 'echo x > /etc/passwd; mkdir /new; touch /new/x; rm /etc/group'", detach=True
    )
    container.wait()
    changes = {each["Path"]: each["Kind"] for each in container.diff()}
    assert changes == {"/etc": 0, "/etc/passwd": 0, "/etc/group": 2, "/new": 1, "/new/x": 1}
    assert sdk.containers.create("busybox").diff() in (None, [])


def test_commit(sdk):
    container = sdk.containers.run("busybox", "sh -c 'echo made > /made'", environment={"OWN": "1"}, detach=True)
    container.wait()
    image = container.commit(
        "dpy/committed",
        tag="2",
        message="why",
        author="who",
        changes=["ENV A=b", 'CMD ["cat", "/made"]', "EXPOSE 8000", "LABEL x=y", "USER nobody"],
        conf={"WorkingDir": "/tmp"},
    )
    try:
        assert image.tags == ["dpy/committed:2"] and image.labels == {"x": "y"}
        attributes = image.attrs
        assert (attributes["Author"], attributes["Comment"], attributes["Parent"]) == (
            "who",
            "why",
            sdk.images.get("busybox").id,
        )
        config = attributes["Config"]
        assert {"A=b", "OWN=1"} <= set(config["Env"]) and config["User"] == "nobody"
        assert config["ExposedPorts"] == {"8000/tcp": {}} and config["WorkingDir"] == "/tmp"
        assert len(image.history()) == 2
        assert sdk.containers.run("dpy/committed:2", remove=True) == b"made\n"
    finally:
        sdk.images.remove(image.id, force=True)
    with pytest.raises(NotFound, match="No such container: nosuch"):
        sdk.api.commit("nosuch")


def test_links(sdk):
    target = sdk.containers.run("busybox", SLEEP, name="dpy-target", environment={"FOO": "1"}, init=True, detach=True)
    linked = sdk.containers.run("busybox", "sh -c 'env; cat /etc/hosts'", links={"dpy-target": "alias"}, detach=True)
    linked.wait()
    text = linked.logs().decode()
    linked.reload()
    assert f"ALIAS_NAME=/{linked.name}/alias\n" in text and "ALIAS_ENV_FOO=1\n" in text
    assert any("alias" in line.split() for line in text.splitlines() if not line.startswith("ALIAS"))
    assert linked.attrs["HostConfig"]["Links"] == [f"/dpy-target:/{linked.name}/alias"]
    sdk.api.remove_container(f"{linked.name}/alias", link=True)
    linked.reload()
    assert not linked.attrs["HostConfig"]["Links"] and sdk.containers.get(target.id)
