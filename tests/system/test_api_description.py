"""Every documented operation, driven through a real engine; its answers have to be what Docker's description says."""

from __future__ import annotations

import base64
import inspect
import io
import json
import tarfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fixtures import table
from fixtures.description import PACKAGE, Description, Operation, obtain
from fixtures.engine import EngineUnderTest, UnixConnection
from fixtures.images import busybox_archive
from fixtures.registry import registry

from capsa.api.docker import networks
from capsa.api.docker.server import router
from capsa.engine import config
from capsa.engine.exec import ExecConfig

CACHE = Path(__file__).parents[2] / ".cache"
#: Statuses that any operation may answer with: 101 hijacks; that an argument or a state does not fit is told of rarely.
ANYWHERE = (101, 400, 409)


def state_of(operation: Operation) -> str:
    """What docs/api.md says about it."""
    return table.states()[operation.method, table.pattern(operation.path)]


class Witness:
    """Makes requests, and holds every answer against the description."""

    def __init__(self, engine: EngineUnderTest, description: Description) -> None:
        self.engine = engine
        self.description = description
        self.seen: set[tuple[Operation, int]] = set()
        self.complaints: list[str] = []

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        /,
        *,
        headers: dict[str, str] | None = None,
        lines: int = 0,
        **query: object,
    ) -> tuple[int, Any]:
        """One request: the status and the decoded answer; of a stream, a list of its documents (``lines`` at most)."""
        url = f"/v{self.description.version}{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query, doseq=True)
        connection = UnixConnection(str(self.engine.socket), 60)
        sent = {"Content-Type": "application/json", **(headers or {})}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, url, body=data, headers=sent)
            response = connection.getresponse()
            stream = [response.readline() for _ in range(lines)] if lines else response.read().splitlines()
        finally:
            connection.close()
        json_there = response.headers.get_content_type() == "application/json"
        documents = [json.loads(line) for line in stream if line.strip()] if json_there else []
        self.judge(method, path, response.status, documents, b"\n".join(stream))
        answer: Any = documents[0] if len(documents) == 1 and not lines else documents
        return response.status, answer if json_there else b"\n".join(stream)

    def judge(self, method: str, path: str, status: int, documents: list[Any], data: bytes) -> None:
        operation = self.description.find(method, path)
        self.seen.add((operation, status))
        if status in (204, 304):
            found = ["an answer without content has content"] if data else []
        elif status >= 400:
            told = [[*each] for each in documents] == [["message"]] or method == "HEAD"
            found = [] if told else [f"no error message: {data[:100]!r}"]
            known = (*operation.responses, *ANYWHERE)
            if status not in known and state_of(operation) != "refused":
                found.append(f"the status {status} is not documented: {data[:200]!r}")
        else:
            found = [] if documents else self.description.problems(operation, status, "") if data else []
            for document in documents:
                found += self.description.problems(operation, status, document)
        self.complaints += [f"{operation} {status}: {each}" for each in found]


@pytest.fixture(scope="module")
def description() -> Description:
    found = obtain(CACHE)
    if found is None:
        pytest.skip(f"needs Debian's {PACKAGE} (apt-get download could not get it)")
    return Description(found)


@pytest.fixture(scope="module")
def witness(engine: EngineUnderTest, busybox: str, description: Description) -> Witness:
    return Witness(engine, description)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def made(answer: tuple[int, Any], status: int = 201) -> str:
    """The id in an answer."""
    assert answer[0] == status, answer
    return str(answer[1].get("Id") or answer[1]["Name"])


def plain(answer: tuple[int, Any], *statuses: int) -> Any:
    """The answer, which has one of the statuses."""
    assert answer[0] in statuses, answer
    return answer[1]


