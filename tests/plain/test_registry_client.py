"""The registry client against a registry that misbehaves in every way it can, on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from capsa.errors import CapsaError, DigestMismatch, Forbidden, NotFound, Unauthorized, Unavailable
from capsa.image.auth import challenges
from capsa.image.blobs import BlobStore
from capsa.image.credentials import Credentials
from capsa.image.reference import Reference
from capsa.image.registry import Registry
from capsa.image.transport import Timing, is_local
from capsa.oci.image import OCI_LAYER, OCI_MANIFEST, Descriptor

QUICK = Timing(connect=5, idle=1.0, answer=5, rate=1000, attempts=4, pause=0.01)
DATA = bytes(range(256)) * 8000
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
BLOB = Descriptor(media_type=OCI_LAYER, digest=DIGEST, size=len(DATA))
MANIFEST = json.dumps({"schemaVersion": 2}).encode()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Fake:
    """A registry made of one handler; notes what it was asked."""

    handler: Handler
    port: int = 0
    seen: list[web.Request] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        return await self.handler(request)

    def client(self, *, push: bool = False, credentials: Credentials | None = None) -> Registry:
        reference = Reference(f"127.0.0.1:{self.port}", "team/app", "1")
        return Registry(reference, credentials or Credentials(), push=push, timing=QUICK)


@asynccontextmanager
async def serve(handler: Handler) -> AsyncIterator[Fake]:
    fake = Fake(handler)
    runner = web.ServerRunner(web.Server(fake.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.port = runner.addresses[0][1]
    try:
        yield fake
    finally:
        await runner.cleanup()


async def fetch(client: Registry, folder: Path) -> bytes:
    """Download `BLOB`; nothing is left behind where that fails."""
    blobs = BlobStore(folder)
    try:
        async with client:
            with blobs.writer(DIGEST, len(DATA)) as writer:
                await client.download(BLOB, writer, lambda done: None)
                writer.commit()
    except BaseException:
        assert not list(blobs) and not list((folder / "tmp").iterdir())
        raise
    return blobs.path(DIGEST).read_bytes()


async def test_a_download_goes_on_where_the_connection_broke(tmp_path: Path) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        wanted = request.headers.get("Range", "")
        asked.append(wanted)
        start = int(wanted[6:-1]) if wanted else 0
        headers = {"Content-Length": str(len(DATA) - start)}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        response = web.StreamResponse(status=206 if wanted else 200, headers=headers)
        await response.prepare(request)
        await response.write(DATA[start : start + 300_000])
        if start + 300_000 < len(DATA):
            await asyncio.sleep(0.05)
            assert request.transport
            request.transport.abort()
        return response

    async with serve(handler) as fake:
        assert await fetch(fake.client(), tmp_path) == DATA
    resumed = [int(each[6:-1]) for each in asked if each]
    assert len(resumed) >= 3 and resumed == sorted(resumed)


async def test_a_registry_that_ignores_ranges_is_asked_from_the_start(tmp_path: Path) -> None:
    count = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        response = web.StreamResponse(headers={"Content-Length": str(len(DATA))})
        await response.prepare(request)
        await response.write(DATA if count > 2 else DATA[:500_000])
        if count <= 2:
            await asyncio.sleep(0.05)
            assert request.transport
            request.transport.abort()
        return response

    async with serve(handler) as fake:
        assert await fetch(fake.client(), tmp_path) == DATA


@pytest.mark.parametrize("altered", [DATA[:-1] + b"!", DATA + b"more"])
async def test_other_content_than_announced_is_refused(tmp_path: Path, altered: bytes) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=altered)

    async with serve(handler) as fake:
        with pytest.raises(DigestMismatch):
            await fetch(fake.client(), tmp_path)


async def test_a_blob_that_ends_too_early_is_given_up_in_the_end(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"short") if "Range" not in request.headers else web.Response(status=416)

    async with serve(handler) as fake:
        with pytest.raises(CapsaError):
            await fetch(fake.client(), tmp_path)


async def test_a_sender_that_trickles_is_given_up(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(DATA))})
        await response.prepare(request)
        while True:
            await response.write(b"\0")
            await asyncio.sleep(0.05)

    async with serve(handler) as fake:
        with pytest.raises(Unavailable, match="no answer in time"):
            await asyncio.wait_for(fetch(fake.client(), tmp_path), 60)


async def test_overload_is_waited_for(tmp_path: Path) -> None:
    count = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        return web.Response(body=DATA) if count > 3 else web.Response(status=503 if count > 1 else 429)

    async with serve(handler) as fake:
        assert await fetch(fake.client(), tmp_path) == DATA


async def test_credentials_do_not_follow_a_redirect_to_another_host(tmp_path: Path) -> None:
    async def storage(request: web.Request) -> web.StreamResponse:
        return web.Response(body=DATA)

    async with serve(storage) as elsewhere:

        async def handler(request: web.Request) -> web.StreamResponse:
            if "Authorization" not in request.headers:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            return web.Response(status=307, headers={"Location": f"http://localhost:{elsewhere.port}/blob"})

        async with serve(handler) as fake:
            client = fake.client(credentials=Credentials("user", "secret"))
            assert await fetch(client, tmp_path) == DATA
            assert any("Authorization" in each.headers for each in fake.seen)
        assert elsewhere.seen and not any("Authorization" in each.headers for each in elsewhere.seen)


@pytest.mark.parametrize("location", ["/v2/again", "ftp://127.0.0.1/x", "http://user:pass@127.0.0.1/x", "http://["])
async def test_redirects_without_end_or_sense_are_refused(tmp_path: Path, location: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": location})

    async with serve(handler) as fake:
        with pytest.raises(Unavailable, match="leads"):
            await fetch(fake.client(), tmp_path)


class Tokens:
    """A registry that wants a bearer token from its own token server."""

    def __init__(self, *, answer: dict[str, object] | None = None, status: int = 200) -> None:
        self.asked: list[web.Request] = []
        self.forms: list[dict[str, str]] = []
        self.answer = answer or {"token": "good", "expires_in": 300}
        self.status = status

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            self.asked.append(request)
            if request.method == "POST":
                self.forms.append({key: str(value) for key, value in (await request.post()).items()})
            return web.json_response(self.answer, status=self.status)
        if request.headers.get("Authorization") != "Bearer good":
            realm = f"http://{request.host}/token"
            header = f'Bearer realm="{realm}",service="here",scope="repository:team/app:pull"'
            return web.json_response(
                {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
                status=401,
                headers={"WWW-Authenticate": header},
            )
        return web.Response(body=MANIFEST, content_type=OCI_MANIFEST)


async def test_a_token_is_asked_for_once_and_shown_from_then_on() -> None:
    tokens = Tokens()
    async with serve(tokens) as fake, fake.client(credentials=Credentials("user", "secret")) as client:
        for _ in range(3):
            assert (await client.manifest("1"))[0] == MANIFEST
    [request] = tokens.asked
    assert request.query["service"] == "here" and request.query["scope"] == "repository:team/app:pull"
    assert request.query["account"] == "user"
    assert request.headers["Authorization"] == "Basic " + base64.b64encode(b"user:secret").decode()


async def test_an_identity_token_is_exchanged() -> None:
    tokens = Tokens(answer={"access_token": "good"})
    async with serve(tokens) as fake, fake.client(credentials=Credentials(identity_token="id")) as client:
        assert (await client.manifest("1"))[0] == MANIFEST
    assert tokens.forms[0]["grant_type"] == "refresh_token" and tokens.forms[0]["refresh_token"] == "id"


async def test_a_token_that_is_not_taken_ends_in_one_sentence() -> None:
    tokens = Tokens(answer={"token": "bad"})
    async with serve(tokens) as fake, fake.client() as client:
        with pytest.raises(NotFound, match=r"pull access denied for .*authentication required"):
            await client.manifest("1")
    assert len(tokens.asked) == 1


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        (Tokens(status=401), (Unauthorized, NotFound)),
        (Tokens(answer={"token": 5}), Unavailable),
        (Tokens(answer={"token": "a\r\nb"}), CapsaError),
        (Tokens(answer={"nothing": ""}), CapsaError),
        (Tokens(status=500), Unavailable),
    ],
)
async def test_a_broken_token_server_is_named(tokens: Tokens, error: type[CapsaError]) -> None:
    async with serve(tokens) as fake, fake.client() as client:
        with pytest.raises(error):
            await client.manifest("1")


async def test_a_manifest_by_digest_is_verified_and_its_size_bounded() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        body = b" " * (5 << 20) if request.path.endswith("/huge") else MANIFEST
        return web.Response(body=body, content_type=OCI_MANIFEST)

    async with serve(handler) as fake, fake.client() as client:
        digest = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
        assert await client.manifest(digest) == (MANIFEST, OCI_MANIFEST)
        with pytest.raises(DigestMismatch, match="altered"):
            await client.manifest("sha256:" + "0" * 64)
        with pytest.raises(CapsaError, match="larger than 4 MiB"):
            await client.manifest("huge")


async def test_the_registrys_words_are_passed_on_without_control_characters() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response({"errors": [{"code": "DENIED", "message": "no\x1b[31m\n way"}]}, status=403)

    async with serve(handler) as fake, fake.client(push=True) as client:
        with pytest.raises(Forbidden, match=r"denied: no .*way") as caught:
            await client.put_manifest("1", MANIFEST, OCI_MANIFEST)
        assert str(caught.value).isprintable()


async def test_an_upload_that_breaks_is_begun_again() -> None:
    received = bytearray()
    broken = False

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal broken
        if request.method == "POST":
            received.clear()
            return web.Response(status=202, headers={"Location": "/v2/team/app/blobs/uploads/1?state=a"})
        if request.method in ("PATCH", "PUT") and not broken:
            broken = True
            assert request.transport
            request.transport.abort()
            return web.Response()
        async for part in request.content.iter_any():
            received.extend(part)
        assert request.query["state"] == "a"
        if request.method == "PUT":
            assert request.query["digest"] == DIGEST
        return web.Response(status=201)

    async def content() -> AsyncIterator[bytes]:
        yield DATA

    async with serve(handler) as fake, fake.client(push=True) as client:
        await client.upload(BLOB, content, lambda done: None)
    assert bytes(received) == DATA


async def test_tags_come_page_by_page() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if "last" in request.query:
            return web.json_response({"tags": ["b"]})
        link = '</v2/team/app/tags/list?last=a&n=1>; rel="next"'
        return web.json_response({"tags": ["a"]}, headers={"Link": link})

    async with serve(handler) as fake, fake.client() as client:
        assert await client.tags() == ["a", "b"]


async def test_a_list_of_tags_without_end_is_given_up() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        link = f'</v2/team/app/tags/list?last={len(asked)}>; rel="next"'
        return web.json_response({"tags": []}, headers={"Link": link})

    asked: list[str] = []
    async with serve(handler) as fake, fake.client() as client:
        with pytest.raises(Unavailable, match="a list of tags without end"):
            await client.tags()
    assert len(asked) < 50


def test_challenges_are_parsed_as_they_come() -> None:
    [one, two] = challenges(['Bearer realm="https://a/t,x",service=s, scope="a:b:c,d", Basic realm="q \\"x\\""'])
    assert one.scheme == "bearer"
    assert one.parameters == {"realm": "https://a/t,x", "service": "s", "scope": "a:b:c,d"}
    assert two.scheme == "basic" and two.parameters == {"realm": 'q "x"'}
    assert challenges(["", "???", "Negotiate"])[-1:] == challenges(["Negotiate"])


@pytest.mark.parametrize(
    ("domain", "local"),
    [
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.8.9.1:1", True),
        ("[::1]:5000", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("docker.io", False),
        ("127.0.0.1.example:80", False),
    ],
)
def test_plain_http_is_for_this_machine_only(domain: str, local: bool) -> None:
    assert is_local(domain) is local
