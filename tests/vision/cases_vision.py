"""The replaced operators of torchvision, and plans of real timm and torchvision models."""

from __future__ import annotations

import pytest
import timm
import torch
from torchvision.models import detection
from torchvision.ops import nms, roi_align

import zeromean


def bilinear(feature: torch.Tensor, y: float, x: float) -> torch.Tensor:
    rows, columns = feature.shape[-2:]
    if y < -1 or y > rows or x < -1 or x > columns:
        return torch.zeros(len(feature))
    y, x = min(max(y, 0.0), rows - 1), min(max(x, 0.0), columns - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    v, u = y - top, x - left
    upper = feature[:, top, left] * (1 - u) + feature[:, top, right] * u
    lower = feature[:, bottom, left] * (1 - u) + feature[:, bottom, right] * u
    return upper * (1 - v) + lower * v


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [2, -1])
def test_roi_align_equals_the_definition(ratio: int, aligned: bool) -> None:
    features = torch.randn(2, 3, 10, 14)
    corners = torch.rand(6, 2) * 50 - 8
    images = torch.randint(0, 2, (6, 1)).float()
    rois = torch.cat([images, corners, corners + torch.rand(6, 2) * 60], 1)
    found = roi_align(features, rois, (3, 4), 0.25, ratio, aligned)
    for pooled, roi in zip(found, rois, strict=True):
        x1, y1, x2, y2 = (roi[1:] * 0.25 - 0.5 * aligned).tolist()
        height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1.0), max(x2 - x1, 1.0))
        ny = ratio if ratio > 0 else max(int(-(-height // 3)), 1)
        nx = ratio if ratio > 0 else max(int(-(-width // 4)), 1)
        for row in range(3):
            for column in range(4):
                points = [
                    bilinear(
                        features[int(roi[0])],
                        y1 + height / 3 * (row + (i + 0.5) / ny),
                        x1 + width / 4 * (column + (j + 0.5) / nx),
                    )
                    for i in range(ny)
                    for j in range(nx)
                ]
                expected = torch.stack(points).mean(0)
                torch.testing.assert_close(pooled[:, row, column], expected, rtol=1e-4, atol=1e-5)


def test_roi_align_has_gradients() -> None:
    features = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0.0, 1.0, 1.0, 4.5, 5.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 2), 1.0, 2), features)


def test_nms_keeps_the_best_of_overlapping_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    assert nms(boxes, torch.tensor([0.5, 0.9, 0.3]), 0.5).tolist() == [1, 2]
    assert nms(boxes[:0], torch.zeros(0), 0.5).tolist() == []


@pytest.mark.parametrize(
    ("name", "centered"),
    [("resnet50", 54), ("tf_efficientnet_lite0", None), ("vit_tiny_patch16_224", None)],
)
def test_plans_of_timm_models_center_every_convolution_and_linear_layer(
    name: str, centered: int | None
) -> None:
    model = timm.create_model(name)
    plan = zeromean.explain(model)
    layers = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and module.weight[0].numel() > 1
    }
    assert {row.name for row in plan.centered} == layers
    assert centered in (None, len(layers))


def test_plan_of_mask_rcnn_centers_heads_and_backbone() -> None:
    model = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5)
    names = {row.name for row in zeromean.explain(model).centered}
    assert {
        "backbone.body.conv1.weight",
        "backbone.fpn.inner_blocks.0.0.weight",
        "rpn.head.cls_logits.weight",
        "roi_heads.box_head.fc6.weight",
        "roi_heads.box_predictor.bbox_pred.weight",
        "roi_heads.mask_predictor.conv5_mask.weight",
    } <= names
