"""docker's commands that capsa does not have, and what to do instead: nothing is pretended."""

from __future__ import annotations

_BUILD = "capsa does not build images yet: build elsewhere, then 'capsa load' or 'capsa pull' the image"
_SWARM = "capsa has no swarm: its containers are those of this machine"
_ABSENT = {
    "build": _BUILD,
    "builder": _BUILD,
    "buildx": _BUILD,
    "image build": _BUILD,
    "checkpoint": "capsa cannot checkpoint containers: stop and start them, or keep what matters in a volume",
    "compose": "Compose is a program of its own: run docker-compose with DOCKER_HOST set to the engine's socket",
    "config": _SWARM,
    "context": "capsa has no contexts: select an engine with --host or DOCKER_HOST",
    "manifest": "capsa does not make manifest lists: use a tool for registries, such as skopeo",
    "node": _SWARM,
    "plugin": "capsa has no plugins: volume and network drivers are built in",
    "secret": f"{_SWARM} (hand secrets over in a volume or a bind mount)",
    "service": _SWARM,
    "stack": _SWARM,
    "swarm": _SWARM,
    "trust": "capsa has no content trust: refer to an image by its digest where it must be that one",
    "volume update": f"only cluster volumes can be updated, and {_SWARM}",
}


def sentence(*words: str) -> str:
    """Why ``capsa WORDS`` is no command."""
    name = " ".join(words)
    known = _ABSENT.get(name)
    if known:
        return known
    see = f"{words[0]} --help" if len(words) > 1 else "--help"
    return f"unknown command: capsa {name}\nSee 'capsa {see}'."
