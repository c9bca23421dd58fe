"""The cases of a batch on a Dask cluster: processes of this machine, or of many.

The workers read the CTs and write the cases' folders; only the rows of the tables come back. So all
machines must see the same files by the same paths.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, fields
from itertools import islice
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from LiverTumorSegLib.backends import THREADS_VARIABLE
from LiverTumorSegLib.batch import Job, Outcome, Runner, failure, run_job
from LiverTumorSegLib.case import Setup
from LiverTumorSegLib.checkpoint import default_model_name, find_model, load_models
from LiverTumorSegLib.errors import Cancelled, InputError, ResourceError
from LiverTumorSegLib.segment import ProgressHook

if TYPE_CHECKING:
    from distributed import Client, Future

STARTS = 3
"""How often a case may be started without an end; after that many workers, it has failed."""
IN_FLIGHT = 4096
"""Cases that the scheduler knows of at a time: more than workers, fewer than burden it."""
WORKER_BYTES = 4 * 1024**3
"""Memory for which `local` starts one more worker."""
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 30

logger = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Order:
    """What a worker needs to know of a batch, but for its cases.

    Attributes:
        batch: tells it from other batches of the same scheduler.
        models: files of the weights for liver and tumor.
        sha256: theirs.
        choices: the other fields of `Setup`.
    """

    batch: str
    models: tuple[str, str]
    sha256: tuple[str, str]
    choices: tuple[tuple[str, Any], ...]


def on_cluster(where: str, liver: str | None, tumor: str | None, setup: Setup) -> Runner:
    """Run cases on a Dask cluster, each worker one at a time.

    A case whose worker ends is started again, at most twice. When the runner is closed or fails,
    what runs is canceled. With the device "cuda", each case takes one of the resource GPU.

    Args:
        where: "local", "local:N", or the address of a scheduler.
        liver: a model as for `load_models`.
        tumor: the same.
        setup: what both are when loaded, and the choices.

    Raises:
        InputError: Dask is not installed.
    """
    try:
        importlib.import_module("distributed")
    except ImportError as error:
        raise InputError(
            f"--dask: it needs Dask, which is not installed ({error}). `pip install "
            "'dask[distributed]'` adds it."
        ) from error
    names = liver or default_model_name("liver"), tumor or default_model_name("tumor")
    paths = [str(find_model(name).resolve()) for name in names]
    choices = {one.name: getattr(setup, one.name) for one in fields(setup)}
    models = choices.pop("liver"), choices.pop("tumor")
    order = Order(
        uuid.uuid4().hex,
        (paths[0], paths[1]),
        (models[0].sha256, models[1].sha256),
        tuple(choices.items()),
    )
    resources = {"GPU": 1} if setup.device.startswith("cuda") else {}

    def run(jobs: Sequence[Job]) -> Iterator[Outcome]:
        if not jobs:
            return
        with _connected(where, len(jobs), resources) as client:
            yield from _spread(client, jobs, order, resources)

    return run


def workers_and_threads(where: str, cores: int, memory_bytes: int) -> tuple[int, int]:
    """How many workers "local" or "local:N" means, and the threads of each.

    >>> workers_and_threads("local", 16, 2**36), workers_and_threads("local:5", 16, 2**36)
    ((8, 2), (5, 3))
    """
    _, _, asked = where.partition(":")
    workers = int(asked) if asked else max(min(cores // 2, memory_bytes // WORKER_BYTES), 1)
    return workers, max(cores // workers, 1)


@contextlib.contextmanager
def _connected(where: str, jobs: int, resources: dict[str, int]) -> Iterator[Client]:
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    if where.partition(":")[0] == "local":
        workers, threads = workers_and_threads(where, CPU_COUNT, MEMORY_LIMIT)
        libraries = ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        itk = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
        logger.info("%d workers of %d threads each", workers, threads)
        with _interrupts_held():
            cluster = LocalCluster(
                n_workers=min(workers, jobs),
                threads_per_worker=1,
                memory_limit=MEMORY_LIMIT // workers,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,  # it tells of each connection that an end closes
                resources=resources,
                env=dict.fromkeys((THREADS_VARIABLE, *libraries, itk), str(threads)),
            )
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client
        return
    try:
        client = Client(where, timeout=_ANSWER_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--dask {where}: expected a Dask scheduler that answers, found: {error}. Start one "
            "with `dask scheduler`, and check the address that it prints."
        ) from error
    with client:
        told = client.scheduler_info(n_workers=-1)["workers"].values()
        if not any(all(name in one["resources"] for name in resources) for one in told):
            wanted = ' with --resources "GPU=1"' if resources else ""
            logger.warning("The scheduler has no workers%s yet; the cases wait for them", wanted)
        yield client


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back from this thread, and for good from what is started meanwhile.

    A terminal sends it to the workers, too, which would tell of it by a traceback each. Their
    threads in this process inherit that it is blocked, and so do they, also those that replace
    others later.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which would unblock it when the first of them starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _spread(
    client: Client, jobs: Sequence[Job], order: Order, resources: dict[str, int]
) -> Iterator[Outcome]:
    from distributed import Event, as_completed

    stop = Event(order.batch, client=client)
    running: dict[Future, Job] = {}
    waiting = iter(jobs)

    def submit(job: Job) -> Future:
        future = client.submit(
            _run, job, order, resources=resources, pure=False, key=f"{job.case}-{uuid.uuid4().hex}"
        )
        running[future] = job
        return future

    try:
        first = [submit(job) for job in islice(waiting, IN_FLIGHT)]
        ended = as_completed(first, loop=client.loop)
        for future in ended:
            job = running.pop(future)
            outcome = _outcome(client, future, job, order)
            if outcome is None:
                ended.add(submit(job))
                continue
            yield outcome
            for further in islice(waiting, 1):
                ended.add(submit(further))
    finally:
        with contextlib.suppress(OSError, TimeoutError, CancelledError):  # the scheduler is lost
            if running:
                stop.set()
                client.cancel(list(running))
            client.set_metadata([order.batch], {})


def _outcome(client: Client, future: Future, job: Job, order: Order) -> Outcome | None:
    """What a worker gives back; None where the case is to be started again.

    Raises:
        ResourceError: the scheduler was lost, or a worker's disk is full.
        InputError: the workers cannot run this batch.
    """
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        if client.get_metadata([order.batch, job.case], 0) < STARTS:
            return None  # others were to blame, or the scheduler allows fewer
        return _given_up(job)
    except CancelledError as error:
        raise ResourceError(
            "The Dask scheduler was lost. Start it again, and go on with --resume."
        ) from error
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"--dask: expected workers with this version of LiverTumorSeg, found: {error}. "
            "Install it in their environment."
        ) from error


def _given_up(job: Job) -> Outcome:
    return failure(
        job,
        f"{job.path}: {STARTS} workers ended while they ran it. Most likely the memory was not "
        "enough: give the workers more, or run it by `segment` and see.",
        0.0,
    )


def _run(job: Job, order: Order) -> Outcome:
    """Run a case in a worker."""
    from distributed import get_client

    with _one_at_a_time:  # a worker of several threads takes several cases
        client = get_client()
        place = [order.batch, job.case]
        starts = client.get_metadata(place, 0)
        if starts >= STARTS:
            return _given_up(job)
        client.set_metadata(place, starts + 1)
        outcome = run_job(job, _setup(order), _stop_hook(client, order.batch))
        client.set_metadata(place, 0)  # if its outcome is lost with the worker, it is not to blame
        return outcome


@functools.lru_cache(maxsize=1)
def _setup(order: Order) -> Setup:
    """The models, read by a worker at its first case.

    Raises:
        InputError: the files are not those that the batch was started with.
    """
    # A client that is dropped while its process ends would tell of that by a traceback.
    sys.unraisablehook = lambda dropped: logger.debug("%r", dropped.exc_value)
    models = load_models(*order.models)
    for path, model, sha256 in zip(order.models, models, order.sha256, strict=True):
        if model.sha256 != sha256:
            raise InputError(
                f"{path}: expected the weights that the batch was started with, found others "
                "where the worker runs. Give all machines the same file."
            )
    return Setup(*models, **dict(order.choices))


def _stop_hook(client: Client, batch: str) -> ProgressHook:
    """Cancel a case when its batch has ended; looked at no more than once a second."""
    from distributed import Event

    stop = Event(batch, client=client)
    looked = time.monotonic()

    def hook(stage: str, fraction: float) -> None:
        nonlocal looked
        if time.monotonic() - looked > _LOOK_SECONDS:
            looked = time.monotonic()
            if stop.is_set():
                raise Cancelled

    return hook
