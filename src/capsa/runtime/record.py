"""What is remembered of a container between two calls, in a form that can be read without importing anything.

Lines ``name=value``, an empty one, and as JSON what does not change of the container's state (runtime.md, State).
"""

from __future__ import annotations

from capsa.errors import CapsaError

_ESCAPES = (("\\", "\\\\"), ("\n", "\\n"))


class Record:
    """One container.

    ``began`` is when process ``pid`` began, in ticks after the machine's start: a pid alone may be another process's by
    now; both are 0 while it is being made. ``cgroup`` is its path, ``above`` the topmost cgroup above it that was made
    for it, ``freezer`` the file that tells whether it is paused, ``unit`` the systemd scope, ``exposed`` the id of its
    root's mount if that is on the host (`platform.linux.shared_mounts`), ``streams`` what its standard streams are
    (`capsa.runtime.streams`). ``told`` is the JSON object of its state without ``pid`` and ``status``.
    """

    __slots__ = (
        *("above", "began", "bundle", "cgroup", "created", "exposed", "freezer", "pid", "rootfs", "streams", "told"),
        "unit",
    )

    def __init__(
        self,
        *,
        bundle: str,
        rootfs: str,
        created: str,
        told: str,
        cgroup: str = "",
        freezer: str = "",
        unit: str = "",
        exposed: str = "",
        above: str = "",
        streams: str = "",
        pid: int = 0,
        began: int = 0,
    ) -> None:
        self.bundle = bundle
        self.rootfs = rootfs
        self.created = created
        self.told = told
        self.cgroup = cgroup
        self.freezer = freezer
        self.unit = unit
        self.exposed = exposed
        self.above = above
        self.streams = streams
        self.pid = pid
        self.began = began

    def dump(self) -> bytes:
        """As it is stored."""
        lines = []
        for name in self.__slots__:
            if name != "told":
                value = str(getattr(self, name))
                for plain, escaped in _ESCAPES:
                    value = value.replace(plain, escaped)
                lines.append(f"{name}={value}")
        return "\n".join([*lines, "", self.told]).encode(errors="surrogateescape")

    @classmethod
    def load(cls, data: bytes, where: str) -> Record:
        """From what is stored at ``where``; raises `CapsaError`."""
        lines, _, told = data.decode(errors="surrogateescape").partition("\n\n")
        values = dict(line.partition("=")[::2] for line in lines.split("\n"))
        try:
            pid, began = int(values.pop("pid")), int(values.pop("began"))
            return cls(told=told, pid=pid, began=began, **{name: _plain(value) for name, value in values.items()})
        except (KeyError, ValueError, TypeError):
            raise CapsaError(f"{where} is damaged: remove its directory, and what is left of the container") from None

    def state(self, status: str) -> str:
        """The state as JSON (runtime.md, State)."""
        pid = 0 if status == "stopped" else self.pid
        return f'{self.told.rstrip().removesuffix("}").rstrip()},\n  "pid": {pid},\n  "status": "{status}"\n}}'


def _plain(value: str) -> str:
    parts = value.split("\\\\")
    return "\\".join(part.replace("\\n", "\n") for part in parts)
