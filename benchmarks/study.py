"""Measure an epoch of ResNet-20 by the study's engine against a bare loop.

Both train on the same random images in turns on one thread. The script prints the median over the
rounds of the ratio of images per second, engine over loop.

    python benchmarks/study.py --precision bfloat16 --rounds 10
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch
from torch.nn import functional as F

from zeromean.study.networks.build import NETWORKS, build
from zeromean.study.spec.metric import ACCURACY
from zeromean.study.spec.records import Candidate, Key
from zeromean.study.spec.study import Study
from zeromean.study.spec.task import ImageTask
from zeromean.study.tasks.interface import Job
from zeromean.study.tasks.problem import Examples, Problem
from zeromean.study.tasks.training import Training, TrainingTask

IMAGES, BATCH = 512, 128


def standardize(images: torch.Tensor) -> torch.Tensor:
    """Return bytes as numbers of mean 0 and deviation 1."""
    return (images.float() - 127) / 74


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    half = arguments.precision == "bfloat16"
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (IMAGES,))
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
        make=partial(NETWORKS["resnet20"], 3, 32, 10),
        description="",
        split="",
        preprocessing="",
    )
    task = ImageTask(model="resnet20", epochs=10_000, batch_size=BATCH)
    study = Study(tasks=(task,), precision=arguments.precision)
    job = Job(
        Key(task.label, "sgd", "plain", 0),
        Candidate(0.1),
        study.methods[0],
        study.optimizers[0],
        task.epochs,
    )
    training = Training(TrainingTask(study, task, problem), job)

    network = build("resnet20", 3, 32, 10, seed=0)
    if half:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def bare_loop() -> float:
        network.train()
        started = time.perf_counter()
        for batch in torch.randperm(IMAGES).view(-1, BATCH):
            optimizer.zero_grad()
            inputs = standardize(images[batch])
            if half:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = F.cross_entropy(network(inputs), labels[batch])
            loss.backward()
            optimizer.step()
        return time.perf_counter() - started

    ratios = []
    bare_loop()
    training.advance()
    for number in range(arguments.rounds):
        if number % 2:
            bare, engine = bare_loop(), training.advance().seconds
        else:
            engine, bare = training.advance().seconds, bare_loop()
        ratios.append(bare / engine)
    ratios.sort()
    print(
        f"{arguments.precision}: {statistics.median(ratios):.3f} of the loop's images per second"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f}; last round: {IMAGES / engine:.0f} per second)"
    )


if __name__ == "__main__":
    main()
