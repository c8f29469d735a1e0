"""Train a person re-identification network: the BNNeck baseline on Market-1501.

DATA holds bounding_box_train/, query/ and bounding_box_test/ with names such as
0002_c1s1_000451_03.jpg: identity, camera, sequence, frame. Identity -1 is junk and is removed;
identity 0000 holds distractors and is kept. Each evaluation prints mAP and rank 1.

    python reid.py DATA --model resnet50 --checkpoint resnet50.pth \
        --optimizer sgd --lr 0.03 --weight-decay 0.002
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import nn
from torchvision import transforms

from zeromean.recipes.programs.training import (
    Record,
    add_device,
    at_least,
    is_image,
    join,
    load_weights,
    make_parser,
)

NAME = re.compile(r"(-?\d+)_c(\d+)")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class People(torch.utils.data.Dataset):
    """The images of a folder, with identity and camera from the file name."""

    def __init__(self, folder: Path, transform, relabel: bool) -> None:
        files = sorted(file for file in folder.iterdir() if is_image(file, folder))
        found = [(f, match) for f in files if (match := NAME.match(f.name)) and int(match[1]) != -1]
        self.files = [file for file, _ in found]
        self.identities = [int(match[1]) for _, match in found]
        self.cameras = [int(match[2]) for _, match in found]
        known = sorted(set(self.identities))
        self.labels = [known.index(i) for i in self.identities] if relabel else self.identities
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[index]) as file:
            return self.transform(file.convert("RGB")), self.labels[index]


class BNNeck(nn.Module):
    """A timm ResNet with last stride 1, then batch normalization and a classifier without bias."""

    def __init__(self, model: str, identities: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(model, num_classes=0)
        if not isinstance(self.backbone, timm.models.ResNet):
            raise SystemExit(f"--model {model} is not a ResNet")
        first = self.backbone.layer4[0]
        for module in first.modules():
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride = (1, 1)
        if isinstance(first.downsample[0], nn.AvgPool2d):  # a variant with pooled shortcuts
            first.downsample[0] = nn.Identity()
        self.neck = nn.BatchNorm1d(self.backbone.num_features)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(self.backbone.num_features, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the feature before the neck, after it, and the logits.

        The triplet loss uses the first, retrieval the second.
        """
        feature = self.backbone(images)
        after = self.neck(feature)
        return feature, after, self.classifier(after)


def retrieval(query, gallery) -> dict[str, float]:
    """Return mean average precision and rank 1 in percent, by the protocol of Market-1501.

    Images of the query's identity from the query's camera are removed from the gallery. The order
    of the gallery breaks ties.

    Args:
        query: Features (queries, dim), identities and cameras.
        gallery: Features, identities and cameras of the gallery.
    """
    features, identities, cameras = query
    others, other_identities, other_cameras = gallery
    similarity = nn.functional.normalize(features) @ nn.functional.normalize(others).T
    precisions, firsts = [], []
    for row, identity, camera in zip(similarity, identities, cameras, strict=True):
        kept = (other_identities != identity) | (other_cameras != camera)
        order = row[kept].argsort(descending=True, stable=True)
        hits = (other_identities[kept][order] == identity).double()
        if not hits.any():
            continue
        precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
        precisions.append(((precision * hits).sum() / hits.sum()).item())
        firsts.append(hits[0].item())
    return {
        "mAP": 100 * sum(precisions) / len(precisions),
        "rank1": 100 * sum(firsts) / len(firsts),
    }


@torch.no_grad()
def describe(model: nn.Module, people: People, device: torch.device, batch_size: int):
    model.eval()
    loader = torch.utils.data.DataLoader(people, batch_size)
    features = torch.cat([model(images.to(device))[1].cpu() for images, _ in loader])
    return features, torch.tensor(people.identities), torch.tensor(people.cameras)


