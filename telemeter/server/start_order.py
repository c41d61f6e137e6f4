"""The services of a server, in the order in which they start; they stop in the reverse order.

A server is one process, or a parent and its workers: one list for each kind of process. Read a list
from its end to see a stop: each service stops when the one below it has stopped
(`telemeter.loop.services.OrderedServices`). A service that is None is not there, and left out.
docs/architecture.md says of each what its stop does.

The lists are not in `app`, because workers need theirs, and `app` declares metrics that are the
parent's alone.
"""

from __future__ import annotations

from twisted.application.service import IService

from telemeter.loop.services import OnStop, in_start_order
from telemeter.server.clients import Clients
from telemeter.server.endpoints import Endpoints
from telemeter.server.fleet import Fleet
from telemeter.web.fleet_observer import AttemptObserver
from telemeter.web.health import Health


def of_single_process(
    endpoints: Endpoints,
    fleet: Fleet,
    *,
    reloader: IService,
    operator_listener: IService,
    client_listener: IService,
) -> list[IService]:
    """Return the services of a server in one process."""
    return in_start_order(
        connections=OnStop(endpoints.clients.close),  # kept ones, to the servers that it asks
        memory_return=endpoints.memory_return,
        queue_metrics=endpoints.queue_metrics,  # None without --forward-url
        store_expiry=endpoints.store_expiry,  # None with --forward-url
        memcached=endpoints.memcached,  # None without --memcached
        reloader=reloader,
        operator_listener=operator_listener,  # answers until clients are done
        fleet_keeper=fleet.keeper,  # None without --fleet-database
        fleet=OnStop(fleet.stop),
        issuer_discovery=endpoints.clients.discovery(endpoints.health),  # None without OIDC
        client_listener=client_listener,
        # The first to stop, so that balancers send no more requests while those under way finish.
        health=OnStop(endpoints.health.stop),
    )


def of_parent(
    clients: Clients,
    health: Health,
    fleet: Fleet,
    *,
    reloader: IService,
    operator_listener: IService,
    workers: IService,
) -> list[IService]:
    """Return the services of the parent of workers: it has no endpoints for clients itself."""
    return in_start_order(
        connections=OnStop(clients.close),
        reloader=reloader,
        operator_listener=operator_listener,
        fleet_keeper=fleet.keeper,
        fleet=OnStop(fleet.stop),
        issuer_discovery=clients.discovery(health),
        workers=workers,  # they stop all at the same time, each in the order of `of_worker`
        health=OnStop(health.stop),
    )


def of_worker(
    endpoints: Endpoints, reporter: AttemptObserver | None, *, client_listener: IService
) -> list[IService]:
    """Return the services of a worker: reloads, operators and the fleet are its parent's."""
    return in_start_order(
        reports=None if reporter is None else OnStop(reporter.stop),  # to the parent's fleet
        connections=OnStop(endpoints.clients.close),
        memory_return=endpoints.memory_return,
        queue_metrics=endpoints.queue_metrics,
        memcached=endpoints.memcached,  # there is no store: --workers needs --forward-url
        # It may take the place of another worker long after the start, and serves all the same when
        # the issuer is not there then.
        issuer_discovery=endpoints.clients.discovery(endpoints.health, vital=False),
        client_listener=client_listener,
        health=OnStop(endpoints.health.stop),
    )
