"""The engine's progress messages (Docker's JSON stream), as bars on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import json

from capsa.cli.http import Response
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, TextIO

    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID


def messages(response: Response) -> Iterator[dict[str, Any]]:
    """Decoded messages of a stream; raises `CapsaError` for the one that reports a failure."""
    for line in response.lines():
        try:
            message = json.loads(line)
        except ValueError:
            raise CapsaError(f"the engine's progress message cannot be read: {line[:80]!r}") from None
        if "error" in message:
            raise CapsaError(message["error"])
        yield message


def show(response: Response, output: TextIO, *, quiet: bool = False) -> list[Any]:
    """Show a stream of messages until it ends; returns what its ``aux`` messages carried. Raises `CapsaError`."""
    results: list[Any] = []
    if quiet:
        for message in messages(response):
            _keep(message, results)
    elif output.isatty():
        _bars(response, output, results)
    else:
        for message in messages(response):
            if not _keep(message, results) and not _detail(message):
                print(_text(message), file=output, flush=True)
    return results


def _keep(message: dict[str, Any], results: list[Any]) -> bool:
    if "aux" in message:
        results.append(message["aux"])
        return True
    return False


def _detail(message: dict[str, Any]) -> dict[str, int]:
    detail = message.get("progressDetail")
    return detail if isinstance(detail, dict) and detail.get("current") else {}


def _text(message: dict[str, Any]) -> str:
    text = str(message.get("stream") or message.get("status") or "").rstrip("\n")
    identifier = message.get("id")
    return f"{identifier}: {text}" if identifier else text


def sent(pieces: Iterable[bytes], name: str, total: int | None, output: TextIO) -> Iterator[bytes]:
    """The ``pieces`` of an archive of ``total`` bytes, with a bar that is there as long as they are sent."""
    from rich.console import Console
    from rich.progress import TransferSpeedColumn

    with _progress(Console(file=output), TransferSpeedColumn(), transient=True) as progress:
        task = progress.add_task("Sending", total=total, name=name)
        for piece in pieces:
            yield piece
            progress.advance(task, len(piece))


def _progress(console: Console, *more: ProgressColumn, transient: bool = False) -> Progress:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.fields[name]}:", markup=False),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        DownloadColumn(),
        *more,
        console=console,
        transient=transient,
    )


def _bars(response: Response, output: TextIO, results: list[Any]) -> None:
    """One line for each layer, with a bar while its size is known."""
    from rich.console import Console

    console = Console(file=output, highlight=False)
    tasks: dict[str, TaskID] = {}
    progress: Progress | None = None
    try:
        for message in messages(response):
            if _keep(message, results):
                continue
            identifier = message.get("id")
            status = str(message.get("status", ""))
            if identifier and status and not status.startswith("Pulling from"):
                if progress is None:
                    progress = _progress(console)
                    progress.start()
                _advance(progress, tasks, str(identifier), message)
                continue
            if progress:  # the bars before it are finished, and stay above it
                progress.stop()
                progress = None
                tasks.clear()
            console.print(_text(message), markup=False)
    finally:
        if progress:
            progress.stop()


def _advance(progress: Progress, tasks: dict[str, TaskID], name: str, message: dict[str, Any]) -> None:
    if name not in tasks:
        tasks[name] = progress.add_task(str(message["status"]), total=None, name=name)
    task = tasks[name]
    detail = _detail(message)
    progress.update(task, description=str(message["status"]))
    if detail:
        progress.update(task, completed=detail["current"], total=detail.get("total") or None)
    elif str(message["status"]).endswith(("complete", "exists", "Pushed")) or "Mounted from" in message["status"]:
        total = progress.tasks[[one.id for one in progress.tasks].index(task)].total or 1
        progress.update(task, completed=total, total=total)
