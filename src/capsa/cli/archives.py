"""Images and file systems as tar archives: ``load``, ``save``, ``import``, ``export``."""

from __future__ import annotations

import os
import stat
import sys

from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.http import Response
from capsa.cli.options import Command, Options
from capsa.cli.platforms import platform
from capsa.cli.progress import messages, sent, show
from capsa.errors import CapsaError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 1 << 20


def _pieces(path: str | None) -> Iterator[bytes]:
    """The file at ``path``, or standard input; raises `CapsaError`."""
    if path is None:
        while piece := os.read(0, _PIECE):
            yield piece
        return
    try:
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise CapsaError(f"cannot read {path}: {reason(error)}") from error


def _size(path: str | None) -> int | None:
    """In bytes, if that is known."""
    status = os.stat(path) if path else os.fstat(0)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _readable(path: str | None) -> None:
    """Fail before anything was sent."""
    if path is None:
        if os.isatty(0):
            raise CapsaError("requested load from stdin, but stdin is a terminal (use --input FILE, or redirect)")
    elif not os.access(path, os.R_OK) or os.path.isdir(path):
        what = (
            "is a directory" if os.path.isdir(path) else "cannot be read" if os.path.exists(path) else "does not exist"
        )
        raise CapsaError(f"the archive {path} {what}")


def _load(context: Context, options: Options) -> int:
    path = options.text("input")
    _readable(path)
    quiet = options.switch("quiet") or not sys.stdout.isatty()
    body = _pieces(path)
    if not quiet:  # layers are unpacked while they are sent
        body = sent(body, os.path.basename(path or "standard input"), _size(path), sys.stdout)
    response = context.engine().request(
        "POST",
        "/images/load",
        {"quiet": quiet, "platform": platform(options)},
        body=body,
        headers={"Content-Type": "application/x-tar"},
        own=True,
    )
    if not quiet:
        show(response, sys.stdout)
        return 0
    for message in messages(response):
        if "stream" in message:
            print(message["stream"], end="", flush=True)
    return 0


def _save(context: Context, options: Options) -> int:
    path = options.text("output")
    if path is None and os.isatty(1):
        raise CapsaError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    parameters = {"names": options.arguments, "platform": platform(options)}
    _write(context.engine().request("GET", "/images/get", parameters, own=True), path)
    return 0


def _export(context: Context, options: Options) -> int:
    path = options.text("output")
    if path is None and os.isatty(1):
        raise CapsaError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    target = f"/containers/{quote(options.arguments[0])}/export"
    _write(context.engine().request("GET", target, own=True), path)
    return 0


def _write(response: Response, path: str | None) -> None:
    """To standard output, or to a file that appears only when it is whole."""
    if path is None:
        from capsa.cli.streams import write

        for piece in response.chunks():
            write(1, piece)
        return
    if os.path.exists(path) and not os.path.isfile(path):
        try:
            with open(path, "wb") as special:  # a device or a pipe is written to, not replaced
                for piece in response.chunks():
                    special.write(piece)
        except OSError as error:
            raise CapsaError(f"cannot write {path}: {reason(error)}") from error
        return
    half = f"{path}.{os.getpid()}"
    try:
        with open(half, "xb") as file:
            for piece in response.chunks():
                file.write(piece)
        os.replace(half, path)
    except OSError as error:
        raise CapsaError(f"cannot write {path}: {reason(error)}") from error
    finally:
        if os.path.exists(half):
            os.unlink(half)


def _import(context: Context, options: Options) -> int:
    source, *name = options.arguments
    path = None if source == "-" else source
    if source.startswith(("http://", "https://")):
        raise CapsaError(f"import reads files, not addresses: download {source} first")
    _readable(path)
    repository, tag = "", ""
    if name:
        from capsa.image.reference import parse

        reference = parse(name[0])
        repository, tag = reference.familiar_repository, reference.tag
    response = context.engine().request(
        "POST",
        "/images/create",
        {
            "fromSrc": "-",
            "repo": repository or None,
            "tag": tag or None,
            "message": options.text("message"),
            "platform": options.text("platform"),
            "changes": options.all("change"),
        },
        body=_pieces(path),
        headers={"Content-Type": "application/x-tar"},
        own=True,
    )
    last = ""
    for message in messages(response):
        last = str(message.get("status") or last)
    print(last)
    return 0


COMMANDS = {
    "export": Command(
        "export",
        "CONTAINER",
        "Export a container's file system as a tar archive",
        """
  -o, --output string   Write to a file, instead of standard output
""",
        _export,
        least=1,
        most=1,
        completes="containers",
    ),
    "import": Command(
        "import",
        "FILE|- [REPOSITORY[:TAG]]",
        "Make an image from a root file system in a tar archive",
        """
  -c, --change list       Apply a Dockerfile instruction to the image (such as 'CMD ["sh"]')
  -m, --message string    Set the image's commit message
      --platform string   Platform of the content (os/architecture)
""",
        _import,
        least=1,
        most=2,
    ),
    "load": Command(
        "load",
        "",
        "Load images from a tar archive (docker save, OCI) or standard input",
        """
  -i, --input string      Read from a file, instead of standard input
      --platform string   Load only this platform, where there are several (os/architecture)
  -q, --quiet             Print only what was loaded
""",
        _load,
        most=0,
    ),
    "save": Command(
        "save",
        "IMAGE [IMAGE...]",
        "Save images to a tar archive (to standard output by default)",
        """
  -o, --output string     Write to a file, instead of standard output
      --platform string   Save only this platform, where there are several (os/architecture)
""",
        _save,
        least=1,
        completes="images",
    ),
}
