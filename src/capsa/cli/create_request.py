"""From the options of ``create`` and ``run`` to the request of the Engine API (``POST /containers/create``)."""

from __future__ import annotations

import os

from capsa.cli import resources, units
from capsa.cli.options import Options, UsageError
from capsa.errors import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_BLKIO = {
    "device-read-bps": "BlkioDeviceReadBps",
    "device-read-iops": "BlkioDeviceReadIOps",
    "device-write-bps": "BlkioDeviceWriteBps",
    "device-write-iops": "BlkioDeviceWriteIOps",
}
# Options that are handed on as they are: (option, field) of the host configuration.
_TEXTS = {
    "cgroup-parent": "CgroupParent",
    "cgroupns": "CgroupnsMode",
    "ipc": "IpcMode",
    "isolation": "Isolation",
    "pid": "PidMode",
    "runtime": "Runtime",
    "userns": "UsernsMode",
    "uts": "UTSMode",
    "volume-driver": "VolumeDriver",
}
_NUMBERS = {
    "memory-swappiness": "MemorySwappiness",
    "oom-score-adj": "OomScoreAdj",
}
_SIZES = {"kernel-memory": "KernelMemory", "shm-size": "ShmSize"}
_LISTS = {
    "cap-add": "CapAdd",
    "cap-drop": "CapDrop",
    "device-cgroup-rule": "DeviceCgroupRules",
    "dns": "Dns",
    "dns-option": "DnsOptions",
    "dns-search": "DnsSearch",
    "group-add": "GroupAdd",
    "volumes-from": "VolumesFrom",
}
ENDPOINT_OPTIONS = ("ip", "ip6", "link", "link-local-ip", "mac-address", "network-alias")
_SWITCHES = {
    "oom-kill-disable": "OomKillDisable",
    "privileged": "Privileged",
    "publish-all": "PublishAllPorts",
    "read-only": "ReadonlyRootfs",
    "rm": "AutoRemove",
}


def build(options: Options) -> dict[str, Any]:
    """The request's body; raises `UsageError` for an option that cannot be meant."""
    image, *command = options.arguments
    body: dict[str, Any] = {"Image": image}
    if command:
        body["Cmd"] = command
    for name, field in (
        ("hostname", "Hostname"),
        ("domainname", "Domainname"),
        ("user", "User"),
        ("workdir", "WorkingDir"),
    ):
        if options.given(name):
            body[field] = options.text(name)
    if options.given("stop-signal"):
        body["StopSignal"] = options.text("stop-signal")
    if options.given("stop-timeout"):
        body["StopTimeout"] = options.number("stop-timeout")
    if options.given("mac-address"):
        body["MacAddress"] = options.text("mac-address")
    if options.given("entrypoint"):
        # An empty entry point removes the image's.
        body["Entrypoint"] = [options.text("entrypoint") or ""]
    environment = [*from_files(options.all("env-file"), inherit=True), *environment_of(options.all("env"))]
    if environment:
        body["Env"] = environment
    labels = _pairs([*from_files(options.all("label-file"), inherit=False), *options.all("label")])
    if labels:
        body["Labels"] = labels
    body.update(_streams(options))
    health = _health(options)
    if health:
        body["Healthcheck"] = health
    ports: list[str] = []
    bindings: dict[str, list[dict[str, str]]] = {}
    if options.given("expose") or options.given("publish"):
        from capsa.cli.ports import exposed, published

        bindings = published(options.all("publish"))
        ports = exposed(options.all("expose"))
    if ports or bindings:
        body["ExposedPorts"] = {port: dict[str, str]() for port in [*ports, *bindings]}
    host = body["HostConfig"] = _host(options)
    if bindings:
        host["PortBindings"] = bindings
    if any(options.given(name) for name in ("mount", "volume", "tmpfs")):
        from capsa.cli import mounts

        binds, anonymous = mounts.volumes(options.all("volume"))
        if anonymous:
            body["Volumes"] = anonymous
        for field, value in (
            ("Binds", binds),
            ("Mounts", [mounts.mount(text) for text in options.all("mount")]),
            ("Tmpfs", mounts.tmpfs(options.all("tmpfs"))),
        ):
            if value:
                host[field] = value
    if options.given("network") or any(options.given(name) for name in ENDPOINT_OPTIONS):
        from capsa.cli.endpoints import connections

        mode, endpoints, links = connections(options)
        if mode:
            host["NetworkMode"] = mode
        if links:
            host["Links"] = links
        if endpoints:
            body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return body


