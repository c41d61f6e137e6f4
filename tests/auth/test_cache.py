from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from telemeter.auth.authorization_server import Answer, RefusedError, UnavailableError
from telemeter.auth.cache import CachingAsker, Expiring, MemoryCache, RemoteAsker
from tests.fakes import Growth, Log, result_of, run

YES: Final = Answer(200, "application/json", b"{}")
QUESTION: Final = b'{"authorization_token": "s3cr3t", "cluster_id": "c"}'


class Tollbooth:
    """Answers yes until told otherwise; without an answer it leaves the question open."""

    def __init__(self) -> None:
        self.questions: list[bytes] = []
        self.open: list[Deferred[Answer]] = []
        self.error: Exception | None = None
        self.silent = False

    async def ask(self, question: bytes) -> Answer:
        self.questions.append(question)
        if self.silent:
            self.open.append(Deferred())
            return await self.open[-1]
        if self.error is not None:
            raise self.error
        return YES


class BrokenStore:
    """A store of which one side, or both, are broken."""

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.stored: dict[str, Answer] = {}

    async def get(self, key: str) -> bool:
        if "get" in self.broken:
            raise OSError("no connection")
        return key in self.stored

    async def put(self, key: str, answer: Answer) -> None:
        if "put" in self.broken:
            raise OSError("out of memory")
        self.stored[key] = answer


@pytest.fixture
def tollbooth() -> Tollbooth:
    return Tollbooth()


@pytest.fixture
def cache(tollbooth: Tollbooth, clock: Clock) -> CachingAsker:
    return CachingAsker(tollbooth, MemoryCache(clock, 300.0, 3), Expiring(clock, 10.0, 3))


def verdict(deferred: Deferred[None]) -> Exception | None:
    """What a question came to: None for a yes."""
    results: list[Failure | None] = []
    deferred.addBoth(results.append)
    (result,) = results
    if result is None:
        return None
    assert isinstance(result.value, Exception)
    return result.value


class TestExpiring:
    def test_an_entry_lives_for_its_lifetime(self, clock: Clock) -> None:
        entries: Expiring[str] = Expiring(clock, 5.0, 2)
        entries.put("a", "x")
        clock.advance(4.999)
        assert entries.get("a") == "x"
        clock.advance(0.001)
        assert entries.get("a") is None
        assert len(entries) == 0

    def test_the_oldest_goes_when_it_is_full(self, clock: Clock) -> None:
        entries: Expiring[str] = Expiring(clock, 5.0, 2)
        for key in "abc":
            entries.put(key, key)
        assert [entries.get(key) for key in "abc"] == [None, "b", "c"]

    def test_putting_it_again_makes_it_new(self, clock: Clock) -> None:
        entries: Expiring[str] = Expiring(clock, 5.0, 2)
        entries.put("a", "x")
        entries.put("b", "x")
        clock.advance(3)
        entries.put("a", "y")
        entries.put("c", "x")
        assert [entries.get(key) for key in "abc"] == ["y", None, "x"]
        clock.advance(3)
        assert entries.get("a") == "y"

    def test_putting_it_again_drives_out_nobody(self, clock: Clock) -> None:
        entries: Expiring[str] = Expiring(clock, 5.0, 2)
        for key in "abbb":
            entries.put(key, key)
        assert [entries.get(key) for key in "ab"] == ["a", "b"]

    def test_reading_does_not_make_it_new(self, clock: Clock) -> None:
        entries: Expiring[str] = Expiring(clock, 5.0, 2)
        entries.put("a", "x")
        for _ in range(5):
            assert entries.get("a") == "x"
            clock.advance(1)
        assert entries.get("a") is None

    @pytest.mark.parametrize(("lifetime", "size"), [(0.0, 5), (-1.0, 5), (5.0, 0)])
    def test_nothing_is_kept_where_nothing_may_be(
        self, clock: Clock, lifetime: float, size: int
    ) -> None:
        entries: Expiring[str] = Expiring(clock, lifetime, size)
        entries.put("a", "x")
        assert (entries.get("a"), len(entries)) == (None, 0)

    def test_it_stays_small_whatever_comes(self, clock: Clock) -> None:
        entries: Expiring[int] = Expiring(clock, 5.0, 100)
        for number in range(1000):
            entries.put(str(number), number)
            clock.advance(0.01)
        assert len(entries) == 100


