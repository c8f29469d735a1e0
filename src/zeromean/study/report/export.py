"""The numbers of a study as CSV, for other programs."""

from __future__ import annotations

import csv
from pathlib import Path

from zeromean.errors import ZeromeanError
from zeromean.study.engine.results import Results

RUN_COLUMNS = (
    *("task", "optimizer", "method", "seed", "trial", "learning_rate", "weight_decay"),
    *("status", "train_score", "test_loss", "test_score"),
)
EPOCH_COLUMNS = (
    *("task", "optimizer", "method", "seed", "trial"),
    *("epoch", "train_loss", "loss", "score", "seconds"),
)


def write_csv(results: Results) -> list[Path]:
    """Writes ``runs.csv`` and ``epochs.csv`` beside the database; what is unknown stays empty.

    Raises:
        ZeromeanError: They cannot be written.
    """
    runs = [
        (
            *run.key,
            run.candidate.lr,
            run.candidate.weight_decay,
            run.status.value,
            run.train_score,
            run.test_loss,
            run.test_score,
        )
        for run in results.runs
    ]
    epochs = [
        (*run.key, one.number, one.train_loss, one.loss, one.score, one.seconds)
        for run in results.runs
        for one in run.epochs
    ]
    paths = []
    for name, columns, rows in (
        ("runs.csv", RUN_COLUMNS, runs),
        ("epochs.csv", EPOCH_COLUMNS, epochs),
    ):
        path = results.out / name
        try:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(columns)
                writer.writerows(rows)
        except OSError as error:
            raise ZeromeanError(
                f"{path}, which cannot be written ({error})", "room for it", "make room"
            ) from error
        paths.append(path)
    return paths
