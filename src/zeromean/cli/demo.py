"""``zeromean demo``: what zeromean guarantees, and a first comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zeromean.cli.options import Jobs
from zeromean.cli.output import echo, fill
from zeromean.cli.run_study import run_study
from zeromean.study.spec.study import Study

if TYPE_CHECKING:
    from torch import Tensor, nn

NETWORK = "cnn"
STEPS = 50
NEXT = """
What to try next:
  zeromean explain resnet20           or your own model: zeromean explain models.py:make
  zeromean run train.py               GC in your own training script, unmodified
  zeromean compare --data imagefolder:DIR --model resnet20 --seeds 8"""


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the comparison.")] = Path("zeromean-demo"),
    jobs: Jobs = 1,
) -> None:
    """Show what GC changes in a small network, then compare training with and without it."""
    import zeromean
    from zeromean.cli.models import make_model
    from zeromean.study.engine.resume import check_folder

    study = Study()
    check_folder(study, out)
    echo(f'1. zeromean.centralize(optimizer, model) centers these gradients of "{NETWORK}":\n')
    echo(f"{zeromean.explain(make_model(NETWORK))}\n")
    without, with_gc = drift(centralized=False), drift(centralized=True)
    text = (
        f"2. Largest change in the mean of a weight vector during {STEPS} steps of SGD on digits:"
        f" {without:.1e} without GC, {with_gc:.1e} with GC, where it is 0 up to rounding."
    )
    echo(f"{fill(text)}\n")
    echo("3. Does it help? The same training with and without GC:\n")
    run_study(study, out, jobs)
    echo(NEXT)


def drift(centralized: bool) -> float:
    """Train the network on digits, and return the largest change in a weight vector's mean."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn.functional import cross_entropy

    import zeromean
    from zeromean.cli.models import make_model

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    with torch.random.fork_rng(devices=[]):  # CPU alone; torch warns if there are several GPUs
        torch.manual_seed(0)
        model = make_model(NETWORK)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        if centralized:
            zeromean.centralize(optimizer, model)
        before = _means(model)
        for step in range(STEPS):
            batch = torch.randperm(len(labels), generator=torch.Generator().manual_seed(step))[:64]
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return max(
        (mean - start).abs().max().item() for mean, start in zip(_means(model), before, strict=True)
    )


def _means(model: nn.Module) -> list[Tensor]:
    import zeromean

    plan, weights = zeromean.explain(model), dict(model.named_parameters())
    return [weights[row.name].detach().double().mean(row.axes) for row in plan.centered]
