from __future__ import annotations

import hashlib
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pytest
from twisted.internet import defer
from twisted.internet import error as errors
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols.memcache import ServerError
from twisted.python.failure import Failure

from telemeter.auth.authorization_server import Answer
from telemeter.auth.cache import CachingAsker, Expiring
from telemeter.auth.memcached import PAUSE, DownError, Memcached, _Connection
from telemeter.loop.timeouts import TIMEOUTS
from tests.fakes import NOW, UPTIME, FakeTransport, FakeWall, Growth, Log, result_of, start

DAY: Final = 24 * 3600
YES: Final = Answer(200, "application/json", b'{"account_id": "a"}')
KEYS: Final = [hashlib.sha256(bytes([number])).hexdigest() for number in range(200)]
KEY: Final = KEYS[0]
A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
PORT: Final = 11211


class FakeMemcached:
    """A memcached in memory.

    Attributes:
        stored: flags, lifetime and value by key.
        commands: the commands that it got.
        refuses: whether it refuses connections.
        deaf: whether it does not even answer to connections.
        silent: whether it answers no command.
        answer_to_set: what it answers to those.
        connections: those that are open.
    """

    def __init__(self) -> None:
        self.stored: dict[str, tuple[int, int, bytes]] = {}
        self.commands: list[str] = []
        self.refuses = False
        self.deaf = False
        self.silent = False
        self.answer_to_set = b"STORED"
        self.connections: list[tuple[Any, StringTransport]] = []
        self.connected_times = 0
        self.waiting: list[Any] = []

    def connect(self, factory: Any) -> None:
        if self.refuses:
            factory.clientConnectionFailed(None, Failure(errors.ConnectionRefusedError()))
        elif self.deaf:
            self.waiting.append(factory)
        else:
            self.accept(factory)

    def accept(self, factory: Any) -> None:
        self.connected_times += 1
        protocol, transport = factory.buildProtocol(None), StringTransport(lenient=True)
        self.connections.append((protocol, transport))
        protocol.makeConnection(transport)

    def work(self) -> bool:
        """Read and answer what has arrived; whether there was anything to do."""
        busy = False
        for protocol, transport in list(self.connections):
            data = transport.value()
            transport.clear()
            answers = self._answers(data)
            if answers and not self.silent:
                protocol.dataReceived(answers)
            if transport.disconnecting:
                self.connections.remove((protocol, transport))
                protocol.connectionLost(Failure(errors.ConnectionDone()))
            busy = busy or bool(data) or transport.disconnecting
        return busy

    def _answers(self, data: bytes) -> bytes:
        answers = []
        lines = data.split(b"\r\n")
        while lines:
            command, *words = lines.pop(0).decode().split(" ")
            if not command:
                continue
            self.commands.append(command)
            if command == "get":
                (key,) = words
                if key in self.stored:
                    flags, _, value = self.stored[key]
                    answers.append(f"VALUE {key} {flags} {len(value)}".encode())
                    answers.append(value)
                answers.append(b"END")
            else:
                assert command == "set"
                key, flags_, lifetime, size = words
                value = b"\r\n".join(lines)[: int(size)]
                lines = b"\r\n".join(lines)[int(size) + 2 :].split(b"\r\n")
                answers.append(self.answer_to_set)
                if self.answer_to_set == b"STORED":
                    self.stored[key] = (int(flags_), int(lifetime), value)
        return b"".join(answer + b"\r\n" for answer in answers)

    def drop_connections(self) -> None:
        for protocol, _ in self.connections:
            protocol.connectionLost(Failure(errors.ConnectionLost()))
        self.connections.clear()


