"""Where a snapshot is made, and where `capsa-runtime` goes on from it: ``python -I -S awake.py DIRECTORY``.

As `entry`, but with all that any of the usual verbs needs; then it stops, for `snapshot` to write it down. The launcher
gives that memory to another process, in which the same system call returns once more (``setjmp(3)`` in large).
"""

import gc
import sys


def load() -> None:
    """Import all that verbs need whose time matters, without a look at this machine."""
    from capsa.runtime import lean, main

    # In this order: what a usual call needs is close together, and little else is read with it.
    first, *others = dict.fromkeys(("run", "create", "start", "delete", *sorted(main.LIGHT | main.PLAIN)))
    lean.load((*_modules(first), "capsa.runtime.identity"), plainly=True)
    for verb in others:
        lean.more(_modules(verb))
    lean.more(lean.LATER)


def _modules(verb: str) -> tuple[str, ...]:
    from capsa.runtime import main

    return (f"capsa.runtime.{main.VERBS[verb]}", *main.WANTED.get(verb, ()))


def stop() -> int:
    """Stop, until somebody goes on; returns where the launcher has put what is to be known of his process."""
    import os
    import signal

    from capsa.sys.call import call

    return call("kill", os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    gc.disable()
    sys.path += [__file__.rpartition("/capsa/")[0], sys.argv.pop(1)]
    from capsa.runtime import together

    together.use()
    with together.finder() as finder:
        finder.provide("capsa.runtime.lean")
        from capsa.runtime import lean

        lean.import_os()
        finder.provide("capsa.runtime.main")
        from capsa.runtime.main import main
    load()
    told = stop()
    from capsa.runtime import identity

    identity.adopt(told)
    main()
