"""See what centering does: one diagnostic a file, each with arrays, a table and a picture.

>>> import torch, zeromean
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
>>> means = zeromean.diagnose.weight_means(model)  # print(means), means.means, means.plot()
>>> means.layers
('0.weight', '2.weight')
"""

from __future__ import annotations

from zeromean.diagnose.fisher_condition import FisherCondition as FisherCondition
from zeromean.diagnose.fisher_condition import fisher_condition as fisher_condition
from zeromean.diagnose.gradient_norms import GradientNorms as GradientNorms
from zeromean.diagnose.gradient_norms import gradient_norms as gradient_norms
from zeromean.diagnose.intensity_response import IntensityResponse as IntensityResponse
from zeromean.diagnose.intensity_response import intensity_response as intensity_response
from zeromean.diagnose.preactivations import Preactivations as Preactivations
from zeromean.diagnose.preactivations import preactivations as preactivations
from zeromean.diagnose.result import Diagnostic as Diagnostic
from zeromean.diagnose.sharpness import Sharpness as Sharpness
from zeromean.diagnose.sharpness import sharpness as sharpness
from zeromean.diagnose.weight_means import WeightMeans as WeightMeans
from zeromean.diagnose.weight_means import weight_means as weight_means
