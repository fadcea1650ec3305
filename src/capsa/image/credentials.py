"""Who one is at a registry: what ``X-Registry-Auth`` carries, and what ``docker login`` left on this machine."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from capsa.errors import CapsaError, InvalidArgument, Unauthorized, reason
from capsa.image.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN

LEGACY_SERVER = f"https://{LEGACY_DOMAIN}/v1/"
HELPER_TIMEOUT = 60.0
_LIMIT = 1 << 20
_TOKEN_USER = "<token>"  # noqa: S105  what a helper returns as the user name of an identity token
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Credentials(
    msgspec.Struct, frozen=True, rename={"identity_token": "identitytoken", "registry_token": "registrytoken"}
):
    """User name and password, or a token to get tokens with (``identity_token``) or to show (``registry_token``)."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, …)"


ANONYMOUS = Credentials()


class _Header(msgspec.Struct):
    """``AuthConfig`` of the Engine API."""

    username: str = ""
    password: str = ""
    auth: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


def from_header(value: str) -> Credentials:
    """Decode ``X-Registry-Auth`` (base64url of JSON); empty: anonymous. Raises `InvalidArgument`."""
    if not value.strip():
        return ANONYMOUS
    text = value.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        header = msgspec.json.decode(data or b"{}", type=_Header)
    except (ValueError, binascii.Error, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidArgument(
            "the header X-Registry-Auth is malformed: it has to be the base64url of a JSON object"
        ) from error
    username, password = _decoded(header.auth) if header.auth else (header.username, header.password)
    return Credentials(username, password, header.identitytoken, header.registrytoken)


def to_header(credentials: Credentials, domain: str) -> str:
    """The value of ``X-Registry-Auth``."""
    fields = {
        "username": credentials.username,
        "password": credentials.password,
        "identitytoken": credentials.identity_token,
        "registrytoken": credentials.registry_token,
        "serveraddress": server(domain),
    }
    return base64.urlsafe_b64encode(
        msgspec.json.encode({key: value for key, value in fields.items() if value})
    ).decode()


def server(domain: str) -> str:
    """The key under which credentials for a reference's domain are kept."""
    return LEGACY_SERVER if domain == DEFAULT_DOMAIN else domain


class _Auth(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class _Config(msgspec.Struct, rename="camel"):
    auths: dict[str, _Auth] = {}
    creds_store: str = ""
    cred_helpers: dict[str, str] = {}


def config_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Docker's configuration file: ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``."""
    folder = environment.get("DOCKER_CONFIG")
    return Path(folder or Path(environment.get("HOME") or "/root") / ".docker") / "config.json"


async def stored(domain: str, path: Path | None = None) -> Credentials:
    """The credentials that ``docker login`` keeps for a domain, from a helper program if the configuration names one.

    Raises `InvalidArgument` for a malformed file, `CapsaError` for a helper that fails.
    """
    path = path or config_path()
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ANONYMOUS
    except OSError as error:
        raise CapsaError(f"cannot read {path}: {reason(error)}") from error
    try:
        config = msgspec.json.decode(data[:_LIMIT] or b"{}", type=_Config)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidArgument(f"{path} is malformed: {error}") from error
    helper = config.cred_helpers.get(domain) or config.cred_helpers.get(server(domain)) or config.creds_store
    if helper:
        found = await _from_helper(helper, server(domain))
        if found or config.creds_store == helper:
            return found
    wanted = {domain, server(domain)}
    for key, entry in config.auths.items():
        if key in wanted or _host(key) == domain:
            try:
                username, password = _decoded(entry.auth) if entry.auth else (entry.username, entry.password)
            except InvalidArgument as error:
                raise InvalidArgument(f"{path} has a malformed entry for {key}: {error}") from error
            return Credentials(username, password, entry.identitytoken, entry.registrytoken)
    return ANONYMOUS


class _Secret(msgspec.Struct, rename="pascal"):
    """What a helper answers to ``get``."""

    username: str = ""
    secret: str = ""


async def _from_helper(name: str, key: str) -> Credentials:
    """Ask ``docker-credential-NAME get``."""
    if not _HELPER.fullmatch(name):
        raise InvalidArgument(f"the credential helper {name!r} has an impossible name")
    program = f"docker-credential-{name}"
    if not shutil.which(program):
        raise CapsaError(f"the credential helper {program} is not installed, but Docker's configuration names it")
    process = await asyncio.create_subprocess_exec(
        program,
        "get",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(key.encode()), HELPER_TIMEOUT)
    except TimeoutError:
        raise CapsaError(f"{program} did not answer for {HELPER_TIMEOUT:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = (out or errors).decode(errors="replace").strip()[:300]
        if "credentials not found" in said:
            return ANONYMOUS
        raise CapsaError(f"{program} failed: {said}")
    try:
        secret = msgspec.json.decode(out, type=_Secret)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise CapsaError(f"{program} gave a malformed answer: {error}") from error
    if secret.username == _TOKEN_USER:
        return Credentials(identity_token=secret.secret)
    return Credentials(secret.username, secret.secret)


def _decoded(auth: str) -> tuple[str, str]:
    """``USER:PASSWORD`` in base64."""
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (ValueError, binascii.Error) as error:
        raise InvalidArgument("auth is not base64") from error
    if not colon:
        raise InvalidArgument("auth is not USER:PASSWORD")
    return user, password.rstrip("\0")


def _host(key: str) -> str:
    """The registry of a key such as ``https://example.org/v2/``."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def refuse(domain: str) -> Unauthorized:
    """The error for credentials that a registry did not take."""
    return Unauthorized(f"unauthorized: {domain} did not accept the user name and password; see 'capsa login'")
