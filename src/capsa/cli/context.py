"""What a verb gets besides its options: which engine to speak to, and where the user's configuration is."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.cli.client import Engine

DEFAULT_ROOT = "/var/lib/capsa"
DEFAULT_RUN = "/run/capsa"
DEFAULT_HOST = "unix:///run/capsa/docker.sock"


class Context:
    """The global options of one call of the command line."""

    def __init__(
        self,
        host: str | None = None,
        config: str | None = None,
        *,
        tls: bool = False,
        tlsverify: bool = False,
        tlscacert: str | None = None,
        tlscert: str | None = None,
        tlskey: str | None = None,
    ) -> None:
        environment = os.environ
        self.host = host or environment.get("DOCKER_HOST") or DEFAULT_HOST
        self.config = config or environment.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
        certificates = environment.get("DOCKER_CERT_PATH") or self.config
        self.tlsverify = tlsverify or bool(environment.get("DOCKER_TLS_VERIFY"))
        self.tls = tls or self.tlsverify or bool(environment.get("DOCKER_TLS"))
        self.tlscacert = tlscacert or os.path.join(certificates, "ca.pem")
        self.tlscert = tlscert or os.path.join(certificates, "cert.pem")
        self.tlskey = tlskey or os.path.join(certificates, "key.pem")
        self._engine: Engine | None = None

    def engine(self) -> Engine:
        """The client of the selected engine; the default engine is started where there is none."""
        if self._engine is None:
            from capsa.cli.client import Engine

            self._engine = Engine(self)
        return self._engine
