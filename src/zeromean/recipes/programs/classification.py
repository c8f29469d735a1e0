"""Train or fine-tune an image classifier of timm on folders of images.

DATA holds train/<class>/ and test/<class>/ (or val/<class>/). Each epoch prints one line with top-1
and top-5 accuracy. Run several processes with torchrun; batch normalization then uses the images of
each process, as in the published runs.

    python classification.py DATA --model resnet50 --checkpoint resnet50.pth \
        --lr 0.01 --head-lr 0.1 --epochs 100 --drops 50 80
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import timm
import torch
from torch import nn
from torchvision import datasets, transforms

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photos(datasets.ImageFolder):
    """Images in one folder per class; hidden folders are not classes."""

    def find_classes(self, directory: Path) -> tuple[list[str], dict[str, int]]:
        found, _ = super().find_classes(directory)
        classes = [name for name in found if not name.startswith((".", "@eaDir", "__MACOSX"))]
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
    drawn = draw(train, args.train_size, args.split_seed), draw(tested, args.test_size, 0)
    return *drawn, train.classes


def load_checkpoint(model: nn.Module, path: str) -> None:
    """Load all weights except for those of the classifier."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    classifier = model.pretrained_cfg["classifier"]
    own = {k: v for k, v in model.state_dict().items() if not k.startswith(classifier)}
    missing = [k for k, v in own.items() if k not in state or state[k].shape != v.shape]
    if missing:
        raise SystemExit(f"{path} lacks {len(missing)} of {len(own)} tensors, {missing[0]} first")
    model.load_state_dict({k: state[k] for k in own}, strict=False)


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="resnet50", help="name of a timm model")
    parser.add_argument(
        "--norm", choices=["own", "group"], default="own", help="group: 32 groups, in a ResNet"
    )
    parser.add_argument(
        "--checkpoint", help="local weights to start from; the classifier starts fresh"
    )
    parser.add_argument(
        "--size", type=int, default=224, help="side of the images that the network sees"
    )
    parser.add_argument("--resize", type=int, default=256, help="shorter side before cropping")
    parser.add_argument(
        "--augment",
        choices=["none", "center", "crop", "resized-crop"],
        default="resized-crop",
        help="crop of training images; all but none also mirror them",
    )
    parser.add_argument("--train-size", type=int, help="number of training images, drawn at random")
    parser.add_argument("--test-size", type=int)
    parser.add_argument(
        "--split-seed", type=int, default=0, help="seed of the choice of training images"
    )
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument(
        "--drops",
        type=int,
        nargs="*",
        default=[30, 60, 90],
        help="epochs after which lr falls to a tenth",
    )
    parser.add_argument("--schedule", choices=["steps", "cosine"], default="steps")
    parser.add_argument(
        "--batch-size", type=int, default=256, help="images per step over all processes"
    )
    parser.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument(
        "--head-lr", type=float, help="learning rate of the classifier (default: --lr)"
    )
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument(
        "--resume", action="store_true", help="continue from OUT/last.pt if it exists"
    )
    parser.add_argument("--out", type=Path, default=Path("classification"))
    args = parser.parse_args()

    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if args.batch_size % world:
        parser.error(f"--batch-size {args.batch_size} cannot be split over {world} processes")
    device = torch.device(args.device)
    if world > 1:
        torch.distributed.init_process_group()
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
    torch.manual_seed(args.seed)
    train, test, classes = load_data(args, parser)
    if len(train) < args.batch_size:
        parser.error(f"{len(train)} training images are fewer than --batch-size {args.batch_size}")
    if not timm.is_model(args.model):
        parser.error(f"timm has no model {args.model}")
    norm = {"norm_layer": "groupnorm"} if args.norm == "group" else {}
    model = timm.create_model(args.model, num_classes=len(classes), **norm)
    if args.checkpoint:
        load_checkpoint(model, args.checkpoint)
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
    args.out.mkdir(parents=True, exist_ok=True)
    begun, last = 0, args.out / "last.pt"
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    if args.resume and last.exists():
        state = torch.load(last, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        begun = state["epoch"]
    else:
        (args.out / "metrics.jsonl").unlink(missing_ok=True)
    wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model

    for epoch in range(begun, args.epochs):
        started, total, right, count = time.perf_counter(), 0.0, 0, 0
        torch.manual_seed((args.seed * 1000 + epoch) * world + rank + 1)
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
        if not math.isfinite(metrics["train_loss"]):
            raise SystemExit(f"epoch {epoch + 1}: the loss is {metrics['train_loss']}")
        metrics |= evaluate(model, test_loader, device)
        if rank == 0:
            print(
                f"epoch {epoch + 1} " + " ".join(f"{k} {v:.4f}" for k, v in metrics.items()),
                flush=True,
            )
            with (args.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"epoch": epoch + 1, "seconds": seconds, **metrics}) + "\n")
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "epoch": epoch + 1}, last.with_suffix(".tmp"))
            last.with_suffix(".tmp").replace(last)
        if world > 1:
            torch.distributed.barrier()


if __name__ == "__main__":
    main()
