"""``zeromean bench`` for those who work on it: all sets of tensors, and no files."""

from __future__ import annotations

import torch

from zeromean.bench import table
from zeromean.bench.run import run
from zeromean.bench.settings import Settings
from zeromean.bench.tensors import TENSORS

print(table.markdown(run(Settings(tensors=tuple(TENSORS), threads=torch.get_num_threads()))))
