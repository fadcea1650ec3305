"""Where `capsa-runtime` begins: ``python -I -S entry.py DIRECTORY OPTIONS…``; msgspec is installed in DIRECTORY.

The launcher gives Python the compiled file of this one, if that is newer: to compile it each time takes time, and
memory for the compiler. Likewise the first module comes straight from its compiled file, if that is of this source:
Python would list four directories to find it.
"""

import gc
import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def together() -> "ModuleType":
    """The module of that name."""
    name, directory = "capsa.runtime.together", __file__.rpartition("/capsa/")[0] + "/capsa/runtime"
    source = posix.stat(f"{directory}/together.py")
    head = b"".join(each.to_bytes(4, "little") for each in (0, int(source.st_mtime), source.st_size))
    try:
        with open(f"{directory}/__pycache__/together.{sys.implementation.cache_tag}.pyc", "rb") as file:
            data = file.read()
    except OSError:
        data = b""
    if data[:16] == sys.modules["_frozen_importlib_external"].MAGIC_NUMBER + head:
        module = sys.modules[name] = type(sys)(name)
        module.__file__ = f"{directory}/together.py"
        exec(marshal.loads(data[16:]), module.__dict__)  # noqa: S102, S302
    else:
        __import__(name)
    return sys.modules[name]


if __name__ == "__main__":
    gc.disable()  # what is made from here on stays, and the process ends soon
    sys.path += [__file__.rpartition("/capsa/")[0], sys.argv.pop(1)]
    found = together()
    if "--debug" not in sys.argv:  # which tells where something went wrong, and in that file no lines are known
        found.use()
    with found.finder() as finder:  # it is read in one go
        finder.provide("capsa.runtime.sealing")
        from capsa.runtime import sealing

        sealing.begin_again([__file__, sys.path[-1], *sys.argv[1:]])
        finder.provide("capsa.runtime.lean")
        from capsa.runtime import lean

        lean.import_os()
        finder.provide("capsa.runtime.main")
        from capsa.runtime.main import main
    main()
