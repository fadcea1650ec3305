"""Where the zygote begins: ``python -I -S zygote.py DIRECTORIES FD PADDING``; the last directory is msgspec's.

As ``capsa-runtime`` does it imports no more of Python's library than is used (`lean`), though it has all the time there
is: each megabyte that it does not have is none that three forks for each container map, copy in parts, and unmap.
Nothing is put off here, as who needs it would read it again and again.
"""

import gc
import sys


def load(directories: str) -> None:
    """Import all that a zygote needs."""
    gc.disable()  # what is made from here on stays
    *others, packages = directories.split(":")
    sys.path += [*(each for each in others if each not in sys.path), packages]
    from capsa.runtime import lean

    lean.import_os()
    lean.load((*lean.LATER, "capsa.platform.linux.zygote"))


if __name__ == "__main__":
    load(sys.argv.pop(1))
    from capsa.platform.linux import zygote

    zygote.main()
