"""What every test may use: a guard against hanging, a way to wait, real workers; and who runs beside whom."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.serving import ServedWorker, smaller

GUARD_S = 120.0
SERVED = (
    *("api/", "client/", "reliability/", "state/test_durability.py", "ui/", "test_compiler.py", "test_demo.py"),
    *("test_docs.py", "test_flow.py", "test_provenance.py", "test_server.py", "test_starting.py", "test_stopping.py"),
    *("test_tasks.py", "test_tracing.py"),
)
"""Files whose tests keep workers, browsers or compilers busy, or count seconds, as do those named `*_served.py`. They
are never beside one another, but only beside tests that do not mind how long it takes. Both take about as long: what is
added to one side should be weighed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="as many cases as are promised; takes hours")


def pytest_configure(config: pytest.Config) -> None:
    """The number of generated cases: a few, or with `--long` as many as are promised."""
    if config.getoption("--long") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--long writes down what all tests saw together: it runs in one process")
    for name, examples in (("short", 15), ("long", 3500)):
        settings.register_profile(
            name, max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
    settings.load_profile("long" if config.getoption("--long") else "short")
    config.addinivalue_line("markers", f"guard(seconds): fail the test after so long, instead of {GUARD_S:g} s")
    config.addinivalue_line("markers", "cuda: needs a CUDA device, and is skipped where there is none")


class ServedInOne(LoadScopeScheduling):
    """One process gets all that is served; the others get files, since the tests of a file share what it sets up."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0].removeprefix("tests/")
        return "served" if file.startswith(SERVED) or file.endswith("_served.py") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ServedInOne:
    return ServedInOne(config, log)


@pytest.fixture(autouse=True)
def guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test hangs: the alarm raises in the main thread, wherever that waits."""
    marker = request.node.get_closest_marker("guard")
    seconds = marker.args[0] if marker else GUARD_S

    def give_up(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"the test was not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Workers that tests start keep what they measure away from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture
def run_machine(pytestconfig: pytest.Config) -> Callable[[type[RuleBasedStateMachine]], None]:
    """Runs a Hypothesis state machine: a few times, or with `--long` many."""
    examples, steps = (300, 40) if pytestconfig.getoption("--long") else (3, 15)
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        print_blob=True,
    )
    return lambda machine: run_state_machine_as_test(machine, settings=chosen)


def eventually(condition: Callable[[], object], within_s: float = 20.0) -> None:
    """Return once `condition()` is true; fail if it is not within `within_s`."""
    never, deadline = threading.Event(), time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        never.wait(0.005)


@pytest.fixture(scope="session")
def leaving() -> Iterator[list[ServedWorker]]:
    """Workers that were told to stop: they do so beside the next tests, and must all have stopped in the end."""
    workers: list[ServedWorker] = []
    yield workers
    for worker in workers:
        worker.wait_stopped()


@pytest.fixture
def serve(leaving: list[ServedWorker]) -> Iterator[Callable[..., ServedWorker]]:
    """Start workers with `serve(runner, ...)`; they are told to stop when the test is over."""
    started: list[ServedWorker] = []

    def start(*arguments: object, **settings: object) -> ServedWorker:
        started.append(ServedWorker(*arguments, **settings))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for worker in started:
        worker.leave()
        leaving.append(worker)


@pytest.fixture(scope="session")
def instant(leaving: list[ServedWorker]) -> Iterator[ServedWorker]:
    """One worker that draws at once, for the many tests that only ask something of it."""
    worker = ServedWorker(limits=smaller(queue_capacity=1000))
    yield worker
    worker.leave()
    leaving.append(worker)