class Network(MemoryReactorClock):
    """A reactor that reaches memcached servers in memory, and a name server.

    Attributes:
        names: the addresses of each name, or why there are none.
        look_ups: the names that were looked up.
        servers: the memcached servers by address.
        slow: whether look-ups take until `finish_look_ups` is called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str] | Exception] = {}
        self.look_ups: list[str] = []
        self.servers: dict[str, FakeMemcached] = {}
        self.slow = False
        self._unfinished: list[Callable[[], None]] = []
        self.advance(UPTIME)

    # What a name server does.

    def getaddrinfo(self, host: str, port: int, **_: object) -> list[Any]:
        self.look_ups.append(host)
        found = self.names[host]
        if isinstance(found, Exception):
            raise found
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]

    # What threads do.

    def callFromThread(self, function: Callable[..., object], *arguments: object) -> None:
        function(*arguments)

    def callInOwnThread(self, function: Callable[[], None]) -> None:
        if self.slow:
            self._unfinished.append(function)
        else:
            function()

    def finish_look_ups(self) -> None:
        unfinished, self._unfinished = self._unfinished, []
        for finish in unfinished:
            finish()

    # What a network does.

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: object = None,
    ) -> Any:
        connector = super().connectTCP(host, port, factory, timeout, bindAddress)
        assert port == PORT
        self.servers[host].connect(factory)
        return connector

    def settle(self) -> None:
        """Let the servers read and answer until there is nothing more to do."""
        while sum(server.work() for server in self.servers.values()):
            pass

    def finish(self, coroutine: Any) -> Any:
        """The result of a coroutine that waits for servers only."""
        deferred = start(coroutine)
        self.settle()
        return result_of(deferred)

    def connections(self) -> dict[str, int]:
        return {host: len(server.connections) for host, server in self.servers.items()}


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """A network with three servers; the name of each is its address, `all` stands for all."""
    network = Network()
    network.servers = {host: FakeMemcached() for host in (A, B, C)}
    network.names = {host: [host] for host in network.servers}
    network.names["all"] = [A, B, C]
    monkeypatch.setattr(socket, "getaddrinfo", network.getaddrinfo)
    return network


@pytest.fixture
def services() -> Iterator[list[Memcached]]:
    """The services that a test has made, which are stopped at its end."""
    services: list[Memcached] = []
    yield services
    for service in services:
        if service.running:
            service.stopService()


Make = Callable[..., Memcached]


@pytest.fixture
def make(network: Network, services: list[Memcached]) -> Make:
    def make(*names: str, lifetime: int = DAY, interval: float = 10.0) -> Memcached:
        store = Memcached(
            network, FakeWall(network), [(name, PORT) for name in names], lifetime, interval
        )
        services.append(store)
        store.startService()
        return store

    return make


def outcome(deferred: defer.Deferred[Any]) -> Any:
    """What kind of error came out; None for none."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    (result,) = results
    return type(result.value) if isinstance(result, Failure) else None


class TestOneServer:
    def test_what_is_put_is_found(self, network: Network, make: Make) -> None:
        store = make(A)
        assert network.finish(store.get(KEY)) is False
        network.finish(store.put(KEY, YES))
        assert network.finish(store.get(KEY)) is True
        assert network.finish(store.get(KEYS[1])) is False
        assert network.servers[A].connected_times == 1
        assert network.servers[A].commands == ["get", "set", "get", "get"]

    @pytest.mark.parametrize(
        ("answer", "value"),
        [
            (
                YES,
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n"
                b'{"account_id": "a"}',
            ),
            (
                Answer(201, "", b"\r\n\xff\x00\r\nEND\r\n"),
                b"HTTP/1.1 201 Created\r\nContent-Type: \r\nContent-Length: 11\r\n\r\n"
                b"\r\n\xff\x00\r\nEND\r\n",
            ),
        ],
    )
    def test_the_value_is_the_answer_as_the_original_stores_it(
        self, network: Network, make: Make, answer: Answer, value: bytes
    ) -> None:
        store = make(A)
        network.finish(store.put(KEY, answer))
        assert network.servers[A].stored == {KEY: (0, DAY, value)}
        assert network.finish(store.get(KEY)) is True

    @pytest.mark.parametrize(
        ("lifetime", "sent"),
        [
            (0, 0),
            (1, 1),
            (DAY, DAY),
            (30 * DAY, 30 * DAY),
            (30 * DAY + 1, NOW + 30 * DAY + 1),
            (365 * DAY, NOW + 365 * DAY),
        ],
    )
    def test_a_lifetime_of_over_30_days_is_sent_as_a_time_of_day(
        self, network: Network, make: Make, lifetime: int, sent: int
    ) -> None:
        network.finish(make(A, lifetime=lifetime).put(KEY, YES))
        assert network.servers[A].stored[KEY][1] == sent

    def test_several_questions_at_once_use_one_connection(
        self, network: Network, make: Make
    ) -> None:
        store = make(A)
        network.finish(store.put(KEY, YES))
        asked = [start(store.get(key)) for key in (KEY, KEYS[1], KEY)]
        network.settle()
        assert [result_of(each) for each in asked] == [True, False, True]
        assert network.servers[A].connected_times == 1

    def test_several_connections_at_once_become_one(self, network: Network, make: Make) -> None:
        store, server = make(A), network.servers[A]
        server.deaf = True
        asked = [start(store.get(key)) for key in KEYS[:3]]
        for factory in server.waiting:
            server.accept(factory)
        network.settle()
        assert [result_of(each) for each in asked] == [False] * 3
        assert (server.connected_times, len(server.connections)) == (3, 1)


