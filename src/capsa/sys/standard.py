"""The standard streams of this process."""

import os
import sys


def open_all() -> None:
    """Have something for those that the caller has closed: what is opened next would take their places.

    And so be read by whoever reads them, or be a container's, though it is the host's. To be called before anything is
    opened. Raises `OSError`.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_RDWR)  # the first number that is free
            os.set_inheritable(fd, True)
            setattr(sys, name, open(fd, "w" if number else "r"))  # noqa: SIM115