def main() -> None:
    parser = make_parser(__doc__, out="reid")
    add_device(parser)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="resnet50", help="a ResNet of timm")
    parser.add_argument("--checkpoint", help="local ImageNet weights of that model")
    parser.add_argument("--height", type=at_least(1), default=256)
    parser.add_argument("--width", type=at_least(1), default=128)
    parser.add_argument(
        "--pad", type=at_least(0), default=10, help="pixels of padding before the random crop"
    )
    parser.add_argument("--no-flip", action="store_true")
    parser.add_argument("--epochs", type=at_least(1), default=120)
    parser.add_argument("--drops", type=at_least(0), nargs="*", default=[40, 70])
    parser.add_argument(
        "--warmup",
        type=at_least(0),
        default=10,
        help="epochs of warm-up from 0.01 of the learning rate",
    )
    parser.add_argument(
        "--identities", type=at_least(1), default=16, help="identities per step over all processes"
    )
    parser.add_argument(
        "--images", type=at_least(1), default=4, help="images of each identity in a batch"
    )
    parser.add_argument("--optimizer", choices=["adam", "sgd"], default="adam")
    parser.add_argument("--lr", type=at_least(0.0), default=3.5e-4)
    parser.add_argument("--momentum", type=at_least(0.0), default=0.9, help="of SGD")
    parser.add_argument("--weight-decay", type=at_least(0.0), default=5e-4)
    parser.add_argument("--margin", type=at_least(0.0), default=0.3)
    parser.add_argument("--center-weight", type=at_least(0.0), default=0.0005)
    parser.add_argument("--center-lr", type=at_least(0.0), default=0.5)
    parser.add_argument("--smoothing", type=at_least(0.0, 1.0), default=0.1)
    parser.add_argument("--evaluate-every", type=at_least(1), default=10, help="epochs")
    args = parser.parse_args()
    for name in ("bounding_box_train", "query", "bounding_box_test"):
        if not (args.data / name).is_dir():
            parser.error(
                f"{args.data / name} is missing; Market-1501 goes into DATA in its own layout"
            )
    if not timm.is_model(args.model):
        parser.error(f"timm has no model {args.model}")
    processes = join(args, parser, "--identities")
    world, device = processes.count, processes.device

    finish = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
    resize = transforms.Resize((args.height, args.width))
    change = [] if args.no_flip else [transforms.RandomHorizontalFlip()]
    change += [transforms.Pad(args.pad), transforms.RandomCrop((args.height, args.width))]
    train = People(
        args.data / "bounding_box_train",
        transforms.Compose([resize, *change, *finish, transforms.RandomErasing(0.5, value=0)]),
        relabel=True,
    )
    still = transforms.Compose([resize, *finish])
    query = People(args.data / "query", still, relabel=False)
    gallery = People(args.data / "bounding_box_test", still, relabel=False)
    identities, drawn = len(set(train.labels)), args.identities // world
    batch = drawn * args.images
    if batch < 2:
        parser.error("batch normalization needs two images; raise --identities or --images")
    if len(train) // world < batch or identities < drawn:
        parser.error(
            f"each process needs {batch} images of {drawn} identities or more;"
            f" {args.data / 'bounding_box_train'} has {len(train)} of {identities} in all"
        )
    places = set(zip(gallery.identities, gallery.cameras, strict=True))
    if not any(
        identity == other and camera != other_camera
        for identity, camera in zip(query.identities, query.cameras, strict=True)
        for other, other_camera in places
    ):
        parser.error(f"no query of {args.data} has a gallery image from another camera")
    model = BNNeck(args.model, identities)
    if args.checkpoint:
        load_weights(model.backbone, args.checkpoint, fresh="fc.")
    model.to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    if args.optimizer == "sgd":
        optimizer = torch.optim.SGD(trained, args.lr, args.momentum, weight_decay=args.weight_decay)
    else:
        optimizer = torch.optim.Adam(trained, args.lr, weight_decay=args.weight_decay)
    centers = nn.Parameter(torch.randn(identities, model.backbone.num_features, device=device))
    center_optimizer = torch.optim.SGD([centers], args.center_lr)
    triplet, hardest = TripletMarginLoss(margin=args.margin), BatchHardMiner()

    def factor(epoch: int) -> float:
        warm = 0.01 + 0.99 * epoch / args.warmup if epoch < args.warmup else 1.0
        return warm * 0.1 ** sum(epoch >= drop for drop in args.drops)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "centers": centers}
    record = Record(args, processes, parts)
    wrapped = processes.wrap(model)

    for epoch in record.epochs(args.epochs):
        started, total, steps = time.perf_counter(), 0.0, 0
        # The sampler draws from the random state of numpy.
        np.random.seed(torch.randint(2**31, ()).item())
        sampler = MPerClassSampler(train.labels, args.images, batch, len(train) // world)
        model.train()
        for images, labels in torch.utils.data.DataLoader(train, batch, sampler=sampler):
            images, labels = images.to(device), labels.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
                feature, _, logits = wrapped(images)
            feature = feature.float()
            loss = nn.functional.cross_entropy(
                logits.float(), labels, label_smoothing=args.smoothing
            )
            loss = loss + triplet(feature, labels, hardest(feature.detach(), labels))
            distance = (feature - centers.detach()[labels]).square().sum(1).mean()
            optimizer.zero_grad()
            (loss + args.center_weight * distance).backward()
            # The centers follow the features whatever the weight of their distance in the loss.
            center_optimizer.zero_grad()
            (feature.detach() - centers[labels]).square().sum(1).mean().backward()
            if world > 1:
                torch.distributed.all_reduce(centers.grad)
                centers.grad /= world
            optimizer.step()
            center_optimizer.step()
            total, steps = total + loss.item(), steps + 1
        schedule.step()
        seconds = time.perf_counter() - started
        record.check(epoch + 1, total / steps)
        last = epoch + 1 == args.epochs
        if processes.rank == 0 and ((epoch + 1) % args.evaluate_every == 0 or last):
            metrics = {"loss": total / steps}
            metrics |= retrieval(*(describe(model, p, device, batch) for p in (query, gallery)))
            record.write(epoch + 1, metrics, seconds)
        record.save(epoch + 1)


if __name__ == "__main__":
    main()