def _streams(options: Options) -> dict[str, Any]:
    """What to attach to; ``run`` without ``--detach`` attaches to all that is meaningful."""
    chosen = [name.lower() for name in options.all("attach")]
    for name in chosen:
        if name not in ("stdin", "stdout", "stderr"):
            raise UsageError(
                f'invalid argument "{name}" for "-a, --attach" flag: valid streams are STDIN, STDOUT and STDERR'
            )
    detached = options.switches.get("detach", False)
    if detached and chosen:
        raise UsageError("conflicting options: cannot specify both --attach and --detach")
    interactive = options.switch("interactive")
    return {
        "AttachStdin": not detached and ("stdin" in chosen if chosen else interactive),
        "AttachStdout": not detached and (not chosen or "stdout" in chosen),
        "AttachStderr": not detached and (not chosen or "stderr" in chosen),
        "Tty": options.switch("tty"),
        "OpenStdin": interactive,
        "StdinOnce": interactive and not detached,
    }


def _host(options: Options) -> dict[str, Any]:
    host = resources.limits(options)
    for name, field in _TEXTS.items():
        if options.given(name):
            host[field] = options.text(name)
    for name, field in _NUMBERS.items():
        if options.given(name):
            host[field] = options.number(name)
    for name, field in _SIZES.items():
        if options.given(name):
            host[field] = resources.size(options, name)
    for name, field in _LISTS.items():
        if options.given(name):
            host[field] = options.all(name)
    for name, field in _SWITCHES.items():
        if options.switch(name):
            host[field] = True
    if options.switch("init"):
        host["Init"] = True
    if options.given("ulimit"):
        host["Ulimits"] = [_ulimit(text) for text in options.all("ulimit")]
    if options.given("device"):
        host["Devices"] = [_device(text) for text in options.all("device")]
    if options.given("sysctl"):
        host["Sysctls"] = _pairs(options.all("sysctl"))
    if options.given("annotation"):
        host["Annotations"] = _pairs(options.all("annotation"))
    if options.given("storage-opt"):
        host["StorageOpt"] = _pairs(options.all("storage-opt"))
    if options.given("log-driver") or options.given("log-opt"):
        host["LogConfig"] = {
            "Type": options.text("log-driver") or "json-file",
            "Config": _pairs(options.all("log-opt")),
        }
    if options.given("add-host"):
        host["ExtraHosts"] = [_extra_host(text) for text in options.all("add-host")]
    if options.given("gpus"):
        host["DeviceRequests"] = [_gpus(text) for text in options.all("gpus")]
    if options.given("security-opt"):
        host.update(_security(options.all("security-opt")))
    if options.given("blkio-weight-device"):
        pairs = (_path_value(text, "blkio-weight-device") for text in options.all("blkio-weight-device"))
        host["BlkioWeightDevice"] = [{"Path": path, "Weight": resources.whole(value, path)} for path, value in pairs]
    for name, field in _BLKIO.items():
        if options.given(name):
            read = units.parse_size if name.endswith("bps") else int
            pairs = (_path_value(text, name) for text in options.all(name))
            try:
                host[field] = [{"Path": path, "Rate": read(value)} for path, value in pairs]
            except ValueError:
                raise UsageError(f"invalid rate in --{name} (path:number)") from None
    return host


def environment_of(texts: Iterable[str]) -> list[str]:
    """``--env``: a name alone stands for this process's own value; where there is none, the image's is taken away."""
    result = []
    for text in texts:
        name, equals, _ = text.partition("=")
        if not name:
            raise UsageError(f"invalid environment variable: {text}")
        if equals:
            result.append(text)
        else:
            result.append(f"{name}={os.environ[name]}" if name in os.environ else name)
    return result


def from_files(paths: Iterable[str], *, inherit: bool) -> list[str]:
    """``--env-file``, ``--label-file``: a line each, ``#`` begins a comment line."""
    result = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                lines = [line.lstrip().rstrip("\r\n") for line in file]
        except OSError as error:
            raise UsageError(f"cannot read {path}: {reason(error)}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{path} is no UTF-8 text") from None
        for line in lines:
            if not line or line.startswith("#"):
                continue
            name, equals, _ = line.partition("=")
            if not name or any(character.isspace() for character in name):
                raise UsageError(f"invalid name in {path}: {name!r}")
            if equals or not inherit:
                result.append(line)
            elif name in os.environ:
                result.append(f"{name}={os.environ[name]}")
    return result


