"""Sends the heavy work to a child process, which has its own GIL and shares no lock with the web process.

The child is ``python -m flask_dbopt.backup.errand``: it reads one job as JSON, does it, answers as JSON. It
never imports Flask, and it ends when its parent does.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from flask_dbopt.backup.take import capture
from flask_dbopt.backup.verify import prove
from flask_dbopt.engines.protocol import Snapshotter
from flask_dbopt.errors import BackupError, DBOptError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ENGINES = "flask_dbopt.engines."


def python() -> str:
    """The interpreter of this process. Under uWSGI or mod_wsgi ``sys.executable`` is the server instead."""
    named = f"python{sys.version_info.major}.{sys.version_info.minor}"
    beside = [Path(sys.prefix, "bin", name) for name in (named, "python3")]
    based = Path(sysconfig.get_config_var("BINDIR") or "/usr/bin", named)
    for candidate in (Path(sys.executable or "/"), *beside, based):
        if candidate.name.startswith("python") and os.access(candidate, os.X_OK):
            return str(candidate)
    raise BackupError("no Python interpreter was found for the backup's process", hint=f"install {named}")


def run(job: Mapping[str, Any], *, limit: float, lock: int | None = None) -> dict[str, Any]:
    """Do one job in a child and return its answer; a BackupError whatever happens to it.

    ``lock`` is a descriptor the child holds on to, so that its files stay its own even if we are killed.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    child = subprocess.Popen(  # noqa: S603 - our own module, no shell
        [python(), "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        pass_fds=() if lock is None else (lock,),
    )
    try:
        order = {**job, "parent": os.getpid(), "until": time.time() + limit}
        out, err = child.communicate(json.dumps(order).encode(), timeout=limit)
    except subprocess.TimeoutExpired:
        raise BackupError(
            f"the backup's process was not done within {limit:.3g} s and was stopped",
            hint="look for a slow disk; what existed before still counts",
        ) from None
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    if child.returncode == 0:
        return _answer(out)
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise BackupError(
            f"the backup's process was ended by {name}",
            hint="was memory short, or did somebody stop it? What existed before still counts",
        )
    last = err.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    raise BackupError(
        f"the backup's process failed: {last[0]}", hint="what existed before still counts; please report this"
    )


def _answer(out: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(out)
    if "error" in answer:
        raise BackupError(answer["error"], hint=answer["hint"])
    return answer


def do(job: Mapping[str, Any]) -> dict[str, Any]:
    """Capture, prove, or both. The answer holds ``captured`` and ``proof`` as far as they were asked for."""
    snapshotter = _engine(job["recipe"])
    answer: dict[str, Any] = {}
    files = [Path(name) for name in job.get("files", ())]
    digest, content = job.get("digest", ""), job.get("content", "")
    if "capture" in job:
        captured = capture(
            snapshotter,
            Path(job["capture"]),
            txid=job["txid"],
            taken_at=job["taken_at"],
            compression=job["compression"],
        )
        answer["captured"] = asdict(captured)
        files, digest, content = [Path(job["capture"])], captured.digest, captured.content
    if "scratch" in job:
        target = Path(job["scratch"])
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        wishes = {"thorough": job["thorough"], "sync": job["sync"]}
        proof = prove(snapshotter, files, target, digest=digest, content=content, **wishes)
        answer["proof"] = asdict(proof)
    return answer


def explain(error: OSError) -> BackupError:
    """An operating system's refusal, with what to do about it."""
    hint = "check that this user may read the database and write to the backup folder"
    if error.errno in _NO_SPACE:
        hint = "free disk space, or point DBOPT_BACKUP_DIR at a larger disk; earlier backups still count"
    where = f": {error.filename}" if error.filename else ""
    return BackupError(f"{error.strerror or error}{where}", hint=hint)


def _engine(recipe: Mapping[str, Any]) -> Snapshotter:
    """The engine's Snapshotter again; rooms do not import engines, and nothing else may be named."""
    if not recipe["engine"].startswith(_ENGINES):
        raise BackupError(f"{recipe['engine']} is no engine of this package", hint="upgrade the package")
    rebuilt: Snapshotter = importlib.import_module(recipe["engine"]).from_recipe(recipe)
    return rebuilt


def _end_with_parent(job: Mapping[str, Any]) -> None:
    """Look once a second whether anybody still waits for us; a killed parent cannot tell."""

    def look(signum: int, frame: FrameType | None) -> None:
        if os.getppid() != job["parent"] or time.time() > job["until"]:
            sys.exit(1)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)


def main() -> None:
    """The child's whole life."""
    with contextlib.suppress(OSError):
        os.nice(5)
    job = json.load(sys.stdin)
    try:
        _end_with_parent(job)
        answer = do(job)
    except DBOptError as error:
        answer = {"error": str(error.args[0]), "hint": error.hint}
    except OSError as error:
        told = explain(error)
        answer = {"error": str(told.args[0]), "hint": told.hint}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # Python's shutdown puts the deadly default handler back
    json.dump(answer, sys.stdout)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
