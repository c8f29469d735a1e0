"""Train Faster R-CNN or Mask R-CNN with FPN on a data set in COCO's format.

DATA holds annotations/instances_{train,val}2017.json, train2017/ and val2017/. Each epoch prints
one line with the loss and the COCO metrics. Run several processes with torchrun.

    python detection.py DATA --backbone resnet50 --masks --weights resnet50.pth --seed 0
"""

from __future__ import annotations

import argparse
import contextlib
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, Subset
from torchvision.datasets import CocoDetection
from torchvision.models.detection import faster_rcnn, mask_rcnn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms.functional import to_tensor

from zeromean.recipes.programs.training import (
    Record,
    add_device,
    at_least,
    join,
    load_weights,
    make_parser,
)

BACKBONES = {
    "resnet18": partial(ResNet, BasicBlock, [2, 2, 2, 2]),
    "resnet50": partial(ResNet, Bottleneck, [3, 4, 6, 3]),
    "resnet101": partial(ResNet, Bottleneck, [3, 4, 23, 3]),
    "resnext101_32x4d": partial(ResNet, Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4),
    "resnext101_64x4d": partial(ResNet, Bottleneck, [3, 4, 23, 3], groups=64, width_per_group=4),
}


class CocoImages(CocoDetection):
    """Images with boxes, labels and masks; category ids are renumbered from 1 without gaps."""

    def __init__(self, root: Path, split: str, masks: bool, train: bool) -> None:
        annotations = str(root / f"annotations/instances_{split}2017.json")
        with contextlib.redirect_stdout(None):
            super().__init__(root / f"{split}2017", annotations)
        self.masks, self.train = masks, train
        self.categories = sorted(self.coco.getCatIds())
        if train:
            self.ids = [i for i in self.ids if usable(self.coco.imgToAnns[i])]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict]:
        picture, found = super().__getitem__(index)
        image, found = to_tensor(picture), usable(found)
        boxes = torch.tensor([a["bbox"] for a in found], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [1 + self.categories.index(a["category_id"]) for a in found]
        target = {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64)}
        if self.masks and self.train:
            masks = np.array([self.coco.annToMask(a) for a in found], dtype=np.uint8)
            target["masks"] = torch.from_numpy(masks)
        if self.train and torch.rand(()) < 0.5:
            image = image.flip(2)
            boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
            if self.masks:
                target["masks"] = target["masks"].flip(2)
        return image, target | {"image_id": torch.tensor(self.ids[index])}


def usable(annotations: list[dict]) -> list[dict]:
    """Return the annotations without crowds and boxes without area."""
    return [a for a in annotations if not a.get("iscrowd") and min(a["bbox"][2:]) >= 1]


class StandardizeWeight(nn.Module):
    """Weight standardization of a convolution (Qiao et al. 2019)."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
        return (weight - mean) * torch.rsqrt(variance + 1e-5)


def build(args: argparse.Namespace, classes: int) -> nn.Module:
    group = partial(nn.GroupNorm, 32)
    norms = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "group": group}
    backbone = BACKBONES[args.backbone](norm_layer=norms[args.norm])
    if args.weights:
        load_weights(backbone, args.weights, fresh="fc.")
        for stage in (backbone.conv1, backbone.bn1, backbone.layer1):
            stage.requires_grad_(False)
    norm = group if args.norm == "group" else None
    levels = {f"layer{n + 1}": str(n) for n in range(4)}
    inputs, width = [backbone.inplanes // 8 * 2**n for n in range(4)], args.channels
    fpn = BackboneWithFPN(backbone, levels, inputs, width, norm_layer=norm)
    sizes = [(size,) for size in args.anchors]
    parts = {
        "min_size": args.min_size,
        "max_size": args.max_size,
        "rpn_anchor_generator": AnchorGenerator(sizes, [(0.5, 1.0, 2.0)] * len(sizes)),
        "box_batch_size_per_image": args.rois,
        "box_head": faster_rcnn.TwoMLPHead(width * 49, 4 * width),
        "box_predictor": faster_rcnn.FastRCNNPredictor(4 * width, classes + 1),
    }
    for when in ("pre", "post"):
        parts[f"rpn_{when}_nms_top_n_train"] = args.proposals
        parts[f"rpn_{when}_nms_top_n_test"] = args.proposals // 2
    if args.box_head == "4c1f":
        shape = (width, 7, 7), [width] * 4, [4 * width]
        parts["box_head"] = faster_rcnn.FastRCNNConvFCHead(*shape, norm_layer=norm)
    if args.masks:
        parts["mask_head"] = mask_rcnn.MaskRCNNHeads(width, [width] * 4, 1, norm_layer=norm)
        parts["mask_predictor"] = mask_rcnn.MaskRCNNPredictor(width, width, classes + 1)
    model = (mask_rcnn.MaskRCNN if args.masks else faster_rcnn.FasterRCNN)(fpn, **parts)
    if args.ws:
        # As published: not the RPN and the layers that predict.
        places = [model.backbone, model.roi_heads.box_head]
        places += [model.roi_heads.mask_head] if args.masks else []
        for module in [m for place in places for m in place.modules() if isinstance(m, nn.Conv2d)]:
            nn.utils.parametrize.register_parametrization(module, "weight", StandardizeWeight())
    return model


@torch.no_grad()
def evaluate(model: nn.Module, loader, dataset: CocoImages, device: torch.device) -> dict:
    """Detect in the images of every process, and score all of them."""
    model.eval()
    found = []
    for batch in loader:
        outputs = model([image.to(device) for image, _ in batch])
        for (_, target), output in zip(batch, outputs, strict=True):
            output = {key: value.cpu() for key, value in output.items()}
            output["boxes"][:, 2:] -= output["boxes"][:, :2]
            for n, label in enumerate(output["labels"].tolist()):
                entry = {"image_id": int(target["image_id"]), "score": output["scores"][n].item()}
                entry["bbox"] = output["boxes"][n].tolist()
                entry["category_id"] = dataset.categories[label - 1]
                if dataset.masks:
                    mask = (output["masks"][n, 0] > 0.5).numpy().astype(np.uint8)
                    entry["segmentation"] = rle.encode(np.asfortranarray(mask))
                found.append(entry)
    if torch.distributed.is_initialized():
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, found)
        found = [entry for part in parts for entry in part]
    return score(dataset.coco, found, dataset.masks)


def score(truth: COCO, found: list[dict], masks: bool) -> dict[str, float]:
    """Return COCO's AP, AP50 and AP75 in percent, of boxes and of masks."""
    metrics = {}
    for kind, prefix in [("bbox", ""), ("segm", "mask_")][: 1 + masks]:
        with contextlib.redirect_stdout(None):
            evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        for name, value in zip(("AP", "AP50", "AP75"), evaluation.stats, strict=False):
            metrics[f"{prefix}{name}"] = 100 * float(value)
    return metrics


