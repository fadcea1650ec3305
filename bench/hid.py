"""``python -m bench.hid``: how long a configuration for many containers takes to build, write, check and read.

Needs nothing but the interpreter. Times are of the processor, in milliseconds: the best and the middle of some runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from capsa.hid import Node, Quote, Schema, read, read_relaxed, write

T = TypeVar("T")
RUNS = 15
SCHEMA = """\
schema config
+ type any     | : .*
+ type natural | : [0-9]+
+ type size    | : [0-9]+[GMK]?
+ type bool    | : yes|no
+ category target
  + node parent | + attr label | type: any | default:
  + node any-child
  + node child
    + attr name  | type: any
    + attr label | type: any | default:
+ category route
  + node service
    + attr name       | type: any
    + attr label      | type: any | default:
    + attr label_last | type: any | default:
    + node | category: target
  + node any-service | + node | category: target
+ attr prio_levels | type: natural | default: 0
+ node parent-provides
  + node service | + attr name | type: any
+ node start
  + attr name     | type: any
  + attr ram      | type: size
  + attr caps     | type: natural
  + attr version  | type: any     | default:
  + node binary | multiple: no | + attr name | type: any
  + node heartbeat | multiple: no
  + node exit      | multiple: no | + attr propagate | type: bool | default: no
  + node affinity  | multiple: no
    + attr xpos  | type: natural | default: 0
    + attr width | type: natural | default: 1
  + node provides
    + node service | + attr name | type: any
  + node config | + anything
  + node route | multiple: no
    + node | category: route
-
"""


def configuration(containers: int) -> Node:
    """One start node a container, with some thirty nodes in each."""
    root = Node("config", {"prio_levels": 4})
    root.add(Node("parent-provides", {}, [_named("service", name) for name in ("ROM", "PD", "RM", "CPU", "LOG")]))
    for number in range(containers):
        root.add(_start(number))
    return root


def _start(number: int) -> Node:
    return Node(
        "start",
        {"name": f"c{number}", "caps": 300 + number, "ram": f"{16 + number}M", "version": 1},
        [
            _named("binary", "init"),
            Node("heartbeat"),
            Node("exit", {"propagate": False}),
            Node("affinity", {"xpos": number % 4, "width": 1}),
            Node("provides", {}, [_named("service", "File_system")]),
            Node(
                "config",
                {},
                [
                    Node("arg", {}, [Quote("/bin/server --listen 0.0.0.0:80 | tee")]),
                    Node("env", {"name": "PATH"}, [Quote("/bin:/usr/bin")]),
                    Node("vfs", {}, [Node("dir", {"name": "dev"}, [Node("log"), Node("null"), Node("zero")])]),
                ],
            ),
            Node(
                "route",
                {},
                [
                    _routed("ROM", f"rom{number}", label="config"),
                    _routed("ROM", "binaries", label_last="ld.lib.so"),
                    _routed("File_system", f"vfs{number}"),
                    _routed("Timer", "timer"),
                    _routed("Nic", "router", label=f"c{number}"),
                    Node("any-service", {}, [Node("parent")]),
                ],
            ),
        ],
    )


def _named(type: str, name: str) -> Node:
    return Node(type, {"name": name})


def _routed(service: str, child: str, **conditions: str) -> Node:
    return Node("service", {"name": service, **conditions}, [_named("child", child)])


def measured(name: str, action: Callable[[], T]) -> T:
    """Do something `RUNS` times, print what it took, give its result."""
    times = []
    for _ in range(RUNS):
        begin = time.process_time()
        result = action()
        times.append((time.process_time() - begin) * 1000)
    print(f"{name:10} {min(times):6.1f} {statistics.median(times):6.1f} ms")
    return result


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=200)
    containers = parser.parse_args().containers
    schema = measured("schema", lambda: Schema.load(SCHEMA))
    root = measured("build", lambda: configuration(containers))
    text = measured("write", lambda: write(root))
    problems = measured("check", lambda: schema.check(root))
    again = measured("read", lambda: read(text))
    seen = measured("run time", lambda: read_relaxed(text))
    print(f"{containers} containers, {sum(1 for _ in root.walk())} nodes, {len(text)} bytes")
    return 0 if not problems and again == root == seen else 1


if __name__ == "__main__":
    sys.exit(main())
