"""Failures, a class for each kind: what went wrong, where, and what to do, in one sentence.

The text of an error is written for the person who reads it and carries no prefix; the command line
puts ``capsa: `` before it, the Engine API puts it into ``{"message": ...}`` with the status of its class.
"""

from __future__ import annotations

import os


class CapsaError(Exception):
    """Any failure that capsa explains.

    ``status`` is the HTTP status that the Docker Engine API gives this kind of failure.
    """

    status = 500


class InvalidArgument(CapsaError):
    """The caller asked for something that cannot be meant: a malformed name, flag, specification."""

    status = 400


class Unauthorized(CapsaError):
    """A registry wants other credentials."""

    status = 401


class Forbidden(CapsaError):
    """Understood and refused."""

    status = 403


class NotFound(CapsaError):
    """No such container, image, network, volume, file."""

    status = 404


class Conflict(CapsaError):
    """The thing is there already, or is in a state that does not allow this."""

    status = 409


class NotModified(CapsaError):
    """The thing already is as asked (starting a running container)."""

    status = 304


class ExpectationFailed(CapsaError):
    """A client expects of the protocol what is not there."""

    status = 417


class Unsupported(CapsaError):
    """This kernel, this machine or this version cannot do it."""

    status = 501


class Unavailable(CapsaError):
    """Somebody else's service does not answer (a registry, a sub-init)."""

    status = 503


class LaunchFailed(CapsaError):
    """A container or an exec could not be started.

    ``code`` is the exit code that docker gives it: 127 where the command does not exist, 126 where it
    cannot be executed, 128 for everything else (a mount, a cgroup, a namespace).
    """

    status = 400

    def __init__(self, message: str, code: int = 128) -> None:
        super().__init__(message)
        self.code = code


class HookFailed(LaunchFailed):
    """A hook of a container has failed, and with it the step of its life that the hook belongs to."""


class BrokenArchive(InvalidArgument):
    """An image archive, layer or manifest is not what it claims to be."""


class DigestMismatch(BrokenArchive):
    """Content does not have the digest or the size it was announced with."""


def reason(error: OSError) -> str:
    """The kernel's words for an errno, as used inside a sentence (``no space left on device``)."""
    text = os.strerror(error.errno) if error.errno else str(error)
    return text[:1].lower() + text[1:]
