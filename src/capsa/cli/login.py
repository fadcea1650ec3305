"""``capsa login`` and ``logout``: credentials for registries, kept where docker keeps them (``config.json``)."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys

from capsa.cli.context import Context
from capsa.cli.options import Command, Options, UsageError
from capsa.errors import CapsaError, InvalidArgument, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_TIMEOUT = 60
_TOKEN_USER = "<token>"  # noqa: S105  the user name under which a helper keeps an identity token


def _login(context: Context, options: Options) -> int:
    key = _key(options)
    if options.given("password") and options.switch("password-stdin"):
        raise UsageError("--password and --password-stdin are mutually exclusive", 1)
    user, password = options.text("username"), options.text("password")
    if options.switch("password-stdin"):
        if not user:
            raise UsageError("must provide --username with --password-stdin", 1)
        password = sys.stdin.read().rstrip("\r\n")
    elif password is not None:
        print("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", file=sys.stderr)
    if not (user and password is not None) and not sys.stdin.isatty():
        raise CapsaError("cannot ask for a user name or password: standard input is not a terminal")
    if not user:
        user = input("Username: ").strip()
    if password is None:
        from getpass import getpass

        password = getpass("Password: ")
    if not user or not password:
        raise CapsaError("a user name and a password are needed")
    body = {"username": user, "password": password, "serveraddress": key}
    answer = context.engine().call("POST", "/auth", json_body=body) or {}
    token = str(answer.get("IdentityToken") or "")
    _keep(context, key, user, password, token)
    print(answer.get("Status") or "Login Succeeded")
    return 0


def _logout(context: Context, options: Options) -> int:
    key = _key(options)
    config = _read(context)
    helper = _helper(config, key)
    print(f"Removing login credentials for {key}")
    if helper:
        _call_helper(helper, "erase", key)
    if config.get("auths", {}).pop(key, None) is not None:
        _write(context, config)
    return 0


def _key(options: Options) -> str:
    """The name under which credentials for the registry are kept: its host, the default registry's old address."""
    from capsa.image.credentials import server
    from capsa.image.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN

    name = options.arguments[0] if options.arguments else DEFAULT_DOMAIN
    host = name.partition("://")[2] if "://" in name else name
    host = host.partition("/")[0]
    return server(DEFAULT_DOMAIN if host == LEGACY_DOMAIN else host)


def _read(context: Context) -> dict[str, Any]:
    path = os.path.join(context.config, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CapsaError(f"cannot read {path}: {reason(error)}") from error
    except ValueError as error:
        raise InvalidArgument(f"{path} is malformed: {error}") from error
    if not isinstance(config, dict):
        raise InvalidArgument(f"{path} is malformed: it has to hold a JSON object")
    return config


def _write(context: Context, config: dict[str, Any]) -> None:
    """By rename, readable for the user alone; what we do not know in it stays."""
    path = os.path.realpath(os.path.join(context.config, "config.json"))
    half = f"{path}.{os.getpid()}"
    try:
        os.makedirs(context.config, mode=0o700, exist_ok=True)
        with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(config, file, indent="\t")
        os.replace(half, path)
    except OSError as error:
        raise CapsaError(f"cannot write {path}: {reason(error)}") from error


def _keep(context: Context, key: str, user: str, password: str, token: str) -> None:
    config = _read(context)
    helper = _helper(config, key)
    if helper:
        secret = {"ServerURL": key, "Username": _TOKEN_USER if token else user, "Secret": token or password}
        _call_helper(helper, "store", json.dumps(secret))
        entry: dict[str, str] = {}
    else:
        auth = base64.b64encode(f"{user}:{'' if token else password}".encode()).decode()
        entry = {"auth": auth, **({"identitytoken": token} if token else {})}
    config.setdefault("auths", {})[key] = entry
    _write(context, config)


def _helper(config: dict[str, Any], key: str) -> str:
    helper = str((config.get("credHelpers") or {}).get(key) or config.get("credsStore") or "")
    if helper and not _HELPER.fullmatch(helper):
        raise InvalidArgument(f"the credential helper {helper!r} has an impossible name")
    return helper


def _call_helper(helper: str, verb: str, text: str) -> None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, verb], input=text, capture_output=True, text=True, timeout=_HELPER_TIMEOUT)
    except FileNotFoundError:
        raise CapsaError(
            f"the credential helper {program} is not installed, but Docker's configuration names it"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CapsaError(f"the credential helper {program} failed: {error}") from error
    if done.returncode and "not found" not in done.stdout + done.stderr:
        raise CapsaError(f"the credential helper {program} failed: {(done.stdout or done.stderr).strip()[:300]}")


COMMANDS = {
    "login": Command(
        "login",
        "[SERVER]",
        "Log in to a registry",
        """
  -p, --password string   Password (seen by others in the list of processes: better --password-stdin)
      --password-stdin    Read the password from standard input
  -u, --username string   User name
""",
        _login,
        most=1,
    ),
    "logout": Command("logout", "[SERVER]", "Forget the credentials for a registry", "", _logout, most=1),
}
