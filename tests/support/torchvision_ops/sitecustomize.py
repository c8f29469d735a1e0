"""Lets torchvision run on a build of torch that its compiled operators do not match.

Put this folder on PYTHONPATH. When a program imports torchvision, the operator `nms` is defined in
plain torch, `qnms` is declared, and `roi_align` uses `grid_sample`, which is several times faster
than torchvision's own fallback. Programs that do not import torchvision are not affected.
"""

import importlib.abc
import importlib.util
import sys


class _Patch(importlib.abc.Loader):
    """Runs a function on a module after its own loader has executed it."""

    def __init__(self, loader, patch):
        self._loader, self._patch = loader, patch

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        self._patch(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            _define_operators()
            return None
        patch = _PATCHES.get(name)
        if patch is None:
            return None
        spec = next(
            found
            for finder in sys.meta_path
            if finder is not self and (found := finder.find_spec(name, path, target)) is not None
        )
        spec.loader = _Patch(spec.loader, patch)
        return spec


_library = []  # keeps the operators registered


def _define_operators():
    import torch

    if _library:
        return
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _nms, "CPU")
    _library.append(library)


def _nms(boxes, scores, threshold):
    """Indices of the boxes that greedy non-maximum suppression keeps, by descending score."""
    import torch

    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = (high - low).clamp_min_(0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    suppresses = (overlap > threshold * (area[:, None] + area - overlap)).numpy()
    alive = [True] * len(boxes)
    kept = []
    for index, row in enumerate(suppresses):
        if alive[index]:
            kept.append(index)
            for other in row[index + 1 :].nonzero()[0]:
                alive[index + 1 + other] = False
    return order[kept]


def _patch_extension(module):
    module._assert_has_ops = lambda: None


def _patch_roi_align(module):
    module._roi_align = _roi_align


def _roi_align(features, rois, scale, height, width, sampling_ratio, aligned):
    """RoIAlign with one `grid_sample` per image and number of sampling points."""
    import torch

    start = rois[:, 1:3] * scale - 0.5 * aligned
    size = (rois[:, 3:5] - rois[:, 1:3]) * scale
    if not aligned:
        size = size.clamp_min(1)
    if sampling_ratio > 0:
        points = torch.full_like(size, sampling_ratio)
    else:
        points = torch.ceil(size / size.new_tensor([width, height])).clamp_min(1)
    keys = torch.cat([rois[:, :1], points], 1)
    pooled = features.new_zeros(len(rois), features.shape[1], height, width)
    for key in keys.unique(dim=0):
        chosen = (keys == key).all(1).nonzero().squeeze(1)
        image, nx, ny = (int(number) for number in key)
        values = _sample(
            features[image : image + 1], start[chosen], size[chosen], height * ny, width * nx
        )
        mean = torch.nn.functional.avg_pool2d(values, (ny, nx))
        pooled = pooled.index_copy(0, chosen, mean.to(pooled.dtype))
    return pooled


def _sample(feature, start, size, points_y, points_x):
    """Bilinear values of one image at evenly spaced points of each box; zero outside the image."""
    import torch

    rows, columns = feature.shape[-2:]
    steps_y = (torch.arange(points_y, device=start.device) + 0.5) / points_y
    steps_x = (torch.arange(points_x, device=start.device) + 0.5) / points_x
    y = (start[:, 1:] + size[:, 1:] * steps_y)[:, :, None].expand(-1, -1, points_x)
    x = (start[:, :1] + size[:, :1] * steps_x)[:, None, :].expand(-1, points_y, -1)
    inside = (y >= -1) & (y <= rows) & (x >= -1) & (x <= columns)
    grid = torch.stack([2 * x / max(columns - 1, 1) - 1, 2 * y / max(rows - 1, 1) - 1], dim=-1)
    values = torch.nn.functional.grid_sample(
        feature,
        grid.reshape(1, -1, points_x, 2).to(feature.dtype),
        "bilinear",
        "border",
        align_corners=True,
    )
    values = values.view(feature.shape[1], len(start), points_y, points_x).transpose(0, 1)
    return values * inside[:, None]


_PATCHES = {
    "torchvision.extension": _patch_extension,
    "torchvision.ops.roi_align": _patch_roi_align,
}
sys.meta_path.insert(0, _Finder())
