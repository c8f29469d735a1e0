"""Compare the training loop of studies with a plain loop, on ResNet-20 and random images.

    python benchmarks/study_overhead.py --precision bfloat16 --rounds 10

An epoch of each takes turns on one thread.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch.nn import functional as F

from zeromean.bench.paired_timing import time_in_turn
from zeromean.study.networks.build import build, maker
from zeromean.study.spec.metric import ACCURACY
from zeromean.study.spec.records import Candidate, Key
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import ImageTask
from zeromean.study.tasks.interface import Job
from zeromean.study.tasks.problem import Examples, Problem
from zeromean.study.tasks.training import Training, TrainingTask

IMAGES, BATCH = 512, 128


def standardize(images: torch.Tensor) -> torch.Tensor:
    """Scale bytes to mean 0 and standard deviation 1."""
    return (images.float() - 127) / 74


def study_training(images: torch.Tensor, labels: torch.Tensor, precision: str) -> Training:
    """Return a run of a study, to be advanced by epochs."""
    few = Examples(images[:8], labels[:8])
    problem = Problem(
        device=torch.device("cpu"),
        train=Examples(images, labels),
        watched=few,
        test=few,
        fit=lambda inputs: standardize,
        fit_augment=None,
        loss=F.cross_entropy,
        metric=ACCURACY,
        make=partial(maker("resnet20"), 3, 32, 10),
        description="",
        split="",
        preprocessing="",
    )
    spec = ImageTask(model="resnet20", epochs=10_000, batch_size=BATCH)
    study = Study(tasks=(spec,), precision=precision)  # type: ignore[arg-type]
    (optimizer,), method = study.optimizers, study.methods[0]
    key = Key(spec.label, optimizer.label, method.label, 0)
    job = Job(key, Candidate(0.1), method, optimizer, spec.epochs)
    return Training(TrainingTask(study, spec, problem), job)


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    is_half = arguments.precision == "bfloat16"
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (IMAGES,))
    training = study_training(images, labels, arguments.precision)
    network = build("resnet20", 3, 32, 10, seed=0).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def plain_epoch() -> None:
        for batch in torch.randperm(IMAGES).view(-1, BATCH):
            optimizer.zero_grad()
            inputs = standardize(images[batch]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
                loss = F.cross_entropy(network(inputs), labels[batch])
            loss.backward()
            optimizer.step()

    times = time_in_turn(
        {"plain loop": plain_epoch, "study": training.advance}, arguments.rounds, min_seconds=0
    )
    low, high = times.middle_half("study", "plain loop")
    print(
        f"{arguments.precision}: an epoch of the study takes"
        f" {times.ratio('study', 'plain loop'):.3f} of the plain loop's time (middle half {low:.3f}"
        f" to {high:.3f}), {IMAGES / times.median('study'):.0f} images/s"
    )


if __name__ == "__main__":
    main()