class TestDeadServer:
    @pytest.mark.parametrize(
        ("how", "error"),
        [
            ("refuses", errors.ConnectionRefusedError),
            ("deaf", errors.ConnectingCancelledError),
            ("silent", defer.TimeoutError),
        ],
    )
    def test_is_left_alone_for_a_while(
        self, network: Network, make: Make, how: str, error: type[Exception]
    ) -> None:
        store, server = make(A), network.servers[A]
        setattr(server, how, True)
        asked = start(store.get(KEY))
        network.settle()
        if how != "refuses":
            network.advance(TIMEOUTS.memcached - 0.01)
            assert not asked.called
            network.advance(0.01)
        assert outcome(asked) is error
        network.settle()
        assert network.connections()[A] == 0
        attempts, commands = len(network.tcpClients), len(server.commands)
        for _ in range(5):
            assert outcome(start(store.get(KEY))) is DownError
            assert outcome(start(store.put(KEY, YES))) is DownError
        assert (len(network.tcpClients), len(server.commands)) == (attempts, commands)
        setattr(server, how, False)
        network.advance(PAUSE - 0.01)
        assert outcome(start(store.get(KEY))) is DownError
        network.advance(0.01)
        assert network.finish(store.get(KEY)) is False
        network.finish(store.put(KEY, YES))
        assert network.finish(store.get(KEY)) is True

    def test_all_who_wait_for_it_are_told(self, network: Network, make: Make) -> None:
        store, server = make(A), network.servers[A]
        network.finish(store.get(KEY))
        server.silent = True
        asked = [start(store.get(key)) for key in KEYS[:3]]
        network.settle()
        network.advance(TIMEOUTS.memcached)
        network.settle()
        assert [outcome(each) is not None for each in asked] == [True] * 3

    def test_a_late_answer_is_for_nobody(self, network: Network, make: Make, log: Log) -> None:
        """What comes after the time is over must not pass for the answer to another question."""
        store, server = make(A), network.servers[A]
        network.finish(store.put(KEY, YES))
        (protocol, _) = server.connections[0]
        server.silent = True
        asked = start(store.get(KEY))
        network.settle()
        network.advance(TIMEOUTS.memcached)
        assert outcome(asked) is defer.TimeoutError
        network.settle()
        network.advance(PAUSE)
        server.silent = False
        assert network.finish(store.get(KEYS[1])) is False
        assert protocol is not server.connections[0][0]

    def test_a_connection_that_was_lost_in_between_is_made_anew(
        self, network: Network, make: Make
    ) -> None:
        """A memcached that was restarted costs what it had stored, and not one question more."""
        store, server = make(A), network.servers[A]
        network.finish(store.put(KEY, YES))
        server.drop_connections()
        assert network.finish(store.get(KEY)) is True
        assert server.connected_times == 2

    def test_a_connection_that_is_lost_with_a_question_fails_it(
        self, network: Network, make: Make
    ) -> None:
        store, server = make(A), network.servers[A]
        asked = start(store.get(KEY))
        server.drop_connections()
        assert outcome(asked) is errors.ConnectionLost
        assert outcome(start(store.get(KEY))) is DownError
        network.advance(PAUSE)
        assert network.finish(store.get(KEY)) is False

    @pytest.mark.parametrize(
        ("answer", "error"),
        [(b"NOT_STORED", DownError), (b"SERVER_ERROR out of memory", ServerError)],
    )
    def test_what_is_not_stored_is_an_error(
        self, network: Network, make: Make, log: Log, answer: bytes, error: type[Exception]
    ) -> None:
        log.errors_are_fine = True  # Twisted's protocol logs what a server complains about
        store = make(A)
        network.servers[A].answer_to_set = answer
        asked = start(store.put(KEY, YES))
        network.settle()
        assert outcome(asked) is error


