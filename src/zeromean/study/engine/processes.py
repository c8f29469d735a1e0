"""Several processes that work on one study side by side."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.connection import Connection, wait
from pathlib import Path

from zeromean.errors import ZeromeanError
from zeromean.study import environment
from zeromean.study.run import Epoch, Key, Run
from zeromean.study.store import Store
from zeromean.study.study import Study
from zeromean.study.watchers.progress import Watcher


def work_in_processes(study: Study, out: Path, jobs: int, watcher: Watcher) -> None:
    """Starts the processes, tells what they tell, and returns when all runs are kept.

    Raises:
        ZeromeanError: A process refused something or died; the others are ended then. What is
            kept and under way stays good: all of it is written in one stroke.
    """
    context = multiprocessing.get_context("spawn")
    processes = []
    tellers: list[Connection] = []
    try:
        for _ in range(jobs):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(study, out, there), daemon=True)
            process.start()
            there.close()  # so that the end of the process is the end of the pipe
            processes.append(process)
            tellers.append(here)
        while tellers:
            for teller in wait(tellers):
                assert isinstance(teller, Connection)
                try:
                    what, arguments = teller.recv()
                except EOFError:
                    tellers.remove(teller)
                    continue
                if what == "refused":
                    raise arguments[0]
                getattr(watcher, what)(*arguments)
        for process in processes:
            process.join()
            if process.exitcode != 0:
                raise ZeromeanError(
                    f"a process that ended with exit code {process.exitcode}",
                    "processes that train until all runs are kept",
                    "give the same command again, with fewer jobs if memory was short",
                )
    finally:
        for process in processes:
            process.kill()


class _Teller:
    """Watches in a process, and tells the one that started it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        self._pipe.send(("on_epoch", (key, epoch)))

    def on_run(self, run: Run) -> None:
        self._pipe.send(("on_run", (run,)))


def _serve(study: Study, out: Path, pipe: Connection) -> None:
    from zeromean.study.engine.desk import Desk
    from zeromean.study.engine.side_by_side import train
    from zeromean.study.engine.units import Folder
    from zeromean.study.engine.work import loader, use_threads, work

    # Ctrl-C reaches every process of a terminal; the one that started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = Folder(out)
    try:
        with Store(folder.database) as store:
            use_threads(int(store.facts["threads"]))
            store.begin_session(environment.describe(study.device))
            desk = Desk(study, folder, store, _Teller(pipe))
            problem_of = loader(study, desk.facts)
            work(desk, lambda order: train(problem_of(order.task), study, order))
    except ZeromeanError as error:
        pipe.send(("refused", (error,)))
    except BrokenPipeError:
        pass  # nobody is left to work for