def archive(name: str) -> bytes:
    """A small tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))
    return buffer.getvalue()


def container_in_each_state(say: Any) -> None:
    body = {
        "Image": "busybox",
        "Cmd": ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"],
        "Labels": {"role": "web"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/anonymous": {}},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9},
        "StopTimeout": 1,
        "HostConfig": {
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1"}]},
            "Memory": 64 << 20,
            "Mounts": [{"Type": "tmpfs", "Target": "/scratch", "TmpfsOptions": {"SizeBytes": 1 << 20}}],
            "Binds": ["named:/data"],
            "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "Sysctls": {"net.ipv4.ip_forward": "1"},
        },
    }
    made(say("POST", "/containers/create", body, name="web"))
    plain(say("GET", "/containers/web/json", size=1), 200)  # created
    plain(say("POST", "/containers/web/start"), 204)
    plain(say("POST", "/containers/web/start"), 304)
    plain(say("GET", "/containers/web/json"), 200)
    plain(say("GET", "/containers/json", size=1), 200)
    plain(say("GET", "/containers/web/top"), 200)
    plain(say("GET", "/containers/web/top", ps_args="-o pid,args"), 200)
    plain(say("GET", "/containers/web/logs", stdout=1, stderr=1), 200)
    plain(say("GET", "/containers/web/stats", lines=1), 200)
    plain(say("GET", "/containers/web/stats", stream=0, **{"one-shot": 1}), 200)
    plain(say("POST", "/containers/web/update", {"Memory": 128 << 20, "MemorySwap": 256 << 20}), 200)
    plain(say("POST", "/containers/web/resize", h=20, w=20), 409)
    plain(say("POST", "/containers/web/pause"), 204)
    plain(say("GET", "/containers/web/json"), 200)
    plain(say("POST", "/containers/web/unpause"), 204)
    plain(say("POST", "/containers/web/rename", name="site"), 204)
    plain(say("POST", "/containers/site/kill", signal="CONT"), 204)
    plain(say("POST", "/containers/site/restart", t=0), 204)
    plain(say("POST", "/containers/site/attach", stdout=1, logs=1), 200, 101)
    websocket = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        "Sec-WebSocket-Version": "13",
    }
    plain(say("GET", "/containers/site/attach/ws", headers=websocket, stdout=1, logs=1), 101)
    plain(say("POST", "/containers/site/stop", t=0), 204)
    plain(say("POST", "/containers/site/stop"), 304)
    plain(say("POST", "/containers/site/wait"), 200)
    plain(say("GET", "/containers/site/json"), 200)
    plain(say("GET", "/containers/json", all=1), 200)
    plain(say("GET", "/containers/site/changes"), 200)
    plain(say("GET", "/containers/site/export"), 200)
    plain(say("PUT", "/containers/site/archive", archive("file"), path="/root"), 200)
    plain(say("GET", "/containers/site/archive", path="/root/file"), 200)
    plain(say("HEAD", "/containers/site/archive", path="/root/file"), 200)
    plain(say("DELETE", "/containers/site", v=1), 204)
    made(say("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"]}, name="left"))
    plain(say("POST", "/containers/prune"), 200)
    plain(say("DELETE", "/volumes/named"), 204)


def failed_states(say: Any) -> None:
    made(say("POST", "/containers/create", {"Image": "busybox", "Cmd": ["/nothing"]}, name="broken"))
    plain(say("POST", "/containers/broken/start"), 400, 404)
    plain(say("GET", "/containers/broken/json"), 200)
    plain(say("DELETE", "/containers/broken"), 204)
    again = {"RestartPolicy": {"Name": "always"}, "NetworkMode": "none"}
    made(say("POST", "/containers/create", {"Image": "busybox", "Cmd": ["false"], "HostConfig": again}, name="again"))
    plain(say("POST", "/containers/again/start"), 204)
    plain(say("GET", "/containers/again/json"), 200)
    plain(say("DELETE", "/containers/again", force=1), 204)
    made(say("POST", "/containers/create", {"Image": "busybox", "Tty": True, "OpenStdin": True}, name="screen"))
    plain(say("POST", "/containers/screen/start"), 204)
    plain(say("POST", "/containers/screen/resize", h=20, w=20), 200)
    plain(say("DELETE", "/containers/screen", force=1), 204)


def exec_scenario(say: Any) -> None:
    made(say("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"]}, name="host"))
    wanted = {"Cmd": ["sleep", "1000"], "Tty": True, "AttachStdout": True, "Env": ["A=b"], "WorkingDir": "/tmp"}
    plain(say("POST", "/containers/host/exec", wanted), 409)
    plain(say("POST", "/containers/host/start"), 204)
    which = made(say("POST", "/containers/host/exec", wanted))
    plain(say("GET", f"/exec/{which}/json"), 200)
    plain(say("POST", f"/exec/{which}/start", {"Detach": True, "Tty": True}), 200)
    plain(say("POST", f"/exec/{which}/start", {"Detach": True}), 409)
    plain(say("POST", f"/exec/{which}/resize", h=20, w=20), 200)
    plain(say("GET", f"/exec/{which}/json"), 200)
    plain(say("GET", "/containers/host/json"), 200)
    which = made(say("POST", "/containers/host/exec", {"Cmd": ["echo", "hi"], "AttachStdout": True}))
    plain(say("POST", f"/exec/{which}/start", {}), 200)
    plain(say("GET", f"/exec/{which}/json"), 200)
    for method, path in (
        ("GET", "/exec/none/json"),
        ("POST", "/exec/none/start"),
        ("POST", "/exec/none/resize?h=1&w=1"),
    ):
        assert say(method, path.partition("?")[0], {}, h=1, w=1)[0] == 404
    plain(say("DELETE", "/containers/host", force=1), 204)


def image_scenario(say: Any, address: str) -> None:
    name = f"{address}/team/app"
    auth = {"X-Registry-Auth": base64.urlsafe_b64encode(b"{}").decode()}
    plain(say("POST", "/images/busybox/tag", repo=name, tag="1"), 201)
    plain(say("POST", f"/images/{name}/push", headers=auth, tag="1"), 200)
    plain(say("GET", f"/images/{name}:1/json"), 200)
    plain(say("GET", f"/distribution/{name}:1/json"), 200)
    plain(say("DELETE", f"/images/{name}:1"), 200)
    plain(say("POST", "/images/create", headers=auth, fromImage=name, tag="1"), 200)
    plain(say("POST", "/images/create", headers=auth, fromImage=f"{name}-that-is-not-there", tag="1"), 404)
    plain(say("GET", "/images/json", all=1), 200)
    plain(say("GET", "/images/json", filters=json.dumps({"reference": ["busybox"]}), digests=1), 200)
    plain(say("GET", f"/images/{name}:1/history"), 200)
    saved = plain(say("GET", f"/images/{name}:1/get"), 200)
    assert isinstance(saved, bytes)
    plain(say("GET", "/images/get", names=[f"{name}:1", "busybox"]), 200)
    plain(say("POST", "/images/create", archive("file"), fromSrc="-", repo="imported", tag="x", message="m"), 200)
    plain(say("GET", "/images/imported:x/json"), 200)
    made(say("POST", "/containers/create", {"Image": "busybox", "Cmd": ["touch", "/new"]}, name="source"))
    plain(say("POST", "/commit", {}, container="source", repo="committed", comment="c", author="me"), 201)
    plain(say("DELETE", "/containers/source"), 204)
    plain(say("DELETE", "/images/committed"), 200)
    plain(say("DELETE", "/images/imported:x"), 200)
    plain(say("POST", "/images/prune", filters=json.dumps({"dangling": ["true"]})), 200)
    for method, path in (("GET", "json"), ("GET", "history"), ("POST", "tag"), ("POST", "push")):
        assert say(method, f"/images/nothing/{path}", repo="r")[0] == 404
    assert say("DELETE", "/images/nothing")[0] == 404
    plain(say("POST", "/auth", {"serveraddress": address, "username": "a", "password": "b"}), 200, 204)


def load_scenario(say: Any, image: bytes) -> None:
    plain(say("POST", "/images/load", image, headers={"Content-Type": "application/x-tar"}), 200)
    plain(say("POST", "/images/load", image, headers={"Content-Type": "application/x-tar"}, quiet=1), 200)


def network_scenario(say: Any) -> None:
    wanted = {
        "Name": "net",
        "Labels": {"a": "b"},
        "IPAM": {"Config": [{"Subnet": "10.213.7.0/24", "IPRange": "10.213.7.128/25", "Gateway": "10.213.7.1"}]},
        "Options": {"com.docker.network.driver.mtu": "1400"},
    }
    made(say("POST", "/networks/create", wanted))
    made(say("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"]}, name="member"))
    plain(say("POST", "/containers/member/start"), 204)
    connection = {"Container": "member", "EndpointConfig": {"Aliases": ["alias"]}}
    plain(say("POST", "/networks/net/connect", connection), 200)
    plain(say("POST", "/networks/net/connect", {"Container": "member"}), 403)
    plain(say("GET", "/networks/net", verbose=1), 200)
    plain(say("GET", "/networks"), 200)
    plain(say("GET", "/containers/member/json"), 200)
    plain(say("DELETE", "/networks/net"), 403)
    plain(say("DELETE", "/networks/bridge"), 403)
    plain(say("POST", "/networks/net/disconnect", {"Container": "member"}), 200)
    plain(say("DELETE", "/networks/net"), 204)
    plain(say("DELETE", "/containers/member", force=1), 204)
    made(say("POST", "/networks/create", {"Name": "unused"}))
    plain(say("POST", "/networks/prune"), 200)
    for method in ("GET", "DELETE"):
        assert say(method, "/networks/nothing")[0] == 404
    for verb in ("connect", "disconnect"):
        assert say("POST", f"/networks/nothing/{verb}", {"Container": "member"})[0] == 404
        assert say("POST", f"/networks/bridge/{verb}", {"Container": "nothing"})[0] == 404


def volume_scenario(say: Any) -> None:
    plain(say("POST", "/volumes/create", {"Name": "vol", "Labels": {"a": "b"}}), 201)
    plain(say("POST", "/volumes/create", {}), 201)
    plain(say("GET", "/volumes/vol"), 200)
    plain(say("GET", "/volumes"), 200)
    plain(say("GET", "/volumes", filters=json.dumps({"dangling": ["1"]})), 200)
    plain(say("GET", "/system/df"), 200)
    host = {"Binds": ["vol:/data"], "NetworkMode": "none"}
    made(say("POST", "/containers/create", {"Image": "busybox", "HostConfig": host}, name="user"))
    plain(say("DELETE", "/volumes/vol"), 409)
    plain(say("GET", "/system/df"), 200)
    plain(say("DELETE", "/containers/user"), 204)
    plain(say("DELETE", "/volumes/vol"), 204)
    plain(say("POST", "/volumes/prune"), 200)
    for method in ("GET", "DELETE"):
        assert say(method, "/volumes/nothing")[0] == 404


def system_scenario(say: Any) -> None:
    for path in ("/info", "/version", "/_ping", "/system/df"):
        plain(say("GET", path), 200)
    plain(say("HEAD", "/_ping"), 200)
    plain(say("GET", "/events", since=0, until=1), 200)
    plain(say("GET", "/events", since=1, until=f"{2**31}", lines=3), 200)


def missing_containers(say: Any) -> None:
    for verb in ("json", "top", "logs", "changes", "export", "stats"):
        assert say("GET", f"/containers/nothing/{verb}", stdout=1)[0] == 404
    for verb in ("start", "stop", "restart", "kill", "update", "rename", "pause", "unpause", "attach", "wait", "exec"):
        assert say("POST", f"/containers/nothing/{verb}", {}, name="x")[0] == 404, verb
    assert say("POST", "/containers/nothing/resize", h=1, w=1)[0] == 404
    for method in ("GET", "HEAD", "PUT"):
        assert say(method, "/containers/nothing/archive", path="/")[0] == 404
    assert say("DELETE", "/containers/nothing")[0] == 404
    assert say("POST", "/commit", {}, container="nothing")[0] == 404
    assert say("POST", "/containers/create", {"Image": "nothing"})[0] == 404


def refusals(say: Any, operations: list[Operation]) -> None:
    for operation in operations:
        if state_of(operation) == "refused":
            status, answer = say(operation.method, operation.path.replace("{id}", "x").replace("{name}", "x"), {})
            assert status in (400, 404, 501, 503) and answer["message"], (operation, status, answer)


def test_every_documented_operation_answers_as_described(witness: Witness, images: str) -> None:
    say = witness.call
    container_in_each_state(say)
    failed_states(say)
    exec_scenario(say)
    image_scenario(say, images)
    network_scenario(say)
    volume_scenario(say)
    missing_containers(say)
    system_scenario(say)
    refusals(say, witness.description.operations)
    load_scenario(say, busybox_archive("/bin/busybox"))
    for path in ("/plugins", "/_ping"):
        plain(say("GET", path), 200)
    plain(say("POST", "/build/prune"), 200)
    assert not witness.complaints, "\n".join(sorted(set(witness.complaints)))
    missed = []
    for operation in witness.description.operations:
        answered = {status for seen, status in witness.seen if seen is operation}
        if not answered or (state_of(operation) in ("done", "partly") and min(answered) >= 400):
            missed.append(str(operation))
    assert not missed, missed


#: Documented parameters that no handler reads, and what that means.
MEANINGLESS = {"digests": "they are always shown", "verbose": "it adds the services of a swarm"}


def test_every_documented_parameter_is_read(description: Description) -> None:
    """By the module that serves its operation; that it then means something is the subject of other tests."""
    unread = []
    for operation in description.operations:
        if state_of(operation) == "refused" or operation.path.startswith(("/plugins", "/build")):
            continue
        handler, _name = router().find(operation.method, table.pattern(operation.path).replace("{}", "x"))
        assert handler is not None, operation
        source = Path(inspect.getfile(handler)).read_text()
        for parameter in operation.parameters:
            name = parameter["name"]
            by = {"filters": "call.filters(", "h": "call.size()", "w": "call.size()"}.get(name, f'"{name}"')
            if parameter["in"] == "query" and by not in source and name not in MEANINGLESS:
                unread.append(f"{operation} {name}")
    assert unread == []


def test_every_documented_property_of_a_request_is_known(description: Description) -> None:
    known: dict[str, type[msgspec.Struct]] = {
        "ContainerConfig": config.Config,
        "HealthConfig": config.Healthcheck,
        "HostConfig": config.HostConfig,
        "Resources": config.HostConfig,
        "Mount": config.Mount,
        "EndpointSettings": config.EndpointConfig,
        "EndpointIPAMConfig": config.AddressConfig,
        "RestartPolicy": config.RestartPolicy,
        "DeviceMapping": config.DeviceMapping,
        "ThrottleDevice": config.ThrottleDevice,
        "PortBinding": config.PortBinding,
        "IPAM": networks.Ipam,
        "IPAMConfig": networks.Pool,
    }
    strange = []
    for name, kind in known.items():
        if name in description.definitions:
            fields = {field.encode_name for field in msgspec.structs.fields(kind)}
            strange += [f"{name}.{each}" for each in properties(description, description.definitions[name]) - fields]
    for path, body, kind in (
        ("/containers/{id}/exec", "POST", ExecConfig),
        ("/networks/create", "POST", networks.Create),
        ("/containers/create", "POST", config.Create),
    ):
        wanted = next(
            each for each in description.find(body, path.replace("{id}", "x")).parameters if each["in"] == "body"
        )
        fields = {field.encode_name for field in msgspec.structs.fields(kind)}
        strange += [f"{path} {each}" for each in properties(description, wanted["schema"]) - fields]
    assert strange == []


def properties(description: Description, schema: dict[str, Any]) -> set[str]:
    """The names of an object's properties."""
    if "$ref" in schema:
        schema = description.definitions[schema["$ref"].rpartition("/")[2]]
    inherited = [properties(description, part) for part in schema.get("allOf", ())]
    return set(schema.get("properties", ())).union(*inherited)
