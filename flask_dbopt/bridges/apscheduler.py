"""Scheduled jobs through Flask-APScheduler, run only by the process that holds the lease."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask_apscheduler import APScheduler

log = logging.getLogger("flask_dbopt")

Job = Callable[[], object]

_LONGEST = 10.0
"""Seconds the scheduler rests at most: a job that came due while the machine slept runs soon after."""


@dataclass(frozen=True, slots=True)
class _Entry:
    hours: float
    job: Job
    first_in_seconds: float | Callable[[], float]


class Schedule:
    """Jobs at intervals of hours. The scheduler exists only between ``start`` and ``stop``.

    Flask-APScheduler gets a configuration object of its own, never the host's app: where the app has its own
    scheduler, a second ``init_app`` would take that over and run its jobs twice. The REST API stays off.
    ``may_run`` is asked at every start and before every run: usually, whether the lease is held.
    """

    def __init__(self, name: str, may_run: Callable[[], bool]) -> None:
        self.name = name
        self.problem = ""
        """Why the scheduler could not start, such as a server without threads; empty while all is well."""
        self._may_run = may_run
        self._entries: dict[str, _Entry] = {}
        self._extension: APScheduler | None = None
        self._at_work: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, job_id: str, hours: float, job: Job, first_in_seconds: float | Callable[[], float] = 0.0) -> None:
        """Run ``job`` every ``hours``; a late one runs late, once. The same id replaces.

        ``first_in_seconds`` is counted from the start; a callable can tell then what was done elsewhere.
        """
        with self._lock:
            self._entries[job_id] = _Entry(hours, job, first_in_seconds)
            if self._extension is not None:
                self._enter(self._extension, job_id)

    def start(self) -> bool:
        """Start unless it runs; False when this process may not run jobs, or has no threads to do so."""
        with self._lock:
            if self.running:
                return True
            if not self._may_run():
                return False
            extension = self._extension = _extension(weakref.ref(self))
            for job_id in self._entries:
                self._enter(extension, job_id)
            try:
                # Not the extension's own start: with FLASK_DEBUG=1 and no reloader it silently does nothing.
                extension.scheduler.start()
            except RuntimeError as error:
                self._extension, self.problem = None, str(error)
                return False
            self.problem = ""
            return True

    @property
    def running(self) -> bool:
        """Whether jobs are being scheduled in this process."""
        extension = self._extension
        return extension is not None and bool(extension.running)

    def stop(self, timeout: float = 5.0) -> bool:
        """End the scheduler; True when a job under way ends within ``timeout`` seconds. May be repeated."""
        with self._lock:
            extension, self._extension = self._extension, None
        if extension is not None and extension.running:
            extension.shutdown(wait=False)
        thread = self._at_work
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def abandon(self) -> None:
        """After a fork, in the child: the threads stayed behind; the jobs remain for a later start."""
        self._lock = threading.Lock()
        self._extension = None
        self._at_work = None

    def next_run(self, job_id: str) -> float | None:
        """When the job is due next, in unix seconds; None when it is not scheduled in this process."""
        extension = self._extension
        job = None if extension is None or not extension.running else extension.get_job(job_id)
        return None if job is None or job.next_run_time is None else float(job.next_run_time.timestamp())

    def _enter(self, extension: APScheduler, job_id: str) -> None:
        entry = self._entries[job_id]
        first = entry.first_in_seconds() if callable(entry.first_in_seconds) else entry.first_in_seconds
        extension.add_job(
            job_id,
            _run,
            args=(weakref.ref(self), job_id),
            trigger="interval",
            seconds=entry.hours * 3600,
            next_run_time=datetime.now(UTC) + timedelta(seconds=max(0.0, first)),
            replace_existing=True,
        )

    def _run(self, job_id: str) -> None:
        self._at_work = threading.current_thread()
        entry = self._entries[job_id]
        try:
            if self.running and self._may_run():
                entry.job()
        except Exception:
            log.exception("the scheduled job %s of %s failed; it is tried again at its next time", job_id, self.name)


def _run(schedule: weakref.ref[Schedule], job_id: str) -> None:
    """What the scheduler is given: it must not keep a dropped optimizer alive."""
    alive = schedule()
    if alive is not None:
        alive._run(job_id)


def _extension(schedule: weakref.ref[Schedule]) -> APScheduler:
    """A Flask-APScheduler with a scheduler of ours; imported here, since most processes never need it."""
    from apscheduler.executors.base import BaseExecutor, run_job
    from apscheduler.schedulers.background import BackgroundScheduler
    from apscheduler.schedulers.base import STATE_STOPPED
    from flask_apscheduler import APScheduler

    class OneThread(BaseExecutor):  # type: ignore[misc]
        """Runs jobs one after the other in daemon threads: APScheduler's own pool would hold up the exit."""

        def __init__(self) -> None:
            super().__init__()
            self._turn = threading.Lock()

        def _do_submit_job(self, job: Any, run_times: Any) -> None:
            threading.Thread(target=self._work, args=(job, run_times), name=f"dbopt-{job.id}", daemon=True).start()

        def _work(self, job: Any, run_times: Any) -> None:
            with self._turn:
                self._run_job_success(job.id, run_job(job, job._jobstore_alias, run_times, self._logger.name))

    class Clockwork(BackgroundScheduler):  # type: ignore[misc]
        """Looks at the clock regularly, and ends when the schedule it works for is gone."""

        def _process_jobs(self) -> float:
            if schedule() is None:
                self.state = STATE_STOPPED
                return 0.0
            rest = super()._process_jobs()
            return _LONGEST if rest is None else min(float(rest), _LONGEST)

    extension = APScheduler(Clockwork())
    extension.init_app(
        SimpleNamespace(
            config={
                "SCHEDULER_API_ENABLED": False,
                "SCHEDULER_TIMEZONE": "UTC",
                "SCHEDULER_EXECUTORS": {"default": OneThread()},
                "SCHEDULER_JOB_DEFAULTS": {"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            }
        )
    )
    return extension