def _pairs(texts: Iterable[str]) -> dict[str, str]:
    return dict(text.partition("=")[::2] for text in texts)


def _ulimit(text: str) -> dict[str, Any]:
    name, equals, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    if not equals:
        raise UsageError(f"invalid ulimit: {text} (name=soft[:hard])")
    low = resources.whole(soft, f"--ulimit {name}")
    return {"Name": name, "Soft": low, "Hard": resources.whole(hard, f"--ulimit {name}") if colon else low}


def _device(text: str) -> dict[str, str]:
    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise UsageError(f"invalid device: {text} (path[:path in container[:rwm]])")
    host, inside, access = parts[0], parts[0], "rwm"
    if len(parts) == 3:
        inside, access = parts[1], parts[2]
    elif len(parts) == 2:
        if set(parts[1]) <= set("rwm"):
            access = parts[1]
        else:
            inside = parts[1]
    return {"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": access}


def _extra_host(text: str) -> str:
    """``--add-host``: the name and its address, with ``=`` or ``:`` between, an IPv6 address in brackets or not."""
    name, separator, address = text.partition("=") if "=" in text else text.partition(":")
    if not name or not separator or not address:
        raise UsageError(f'invalid argument "{text}" for "--add-host" flag: bad format for add-host (name:address)')
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return f"{name}:{address}"


def _gpus(text: str) -> dict[str, Any]:
    """``--gpus``: ``all``, a number, or ``count=…,driver=…,capabilities=…,device=…,options=…`` with CSV's quotes."""
    import csv

    fields: dict[str, str] = {}
    for part in next(csv.reader([text]), []):
        name, equals, value = part.partition("=")
        fields[name if equals else "count"] = value if equals else name
    count, devices = fields.pop("count", ""), fields.pop("device", "")
    request: dict[str, Any] = {
        "Driver": fields.pop("driver", ""),
        "Count": -1 if count == "all" else resources.whole(count or ("0" if devices else "1"), "--gpus"),
        "Capabilities": [sorted({"gpu", *filter(None, fields.pop("capabilities", "").split(","))})],
    }
    if devices:
        request["DeviceIDs"] = devices.split(",")
    settings = fields.pop("options", "")
    if settings:
        request["Options"] = _pairs(settings.split(","))
    if fields:
        raise UsageError(f"unexpected key '{next(iter(fields))}' in --gpus {text}")
    return request


def _path_value(text: str, option: str) -> tuple[str, str]:
    path, colon, value = text.rpartition(":")
    if not colon or not path.startswith("/dev/"):
        raise UsageError(f"invalid argument for --{option}: {text} (/dev/NAME:value)")
    return path, value


def _security(texts: Iterable[str]) -> dict[str, Any]:
    """``--security-opt``: a seccomp profile is sent along, as the engine may not see our files."""
    result: dict[str, Any] = {"SecurityOpt": []}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            name, _, value = text.partition(":")
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            try:
                with open(value, encoding="utf-8") as file:
                    text = f"seccomp={file.read()}"
            except (OSError, UnicodeDecodeError) as error:
                why = reason(error) if isinstance(error, OSError) else "not UTF-8"
                raise UsageError(f"cannot read the seccomp profile {value}: {why}") from None
        if name == "systempaths" and value == "unconfined":
            result["MaskedPaths"], result["ReadonlyPaths"] = [], []
            continue
        result["SecurityOpt"].append(text)
    return result


def _health(options: Options) -> dict[str, Any]:
    if options.switch("no-healthcheck"):
        return {"Test": ["NONE"]}
    result: dict[str, Any] = {}
    if options.given("health-cmd"):
        result["Test"] = ["CMD-SHELL", options.text("health-cmd")]
    for name, field in (
        ("health-interval", "Interval"),
        ("health-timeout", "Timeout"),
        ("health-start-period", "StartPeriod"),
        ("health-start-interval", "StartInterval"),
    ):
        if options.given(name):
            result[field] = units.nanoseconds(options.text(name) or "")
    if options.given("health-retries"):
        result["Retries"] = options.number("health-retries")
    return result