def main() -> None:
    parser = make_parser(__doc__, out="detection")
    add_device(parser)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", choices=BACKBONES, default="resnet50")
    parser.add_argument("--weights", help="backbone weights; stem and first stage freeze")
    parser.add_argument("--norm", choices=["frozen", "batch", "group"], default="frozen")
    parser.add_argument("--ws", action="store_true", help="weight standardization of convolutions")
    parser.add_argument("--box-head", choices=["2fc", "4c1f"], default="2fc")
    parser.add_argument("--masks", action="store_true", help="Mask R-CNN instead of Faster R-CNN")
    parser.add_argument(
        "--anchors",
        type=at_least(1),
        nargs=5,
        default=[32, 64, 128, 256, 512],
        help="size of the anchors at each level of the FPN, in pixels",
    )
    parser.add_argument("--channels", type=at_least(1), default=256, help="width of FPN and heads")
    parser.add_argument(
        "--proposals",
        type=at_least(2),
        default=2000,
        help="regions that the RPN proposes in training; half as many in evaluation",
    )
    parser.add_argument(
        "--rois", type=at_least(1), default=512, help="regions per image in training"
    )
    parser.add_argument("--min-size", type=at_least(1), default=800)
    parser.add_argument("--max-size", type=at_least(1), default=1333)
    parser.add_argument("--epochs", type=at_least(1), default=12)
    parser.add_argument(
        "--evaluate-every",
        type=at_least(1),
        default=1,
        help="epochs between evaluations, each of which also saves a checkpoint",
    )
    parser.add_argument("--drops", type=at_least(0), nargs="*", default=[8, 11])
    parser.add_argument(
        "--batch-size", type=at_least(1), default=16, help="images per step over all processes"
    )
    parser.add_argument("--lr", type=at_least(0.0), default=0.02)
    parser.add_argument("--momentum", type=at_least(0.0), default=0.9)
    parser.add_argument("--weight-decay", type=at_least(0.0), default=1e-4)
    parser.add_argument(
        "--clip", type=at_least(0.0), default=35.0, help="bound of the gradient norm; 0: none"
    )
    parser.add_argument("--warmup", type=at_least(0), default=500, help="steps")
    parser.add_argument("--workers", type=at_least(0), default=0)
    args = parser.parse_args()
    for name in ("annotations/instances_{}2017.json", "{}2017"):
        for path in (args.data / name.format(split) for split in ("train", "val")):
            if not path.exists():
                parser.error(f"{path} is missing; DATA holds COCO 2017 of cocodataset.org")

    processes = join(args, parser, "--batch-size")
    world, rank, device = processes
    train = CocoImages(args.data, "train", args.masks, train=True)
    if len(train) < args.batch_size:
        parser.error(
            f"{len(train)} training images with objects are fewer than"
            f" --batch-size {args.batch_size}"
        )
    val = CocoImages(args.data, "val", args.masks, train=False)
    model = build(args, len(train.categories)).to(device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, args.lr, args.momentum, weight_decay=args.weight_decay)
    sampler = DistributedSampler(train, world, rank, seed=args.seed, drop_last=True)
    load = partial(DataLoader, num_workers=args.workers, collate_fn=list)
    loader = load(train, args.batch_size // world, sampler=sampler)
    val_loader = load(Subset(val, range(rank, len(val), world)), 4)
    steps = len(loader)

    def factor(step: int) -> float:
        warm = min(1.0, 1 / 3 + 2 / 3 * step / args.warmup) if args.warmup else 1.0
        return warm * 0.1 ** sum(step >= drop * steps for drop in args.drops)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    record = Record(args, processes, parts)
    wrapped = processes.wrap(model)

    for epoch in record.epochs(args.epochs):
        started, total = time.perf_counter(), torch.zeros((), device=device)
        sampler.set_epoch(epoch)
        model.train()
        for batch in loader:
            images = [image.to(device) for image, _ in batch]
            targets = [{k: v.to(device) for k, v in target.items()} for _, target in batch]
            with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
                loss = sum(wrapped(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            if args.clip:
                nn.utils.clip_grad_norm_(parameters, args.clip)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        mean_loss = total.item() / steps
        seconds = time.perf_counter() - started
        record.check(epoch + 1, mean_loss)
        if (epoch + 1) % args.evaluate_every == 0 or epoch + 1 == args.epochs:
            metrics = {"loss": mean_loss, **evaluate(model, val_loader, val, device)}
            record.write(epoch + 1, metrics, seconds)
            record.save(epoch + 1)


if __name__ == "__main__":
    main()