class TestYes:
    def test_is_remembered(self, cache: CachingAsker, tollbooth: Tollbooth) -> None:
        growth = Growth()
        assert [verdict(cache.check(QUESTION)) for _ in range(3)] == [None, None, None]
        assert tollbooth.questions == [QUESTION]
        assert growth.of("cache_reads_total", result="miss") == 1
        assert growth.of("cache_reads_total", result="hit") == 2
        assert growth.of("cache_reads_total", result="error") == 0
        assert growth.of("cache_writes_total", result="success") == 1
        assert growth.of("cache_writes_total", result="error") == 0

    def test_is_known_at_once(
        self, cache: CachingAsker, tollbooth: Tollbooth, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is begun that would have to be waited for."""
        assert verdict(cache.check(QUESTION)) is None
        monkeypatch.setattr(MemoryCache, "get", None)
        growth = Growth()
        assert verdict(cache.check(QUESTION)) is None
        assert growth.of("cache_reads_total", result="hit") == 1
        assert growth.of("cache_reads_total", result="error") == 0
        assert tollbooth.questions == [QUESTION]

    def test_is_forgotten(self, cache: CachingAsker, tollbooth: Tollbooth, clock: Clock) -> None:
        for seconds in (0.0, 299.9, 0.1, 299.9):
            clock.advance(seconds)
            assert verdict(cache.check(QUESTION)) is None
        assert len(tollbooth.questions) == 2

    def test_is_for_the_very_same_question(self, cache: CachingAsker, tollbooth: Tollbooth) -> None:
        questions = [QUESTION, QUESTION + b" ", QUESTION.replace(b'"c"', b'"d"')]
        for question in questions:
            assert verdict(cache.check(question)) is None
        assert tollbooth.questions == questions

    def test_is_stored_under_the_hash_of_the_question(self, clock: Clock) -> None:
        store = BrokenStore()
        verdict(CachingAsker(Tollbooth(), store, Expiring(clock, 10.0, 3)).check(QUESTION))
        assert store.stored == {hashlib.sha256(QUESTION).hexdigest(): YES}

    def test_so_many_are_remembered(self, cache: CachingAsker, tollbooth: Tollbooth) -> None:
        for letter in b"abcdabcd":
            verdict(cache.check(bytes([letter])))
        assert len(tollbooth.questions) == 8
        for letter in b"dcb":
            verdict(cache.check(bytes([letter])))
        assert len(tollbooth.questions) == 8


class TestNo:
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 418])
    def test_is_remembered_briefly(
        self, cache: CachingAsker, tollbooth: Tollbooth, clock: Clock, status: int
    ) -> None:
        growth = Growth()
        tollbooth.error = RefusedError(status)
        for _ in range(10):
            error = verdict(cache.check(QUESTION))
            assert isinstance(error, RefusedError)
            assert error.status == status
            clock.advance(0.999)
        assert len(tollbooth.questions) == 1
        clock.advance(0.02)
        tollbooth.error = None
        assert verdict(cache.check(QUESTION)) is None
        assert len(tollbooth.questions) == 2
        assert growth.of("cache_reads_total", result="miss") == 2
        assert growth.of("cache_writes_total", result="success") == 1

    def test_does_not_keep_what_it_was_raised_with(
        self, cache: CachingAsker, tollbooth: Tollbooth
    ) -> None:
        """An exception that is raised again and again grows by a traceback each time."""
        tollbooth.error = RefusedError(401)
        errors = [verdict(cache.check(QUESTION)) for _ in range(3)]
        assert len({id(error) for error in errors}) == 3

    @pytest.mark.parametrize("error", [RefusedError(429), UnavailableError("down")])
    def test_of_one_who_does_not_know_is_not_remembered(
        self, cache: CachingAsker, tollbooth: Tollbooth, error: Exception
    ) -> None:
        tollbooth.error = error
        assert [verdict(cache.check(QUESTION)) for _ in range(3)] == [error] * 3
        tollbooth.error = None
        assert verdict(cache.check(QUESTION)) is None
        assert len(tollbooth.questions) == 4

    def test_does_not_outlive_a_yes_that_follows_it(
        self, cache: CachingAsker, tollbooth: Tollbooth, clock: Clock
    ) -> None:
        tollbooth.error = RefusedError(401)
        verdict(cache.check(QUESTION))
        clock.advance(10)
        tollbooth.error = None
        assert [verdict(cache.check(QUESTION)) for _ in range(2)] == [None, None]

    def test_need_not_be_remembered(self, tollbooth: Tollbooth, clock: Clock) -> None:
        cache = CachingAsker(tollbooth, MemoryCache(clock, 300.0, 3), Expiring(clock, 0.0, 3))
        tollbooth.error = RefusedError(401)
        for _ in range(3):
            assert isinstance(verdict(cache.check(QUESTION)), RefusedError)
        assert len(tollbooth.questions) == 3

    def test_so_many_are_remembered(self, cache: CachingAsker, tollbooth: Tollbooth) -> None:
        tollbooth.error = RefusedError(401)
        for letter in b"abcdbcda":
            verdict(cache.check(bytes([letter])))
        assert tollbooth.questions == [b"a", b"b", b"c", b"d", b"a"]


class TestTogether:
    @pytest.fixture(autouse=True)
    def silent(self, tollbooth: Tollbooth) -> None:
        tollbooth.silent = True

    def test_all_share_one_question(self, cache: CachingAsker, tollbooth: Tollbooth) -> None:
        growth = Growth()
        waiting = [cache.check(QUESTION) for _ in range(5)]
        assert not any(each.called for each in waiting)
        tollbooth.open[0].callback(YES)
        assert [verdict(each) for each in waiting] == [None] * 5
        assert tollbooth.questions == [QUESTION]
        assert growth.of("cache_reads_total", result="miss") == 1
        assert verdict(cache.check(QUESTION)) is None

    @pytest.mark.parametrize(
        "error", [RefusedError(401), RefusedError(429), UnavailableError("down"), ValueError("?")]
    )
    def test_all_share_one_failure(
        self, cache: CachingAsker, tollbooth: Tollbooth, error: Exception
    ) -> None:
        waiting = [cache.check(QUESTION) for _ in range(3)]
        tollbooth.open[0].errback(error)
        assert [verdict(each) for each in waiting] == [error] * 3

    def test_other_questions_are_their_own(self, cache: CachingAsker, tollbooth: Tollbooth) -> None:
        first, second = cache.check(b"a"), cache.check(b"b")
        tollbooth.open[1].callback(YES)
        assert verdict(second) is None
        assert not first.called
        tollbooth.open[0].errback(RefusedError(401))
        assert isinstance(verdict(first), RefusedError)

    @pytest.mark.parametrize("leaving", [[0], [1], [2], [0, 1], [0, 2], [0, 1, 2]])
    @pytest.mark.parametrize("error", [None, RefusedError(401)])
    def test_who_cancels_leaves_the_others(
        self,
        cache: CachingAsker,
        tollbooth: Tollbooth,
        leaving: list[int],
        error: RefusedError | None,
    ) -> None:
        waiting = [cache.check(QUESTION) for _ in range(3)]
        for position in leaving:
            waiting[position].cancel()
            assert isinstance(verdict(waiting[position]), CancelledError)
        staying = [each for position, each in enumerate(waiting) if position not in leaving]
        assert not any(each.called for each in staying)
        assert not tollbooth.open[0].called
        if error is None:
            tollbooth.open[0].callback(YES)
        else:
            tollbooth.open[0].errback(error)
        assert [verdict(each) for each in staying] == [error] * len(staying)
        # The answer is remembered even if nobody waits for it any more.
        again = verdict(cache.check(QUESTION))
        assert (again is None) is (error is None)
        assert len(tollbooth.questions) == 1

    def test_who_comes_later_waits_too(self, cache: CachingAsker, tollbooth: Tollbooth) -> None:
        cache.check(QUESTION).addErrback(lambda failure: failure.trap(CancelledError)).cancel()
        late = cache.check(QUESTION)
        tollbooth.open[0].callback(YES)
        assert verdict(late) is None
        assert len(tollbooth.questions) == 1

    def test_one_may_cancel_another_when_the_answer_is_there(
        self, cache: CachingAsker, tollbooth: Tollbooth
    ) -> None:
        waiting = [cache.check(QUESTION) for _ in range(3)]
        waiting[0].addCallback(lambda _: waiting[1].cancel())
        tollbooth.open[0].callback(YES)
        assert isinstance(verdict(waiting[1]), CancelledError)
        assert verdict(waiting[2]) is None

    def test_one_may_ask_again_when_the_answer_is_there(
        self, cache: CachingAsker, tollbooth: Tollbooth
    ) -> None:
        again: list[Deferred[None]] = []
        waiting = cache.check(QUESTION)
        waiting.addErrback(lambda _: again.append(cache.check(QUESTION)))
        tollbooth.open[0].errback(UnavailableError("down"))
        assert len(tollbooth.questions) == 2
        tollbooth.open[1].callback(YES)
        assert verdict(again[0]) is None


class TestBrokenStore:
    @pytest.mark.parametrize(
        ("broken", "reads", "writes"),
        [
            (["get"], {"miss": 1, "error": 1}, {"success": 1}),
            (["put"], {"miss": 1}, {"error": 1}),
            (["get", "put"], {"miss": 1, "error": 1}, {"error": 1}),
        ],
    )
    def test_costs_a_question_and_no_refusal(
        self,
        clock: Clock,
        log: Log,
        broken: list[str],
        reads: dict[str, int],
        writes: dict[str, int],
    ) -> None:
        growth, tollbooth = Growth(), Tollbooth()
        cache = CachingAsker(tollbooth, BrokenStore(*broken), Expiring(clock, 10.0, 3))
        assert verdict(cache.check(QUESTION)) is None
        assert tollbooth.questions == [QUESTION]
        for result in ("hit", "miss", "error"):
            assert growth.of("cache_reads_total", result=result) == reads.get(result, 0)
        for result in ("success", "error"):
            assert growth.of("cache_writes_total", result=result) == writes.get(result, 0)
        warnings = [line for line in log.lines if "the cache of authorizations" in line]
        assert len(warnings) == len(broken)
        assert all("OSError: " in line and "level=warn" in line for line in warnings)

    @pytest.mark.parametrize("error", [RefusedError(403), UnavailableError("down")])
    def test_does_not_hide_a_refusal(self, clock: Clock, error: Exception) -> None:
        tollbooth = Tollbooth()
        tollbooth.error = error
        cache = CachingAsker(tollbooth, BrokenStore("get", "put"), Expiring(clock, 10.0, 3))
        assert isinstance(verdict(cache.check(QUESTION)), type(error))

    def test_noes_are_remembered_without_it(self, clock: Clock) -> None:
        tollbooth = Tollbooth()
        tollbooth.error = RefusedError(403)
        cache = CachingAsker(tollbooth, BrokenStore("get", "put"), Expiring(clock, 10.0, 3))
        for _ in range(3):
            assert isinstance(verdict(cache.check(QUESTION)), RefusedError)
        assert len(tollbooth.questions) == 1

    def test_is_used_again_when_it_works_again(self, clock: Clock) -> None:
        store, tollbooth = BrokenStore("get", "put"), Tollbooth()
        cache = CachingAsker(tollbooth, store, Expiring(clock, 10.0, 3))
        verdict(cache.check(QUESTION))
        store.broken.clear()
        for _ in range(3):
            assert verdict(cache.check(QUESTION)) is None
        assert len(tollbooth.questions) == 2


def test_a_no_is_not_put_into_the_store(clock: Clock) -> None:
    """Where several servers share a store, one's brief memory must not become everybody's."""
    store, tollbooth = BrokenStore(), Tollbooth()
    tollbooth.error = RefusedError(403)
    verdict(CachingAsker(tollbooth, store, Expiring(clock, 10.0, 3)).check(QUESTION))
    assert store.stored == {}


@pytest.mark.parametrize("answer", [lambda: succeed(YES), lambda: fail(RefusedError(401))])
def test_neither_question_nor_key_is_logged(
    clock: Clock, log: Log, answer: Callable[[], Deferred[Answer]]
) -> None:
    tollbooth = Tollbooth()
    tollbooth.silent = True
    cache = CachingAsker(tollbooth, BrokenStore("get", "put"), Expiring(clock, 10.0, 3))
    waiting = cache.check(QUESTION)
    answer().chainDeferred(tollbooth.open[0])
    verdict(waiting)
    key = hashlib.sha256(QUESTION).hexdigest()
    assert log.lines
    assert not any("s3cr3t" in repr(event) or key in repr(event) for event in log)


def test_the_store_in_memory(clock: Clock) -> None:
    store = MemoryCache(clock, 5.0, 2)
    assert run(store.get("a")) is False
    run(store.put("a", YES))
    assert run(store.get("a")) is True
    clock.advance(5)
    assert run(store.get("a")) is False


# --- In another process ---------------------------------------------------------------------------


def test_a_store_says_for_how_long_it_keeps_a_yes(clock: Clock, tollbooth: Tollbooth) -> None:
    store = MemoryCache(clock, 10, 5)
    asker = CachingAsker(tollbooth, store, Expiring(clock, 10, 5))
    assert store.remaining(QUESTION) == 0
    result_of(asker.check(QUESTION))
    assert store.remaining(QUESTION) == 10
    clock.advance(4)
    assert store.remaining(QUESTION) == 6
    clock.advance(7)
    assert store.remaining(QUESTION) == 0


class Remote:
    """Another process, which says yes for a while, or what a test wants."""

    def __init__(self, clock: Clock, size: int = 10) -> None:
        self.questions: list[bytes] = []
        self.seconds = 10.0
        self.error: Exception | None = None
        self.open: list[Deferred[float]] | None = None
        self.asker = RemoteAsker(self.ask, clock, size)

    async def ask(self, question: bytes) -> float:
        self.questions.append(question)
        if self.open is not None:
            self.open.append(Deferred())
            return await self.open[-1]
        if self.error is not None:
            raise self.error
        return self.seconds


@pytest.fixture
def remote(clock: Clock) -> Remote:
    return Remote(clock)


def test_a_yes_is_remembered_for_as_long_as_there(remote: Remote, clock: Clock) -> None:
    grown = Growth()
    remote.seconds = 3.0
    for _ in range(3):
        assert result_of(remote.asker.check(QUESTION)) is None
    assert len(remote.questions) == 1
    assert grown.of("cache_reads_total", result="hit") == 2
    clock.advance(3)
    assert result_of(remote.asker.check(QUESTION)) is None
    assert len(remote.questions) == 2


def test_a_yes_that_is_not_remembered_there_is_not_here(remote: Remote) -> None:
    remote.seconds = 0.0
    for _ in range(2):
        assert result_of(remote.asker.check(QUESTION)) is None
    assert len(remote.questions) == 2


@pytest.mark.parametrize("error", [RefusedError(403), UnavailableError("down")])
def test_only_a_yes_is_remembered(remote: Remote, error: Exception) -> None:
    remote.error = error
    for _ in range(2):
        with pytest.raises(type(error)):
            result_of(remote.asker.check(QUESTION))
    remote.error = None
    assert result_of(remote.asker.check(QUESTION)) is None
    assert len(remote.questions) == 3


def test_only_so_many_are_remembered(clock: Clock) -> None:
    remote = Remote(clock, size=2)
    for question in (b"1", b"2", b"3", b"3", b"2", b"1"):
        result_of(remote.asker.check(question))
    assert remote.questions == [b"1", b"2", b"3", b"1"]


def test_many_who_ask_at_once_make_one_question(remote: Remote) -> None:
    remote.open = []
    checks = [remote.asker.check(QUESTION) for _ in range(3)]
    checks[0].addErrback(lambda failure: failure.trap(CancelledError))
    checks[0].cancel()
    (answer,) = remote.open
    answer.callback(5.0)
    for check in checks[1:]:
        assert result_of(check) is None
    assert result_of(remote.asker.check(QUESTION)) is None
    assert len(remote.questions) == 1
