"""Diagnostics of what centering does: each returns arrays, a table and a picture.

>>> import torch, zeromean
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
>>> means = zeromean.diagnose.weight_means(model)  # print(means), means.means, means.plot()
>>> means.layers
('0.weight', '2.weight')
"""

from __future__ import annotations

from zeromean.errors import needs_extra

with needs_extra("study", "zeromean.diagnose"):
    from zeromean.diagnose.fisher_condition import FisherCondition, fisher_condition
    from zeromean.diagnose.gradient_norms import GradientNorms, gradient_norms
    from zeromean.diagnose.intensity_response import IntensityResponse, intensity_response
    from zeromean.diagnose.preactivations import Preactivations, preactivations
    from zeromean.diagnose.result import Diagnostic
    from zeromean.diagnose.sharpness import Sharpness, sharpness
    from zeromean.diagnose.weight_means import WeightMeans, weight_means

__all__ = [
    "Diagnostic",
    "FisherCondition",
    "GradientNorms",
    "IntensityResponse",
    "Preactivations",
    "Sharpness",
    "WeightMeans",
    "fisher_condition",
    "gradient_norms",
    "intensity_response",
    "preactivations",
    "sharpness",
    "weight_means",
]


def __dir__() -> list[str]:
    return sorted(__all__)