class TestSeveralServers:
    @pytest.fixture
    def store(self, network: Network, make: Make) -> Memcached:
        store = make(A, B, C)
        for key in KEYS:
            network.finish(store.put(key, YES))
        return store

    def test_keys_are_spread(self, network: Network, store: Memcached) -> None:
        held = [set(server.stored) for server in network.servers.values()]
        assert set.union(*held) == set(KEYS)
        assert sum(map(len, held)) == len(KEYS)
        assert min(map(len, held)) > len(KEYS) / 5

    def test_every_replica_spreads_them_alike(
        self, network: Network, make: Make, store: Memcached
    ) -> None:
        for names in ((C, A, B), ("all",), (B, "all")):
            other = make(*names)
            assert all(network.finish(other.get(key)) for key in KEYS)

    def test_a_dead_one_costs_its_own_keys_only(self, network: Network, store: Memcached) -> None:
        dead = network.servers[B]
        dead.refuses = True
        dead.drop_connections()
        outcomes: Counter[tuple[bool, Any]] = Counter()
        for key in KEYS:
            asked = start(store.get(key))
            network.settle()
            outcomes[key in dead.stored, outcome(asked)] += 1
        own = len(dead.stored)
        assert outcomes == {
            (False, None): len(KEYS) - own,
            (True, errors.ConnectionRefusedError): 1,
            (True, DownError): own - 1,
        }

    @pytest.mark.parametrize("gone", [A, B, C])
    def test_only_the_keys_of_one_that_goes_move(
        self, network: Network, make: Make, store: Memcached, gone: str
    ) -> None:
        rest = make(*(host for host in (A, B, C) if host != gone))
        found = {key for key in KEYS if network.finish(rest.get(key))}
        assert found == set(KEYS) - set(network.servers[gone].stored)


