"""Where a snapshot is made, and where `capsa-runtime` goes on from it: ``python -I -S awake.py DIRECTORY``.

As `entry`, but with all that any of the usual verbs needs; then it stops, and `capsa.start.snapshot` writes it down.
"""

import gc
import sys


def load() -> None:
    """Import all that verbs need whose time matters, without a look at this machine."""
    from capsa.runtime import lean, main

    # In this order: what a usual call needs is close together, and little else is read with it.
    first, *others = dict.fromkeys(("run", "create", "start", "delete", *sorted(main.LIGHT | main.PLAIN)))
    lean.load((*_modules(first), "capsa.start.identity"), plainly=True)
    for verb in others:
        lean.more(_modules(verb))
    lean.more(lean.LATER)


def _modules(verb: str) -> tuple[str, ...]:
    from capsa.runtime import main

    return (f"capsa.runtime.{main.VERBS[verb]}", *main.WANTED.get(verb, ()))


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
    from capsa.platform.linux import capabilities
    from capsa.start import identity

    identity.adopt(identity.stop())
    capabilities.look()
    main()
