"""For the test that a failing case is seen."""

from __future__ import annotations

import torch.distributed as dist
from processes import case


def fail() -> None:
    assert dist.get_rank() == 0, "only here"


case(2, "fails", fail)
case(2, "passes", lambda: None)