class TestLookUps:
    def test_nothing_is_known_before_the_first(self, network: Network, make: Make) -> None:
        network.slow = True
        store = make("all")
        asked = start(store.get(KEY))
        with pytest.raises(DownError, match="no memcached is known by its address yet"):
            result_of(asked)
        network.finish_look_ups()
        assert network.finish(store.get(KEY)) is False

    def test_a_name_may_stand_for_several(self, network: Network, make: Make) -> None:
        store = make("all")
        for key in KEYS:
            network.finish(store.put(key, YES))
        assert all(server.stored for server in network.servers.values())

    @pytest.mark.parametrize(
        ("addresses", "used"),
        [
            (["fe80::1", A], {A}),
            ([A, "fe80::1", B], {A, B}),
            (["fe80::1", "fe80::2"], {"fe80::1", "fe80::2"}),
        ],
    )
    def test_of_two_families_one_is_used(
        self, network: Network, make: Make, addresses: list[str], used: set[str]
    ) -> None:
        """The two addresses of one host are one server, and must not be taken for two."""
        network.servers = {host: FakeMemcached() for host in addresses}
        network.names["host"] = list(addresses)
        store = make("host")
        for key in KEYS:
            network.finish(store.put(key, YES))
        assert {host for host, server in network.servers.items() if server.stored} == used

    def test_names_are_looked_up_anew(self, network: Network, make: Make) -> None:
        network.names["pool"] = [A, B]
        store = make("pool", C)
        for key in KEYS:
            network.finish(store.put(key, YES))
        assert network.connections() == {A: 1, B: 1, C: 1}
        network.names["pool"] = [B]
        network.advance(9.99)
        assert network.look_ups == ["pool", C]
        network.advance(0.01)
        assert network.look_ups == ["pool", C] * 2
        network.settle()
        assert network.connections() == {A: 0, B: 1, C: 1}
        found = {key for key in KEYS if network.finish(store.get(key))}
        assert found == set(KEYS) - set(network.servers[A].stored)
        network.names["pool"] = [A, B]
        network.advance(10)
        assert all(network.finish(store.get(key)) for key in KEYS)
        assert [network.servers[host].connected_times for host in (A, B, C)] == [2, 1, 1]

    def test_0_seconds_between_them_are_for_ever(self, network: Network, make: Make) -> None:
        make(A, interval=0)
        network.advance(DAY)
        assert network.look_ups == [A]
        assert network.getDelayedCalls() == []

    @pytest.mark.parametrize("error", [socket.gaierror("no such name"), UnicodeError("too long")])
    def test_a_name_that_vanishes(
        self, network: Network, make: Make, log: Log, error: Exception
    ) -> None:
        network.names["old"], network.names["new"] = [A], [B]
        store = make("old", "new")
        for key in KEYS:
            network.finish(store.put(key, YES))
        network.names["old"] = error
        network.advance(10)
        network.settle()
        assert network.connections() == {A: 0, B: 1, C: 0}
        found = {key for key in KEYS if network.finish(store.get(key))}
        assert found == set(network.servers[B].stored)
        (event,) = log.of("cannot look up a memcached")
        assert (event["host"], event["reason"]) == ("old", str(error))
        network.names["old"] = [A]
        network.advance(10)
        assert all(network.finish(store.get(key)) for key in KEYS)

    def test_when_all_names_vanish_the_known_servers_stay(
        self, network: Network, make: Make
    ) -> None:
        store = make("all")
        network.finish(store.put(KEY, YES))
        network.names["all"] = socket.gaierror("the name server is down")
        for _ in range(3):
            network.advance(10)
            assert network.finish(store.get(KEY)) is True
        assert sum(server.connected_times for server in network.servers.values()) == 1

    def test_slow_ones_do_not_pile_up(self, network: Network, make: Make) -> None:
        network.slow = True
        store = make("all")
        network.advance(100)
        network.finish_look_ups()
        assert network.look_ups == ["all"]
        network.advance(10)
        network.finish_look_ups()
        assert network.look_ups == ["all", "all"]
        assert network.finish(store.get(KEY)) is False

    def test_a_server_that_goes_with_a_question_fails_it(
        self, network: Network, make: Make
    ) -> None:
        network.names["pool"] = [A]
        store = make("pool")
        network.advance(9.5)
        network.servers[A].silent = True
        asked = start(store.get(KEY))
        network.settle()
        network.names["pool"] = [B]
        network.advance(0.5)
        assert not asked.called
        network.settle()
        assert outcome(asked) is errors.ConnectionDone
        assert network.connections()[A] == 0

    def test_a_connection_that_comes_too_late_is_closed(self, network: Network, make: Make) -> None:
        network.names["pool"] = [A]
        store, server = make("pool"), network.servers[A]
        network.advance(9.5)
        server.deaf = True
        asked = start(store.get(KEY))
        network.names["pool"] = [B]
        network.advance(0.5)
        server.accept(server.waiting[0])
        assert outcome(asked) is DownError
        network.settle()
        assert network.connections() == {A: 0, B: 0, C: 0}
        assert network.finish(store.get(KEY)) is False


class TestStop:
    def test_closes_every_connection(self, network: Network, make: Make) -> None:
        store = make("all")
        for key in KEYS[:20]:
            network.finish(store.get(key))
        assert network.connections() == {A: 1, B: 1, C: 1}
        store.stopService()
        network.settle()
        assert network.connections() == {A: 0, B: 0, C: 0}
        network.advance(100)
        assert network.look_ups == ["all"]
        assert outcome(start(store.get(KEY))) is DownError
        assert network.getDelayedCalls() == []

    def test_before_the_first_look_up_is_over(self, network: Network, make: Make) -> None:
        network.slow = True
        store = make("all")
        store.stopService()
        network.finish_look_ups()
        assert network.tcpClients == []
        assert network.getDelayedCalls() == []


