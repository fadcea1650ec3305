"""TAP devices, which lead from networks to components on Genode."""

from __future__ import annotations

import errno
import os
import secrets

import pytest

from capsa.sys import tap
from capsa.sys.netlink import Netlink


def test_a_device_of_somebody_else_is_not_taken_over(need_root: None) -> None:
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("needs TAP devices: there is no /dev/net/tun")
    name = f"capsa{secrets.token_hex(5)}"
    tap.add(name)
    try:
        with pytest.raises(OSError) as found:
            tap.add(name)
        assert (found.value.errno, found.value.filename) == (errno.EBUSY, name)
    finally:
        with Netlink() as netlink:
            netlink.delete(name)
    assert not os.path.exists(f"/sys/class/net/{name}")
