"""Train or fine-tune an image classifier of timm on folders of images.

DATA holds train/<class>/ and test/<class>/ (or val/<class>/). Each epoch prints one line with top-1
and top-5 accuracy. Run several processes with torchrun; batch normalization then uses the images of
each process, as in the published runs.

    python classification.py DATA --model resnet50 --checkpoint resnet50.pth \
        --lr 0.01 --head-lr 0.1 --epochs 100 --drops 50 80
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import timm
import torch
from torch import nn
from torchvision import datasets, transforms

from zeromean.recipes.programs.training import (
    Record,
    add_device,
    at_least,
    is_hidden,
    is_image,
    join,
    load_weights,
    make_parser,
)

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photos(datasets.ImageFolder):
    """Images in one folder per class; hidden files and folders are left out."""

    def __init__(self, root: Path, transform) -> None:
        super().__init__(
            root, transform, is_valid_file=lambda file: is_image(Path(file), Path(root))
        )

    def find_classes(self, directory: Path) -> tuple[list[str], dict[str, int]]:
        found, _ = super().find_classes(directory)
        classes = [name for name in found if not is_hidden(name)]
        return classes, {name: number for number, name in enumerate(classes)}


def draw(images: Photos, count: int | None, seed: int) -> torch.utils.data.Dataset:
    """Return a number of images, drawn at random; all of them if the number is None."""
    if count is None:
        return images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return torch.utils.data.Subset(images, order[:count].tolist())


def load_data(args: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple:
    """Return the training and test images, augmented and standardized, and the class names."""
    test = next((args.data / name for name in ("test", "val") if (args.data / name).is_dir()), None)
    if not (args.data / "train").is_dir() or test is None:
        parser.error(
            f"{args.data} needs train/<class>/ and test/<class>/ (or val/<class>/) with image files"
        )
    finish = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
    flip, scale = transforms.RandomHorizontalFlip(), transforms.Resize(args.resize)
    center = [scale, transforms.CenterCrop(args.size)]
    change = {
        "none": center,
        "center": [*center, flip],
        "crop": [scale, transforms.RandomCrop(args.size), flip],
        "resized-crop": [transforms.RandomResizedCrop(args.size), flip],
    }[args.augment]
    try:
        train = Photos(args.data / "train", transforms.Compose([*change, *finish]))
        tested = Photos(test, transforms.Compose([*center, *finish]))
    except FileNotFoundError as error:  # a folder without classes, or a class without images
        parser.error(str(error))
    if train.classes != tested.classes:
        parser.error(f"{test} has other class folders than {args.data / 'train'}")
    for option, size, images in (
        ("--train-size", args.train_size, train),
        ("--test-size", args.test_size, tested),
    ):
        if size is not None and size > len(images):
            parser.error(f"{option} is {size}, but {images.root} has {len(images)} images")
    drawn = draw(train, args.train_size, args.split_seed), draw(tested, args.test_size, 0)
    return *drawn, train.classes


def evaluate(model: nn.Module, loader, device: torch.device) -> dict[str, float]:
    """Return the loss and top-1 and top-5 accuracy in percent, over all processes."""
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    with torch.no_grad():
        for images, labels in loader:
            outputs, labels = model(images.to(device)), labels.to(device)
            ranked = outputs.topk(min(5, outputs.shape[1]), 1).indices == labels[:, None]
            loss = nn.functional.cross_entropy(outputs, labels, reduction="sum")
            count = torch.ones_like(labels).sum()
            sums += torch.stack([loss, ranked[:, 0].sum(), ranked.sum(), count])
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    loss, top1, top5, count = sums.tolist()
    return {"test_loss": loss / count, "top1": 100 * top1 / count, "top5": 100 * top5 / count}


def main() -> None:
    parser = make_parser(__doc__, out="classification")
    add_device(parser)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="resnet50", help="name of a timm model")
    parser.add_argument(
        "--norm", choices=["own", "group"], default="own", help="group: 32 groups, in a ResNet"
    )
    parser.add_argument(
        "--checkpoint", help="local weights of that model; the classifier starts fresh"
    )
    parser.add_argument(
        "--size", type=at_least(1), default=224, help="side of the images that the network sees"
    )
    parser.add_argument(
        "--resize", type=at_least(1), default=256, help="shorter side before cropping"
    )
    parser.add_argument(
        "--augment",
        choices=["none", "center", "crop", "resized-crop"],
        default="resized-crop",
        help="crop of training images; all but none also mirror them",
    )
    parser.add_argument(
        "--train-size", type=at_least(1), help="number of training images, drawn at random"
    )
    parser.add_argument(
        "--test-size", type=at_least(1), help="number of test images, drawn at random"
    )
    parser.add_argument(
        "--split-seed", type=at_least(0), default=0, help="seed of the --train-size images"
    )
    parser.add_argument("--epochs", type=at_least(1), default=100)
    parser.add_argument(
        "--drops",
        type=at_least(0),
        nargs="*",
        default=[30, 60, 90],
        help="with --schedule steps: epochs after which lr falls to a tenth",
    )
    parser.add_argument("--schedule", choices=["steps", "cosine"], default="steps")
    parser.add_argument(
        "--batch-size", type=at_least(1), default=256, help="images per step over all processes"
    )
    parser.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd")
    parser.add_argument("--lr", type=at_least(0.0), default=0.1)
    parser.add_argument(
        "--head-lr", type=at_least(0.0), help="learning rate of the classifier (default: --lr)"
    )
    parser.add_argument("--momentum", type=at_least(0.0), default=0.9, help="of SGD")
    parser.add_argument("--weight-decay", type=at_least(0.0), default=1e-4)
    parser.add_argument("--workers", type=at_least(0), default=0)
    args = parser.parse_args()
    if args.size > args.resize:
        parser.error(f"--size {args.size} is larger than --resize {args.resize}")
    processes = join(args, parser, "--batch-size")
    world, rank, device = processes
    train, test, classes = load_data(args, parser)
    if len(train) < args.batch_size:
        parser.error(f"{len(train)} training images are fewer than --batch-size {args.batch_size}")
    if not timm.is_model(args.model):
        parser.error(f"timm has no model {args.model}")
    norm = {"norm_layer": "groupnorm"} if args.norm == "group" else {}
    try:
        model = timm.create_model(args.model, num_classes=len(classes), **norm)
    except TypeError:  # the network has no argument norm_layer
        if not norm:
            raise
        model = None
    if args.norm == "group" and not isinstance(model, timm.models.ResNet):
        parser.error(f"--norm group needs a ResNet, not {args.model}")
    if args.checkpoint:
        load_weights(model, args.checkpoint, fresh=model.pretrained_cfg["classifier"])
    model.to(device)
    head = {id(p) for p in model.get_classifier().parameters()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in head], "lr": args.lr},
        {
            "params": [p for p in model.parameters() if id(p) in head],
            "lr": args.lr if args.head_lr is None else args.head_lr,
        },
    ]
    if args.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=args.momentum, weight_decay=args.weight_decay)
    else:
        optimizer = torch.optim.AdamW(groups, weight_decay=args.weight_decay)
    sampler = torch.utils.data.DistributedSampler(
        train, world, rank, seed=args.seed, drop_last=True
    )
    loader = torch.utils.data.DataLoader(
        train, args.batch_size // world, sampler=sampler, num_workers=args.workers, drop_last=True
    )
    share = torch.utils.data.Subset(test, range(rank, len(test), world))
    test_loader = torch.utils.data.DataLoader(
        share, args.batch_size // world, num_workers=args.workers
    )

    def factor(epoch: int) -> float:
        if args.schedule == "cosine":
            return (1 + math.cos(math.pi * epoch / args.epochs)) / 2
        return 0.1 ** sum(epoch >= drop for drop in args.drops)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    record = Record(args, processes, parts)
    wrapped = processes.wrap(model)

    for epoch in record.epochs(args.epochs):
        started, total, right, count = time.perf_counter(), 0.0, 0, 0
        sampler.set_epoch(epoch)
        model.train()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
                outputs = wrapped(images)
                loss = nn.functional.cross_entropy(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(labels)
            right += (outputs.argmax(1) == labels).sum()
            count += len(labels)
        schedule.step()
        metrics = {"train_loss": float(total) / count, "train_top1": 100 * float(right) / count}
        seconds = time.perf_counter() - started
        record.check(epoch + 1, metrics["train_loss"])
        metrics |= evaluate(model, test_loader, device)
        record.write(epoch + 1, metrics, seconds)
        record.save(epoch + 1)


if __name__ == "__main__":
    main()