class Yes:
    """An authorization server that says yes."""

    def __init__(self) -> None:
        self.questions = 0

    async def ask(self, question: bytes) -> Answer:
        self.questions += 1
        return YES


@pytest.mark.parametrize(
    ("broken", "questions", "reads", "writes"),
    [
        ([], 1, {"miss": 1, "hit": 3}, {"success": 1}),
        ([A], 4, {"miss": 4, "error": 4}, {"error": 4}),
    ],
)
def test_a_dead_memcached_costs_questions_and_no_request(
    network: Network,
    make: Make,
    broken: Sequence[str],
    questions: int,
    reads: dict[str, int],
    writes: dict[str, int],
) -> None:
    for host in broken:
        network.servers[host].refuses = True
    growth, tollbooth = Growth(), Yes()
    cache = CachingAsker(tollbooth, make(A), Expiring(network, 10.0, 10))
    for _ in range(4):
        checked = cache.check(b"question")
        network.settle()
        assert outcome(checked) is None
    assert tollbooth.questions == questions
    for result in ("hit", "miss", "error"):
        assert growth.of("cache_reads_total", result=result) == reads.get(result, 0)
    for result in ("success", "error"):
        assert growth.of("cache_writes_total", result=result) == writes.get(result, 0)
    if not broken:
        assert list(network.servers[A].stored) == [hashlib.sha256(b"question").hexdigest()]


# --- What no memcached says -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"VALUE k 0 2000000000\r\n", "values have 65536 bytes at most here"),
        (b"VALUE k 0 -5\r\n", "no flags and length of a value"),
        (b"VALUE k 0 x\r\n", "no flags and length of a value"),
        (b"VALUE k\r\n", "no flags and length of a value"),
        (b"VALUE other 0 1\r\nx\r\nEND\r\n", "expected an answer, saw 'VALUE other 0 1"),
        (b"\x00\xff\r\n", "expected an answer, saw '\\x00\\xff"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "expected an answer, saw 'HTTP/1.1 400"),
        (b"VALUE k 0 1\r\nxyz\r\nEND\r\nSTORED\r\nEND\r\nEND\r\n", "expected an answer"),
        (b"x" * 5000, "expected a line of 2048 bytes at most"),
    ],
)
@pytest.mark.parametrize("with_identifier", [False, True])
def test_nonsense_ends_the_connection_with_one_plain_line(
    log: Log, answer: bytes, reason: str, with_identifier: bool
) -> None:
    connection: Any = _Connection()
    transport = FakeTransport()
    connection.makeConnection(transport)
    asked = connection.get(b"k", with_identifier)
    connection.dataReceived(answer)
    assert transport.disconnected
    connection.connectionLost(Failure(errors.ConnectionLost()))
    with pytest.raises(Exception):  # noqa: B017 - whatever it is, its caller does without
        result_of(asked)
    (event,) = log.of("memcached is hung up on")
    assert reason in event["reason"]
    assert log.errors == []


@pytest.mark.parametrize("answer", [b"what?\r\n", b"END\r\n", b"\x00\xff\r\n"])
def test_what_nonsense_answers_waits_no_longer(answer: bytes) -> None:
    connection: Any = _Connection()
    connection.makeConnection(FakeTransport())
    stored, got = connection.set(b"k", b"v"), connection.get(b"k")
    connection.dataReceived(answer)
    connection.connectionLost(Failure(errors.ConnectionLost()))
    for asked in (stored, got):
        with pytest.raises(Exception):  # noqa: B017 - whatever it is, its caller does without
            result_of(asked)


def test_a_value_of_a_usual_size_is_read() -> None:
    connection: Any = _Connection()
    connection.makeConnection(FakeTransport())
    asked = connection.get(b"k")
    connection.dataReceived(b"VALUE k 0 40000\r\n" + bytes(40_000) + b"\r\nEND\r\n")
    assert result_of(asked) == (0, bytes(40_000))
    connection.connectionLost(Failure(errors.ConnectionDone()))
