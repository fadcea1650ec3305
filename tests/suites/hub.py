"""A stand-in for Docker's registry on a machine that reaches none: its name, its TLS, and how it says no.

It answers on a loopback address that a hosts file of one's own gives its name to (see `world`), hands everything that a
registry behind it has to that one, and says of what it does not know what the real one says: denied, not "unknown".
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

NAME = "registry-1.docker.io"
ADDRESS = "127.0.7.7"
_ASKED = ("Accept", "Content-Type", "Content-Range")
_PASSED = ("Content-Type", "Content-Length", "Docker-Content-Digest", "Location", "Docker-Upload-UUID", "Range")


class _Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: str

    def _pass(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        if self.path.startswith("/token"):
            self._answer(200, {"Content-Type": "application/json"}, json.dumps({"token": "anybody"}).encode())
            return
        connection = http.client.HTTPConnection(self.behind, timeout=60)
        with contextlib.closing(connection):
            asked = {name: self.headers[name] for name in _ASKED if name in self.headers}
            connection.request(self.command, self.path, body, asked)
            answer = connection.getresponse()
            data = answer.read()
        if answer.status == 404 and "/manifests/" in self.path and "sha256:" not in self.path:
            repository = self.path.removeprefix("/v2/").partition("/manifests/")[0]
            challenge = (
                f'Bearer realm="https://{NAME}/token",service="registry.docker.io",'
                f'scope="repository:{repository}:pull",error="insufficient_scope"'
            )
            problem = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
            self._answer(401, {"WWW-Authenticate": challenge}, json.dumps(problem).encode())
            return
        self._answer(answer.status, {name: answer.headers[name] for name in _PASSED if name in answer.headers}, data)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value.replace(f"http://{self.behind}", f"https://{NAME}"))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def hub(folder: Path, behind: str) -> Iterator[Path]:
    """Stand in for it, with the registry ``behind`` (``127.0.0.1:PORT``); gives the file of the authority to trust."""
    folder.mkdir(parents=True)
    authority = folder / "ca.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={NAME} "
        f"-addext subjectAltName=DNS:{NAME} -keyout {folder}/key.pem -out {authority}".split(),
        check=True,
        capture_output=True,
    )
    handler = type("Hub", (_Hub,), {"behind": behind})
    server = http.server.ThreadingHTTPServer((ADDRESS, 443), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield authority
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def world(folder: Path) -> list[str]:
    """The beginning of a command line: what follows runs in a mount namespace where the stand-in has the name."""
    hosts = folder / "hosts"
    hosts.write_text(Path("/etc/hosts").read_text() + f"\n{ADDRESS} {NAME}\n")
    script = f'mount --bind {hosts} /etc/hosts && mount --make-rshared / && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh"]
