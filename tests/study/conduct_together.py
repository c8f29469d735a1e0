"""One of several processes of a study: ``STUDY.toml OUT SHARD [EPOCHS]``, started by torchrun.

With EPOCHS the first process dies without a word once it was told of so many.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from zeromean.study import declare
from zeromean.study.run import Epoch, Key
from zeromean.study.watchers.progress import Nobody


class Death(Nobody):
    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def on_epoch(self, key: Key, epoch: Epoch) -> None:
        self.left -= 1
        if self.left == 0:
            os._exit(1)


if __name__ == "__main__":
    file, out, shard, *epochs = sys.argv[1:]
    watcher = Death(int(epochs[0])) if epochs else None
    results = declare.read(Path(file)).run(out, shard=shard == "shard", watcher=watcher)
    assert len(results.runs) > 0  # every process knows how it ended
