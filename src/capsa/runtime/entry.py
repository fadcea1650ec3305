"""Where `capsa-runtime` begins: ``python -I -S entry.py DIRECTORY OPTIONS…``; msgspec is installed in DIRECTORY.

As little as can be, since Python compiles a script each time that it runs.
"""

import sys

if __name__ == "__main__":
    sys.path += [__file__.rpartition("/capsa/")[0], sys.argv.pop(1)]
    from capsa.runtime import sealing, together

    sealing.begin_again([__file__, sys.path[-1], *sys.argv[1:]])
    together.use()

    from capsa.runtime.main import main

    main()
