"""The exit that a container leaves beside its configuration: it outlives whoever ran the container."""

from __future__ import annotations

import os
import sys

import msgspec

from capsa.platform.protocol import Status

_NAME = "exit.json"
_decoder = msgspec.json.Decoder(Status)


def write(bundle: str, status: Status) -> None:
    """Leave it in the directory ``bundle``; one that cannot be written is said on standard error."""
    path = f"{bundle}/{_NAME}"
    try:
        with open(f"{path}.new", "wb") as out:
            out.write(msgspec.json.encode(status))
        os.rename(f"{path}.new", path)
    except OSError as error:
        print(f"cannot write {path}: {error}", file=sys.stderr, flush=True)


def read(bundle: str) -> Status | None:
    """What was left there; None if there is nothing that can be read."""
    try:
        with open(f"{bundle}/{_NAME}", "rb") as file:
            return _decoder.decode(file.read())
    except (OSError, msgspec.DecodeError):
        return None
