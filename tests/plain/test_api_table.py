"""docs/api.md says what is served: no more, no less."""

from __future__ import annotations

from fixtures import table

from capsa.api.docker import absent
from capsa.api.docker.router import Router
from capsa.api.docker.server import router

STATES = {"done", "partly", "refused"}


def test_every_route_is_in_the_table() -> None:
    assert set(router().served) - set(table.states()) == set()


def test_every_row_has_a_route() -> None:
    assert set(table.states()) - set(router().served) == set()


def test_no_endpoint_is_served_twice() -> None:
    served = router().served
    assert len(served) == len(set(served))


def test_a_row_has_a_state_that_the_table_explains() -> None:
    assert set(table.states().values()) <= STATES


def test_what_capsa_does_not_have_is_not_called_done() -> None:
    refusing = Router()
    absent.routes(refusing)
    states = table.states()
    done = {endpoint for endpoint in refusing.served if states[endpoint] in ("done", "partly")}
    assert done == {("GET", "/plugins"), ("POST", "/build/prune")}  # an empty list, an empty cache
