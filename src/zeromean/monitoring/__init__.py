"""Numbers of a running training, layer by layer: what centering takes away, what means do."""

from __future__ import annotations

from zeromean.monitoring.hooks import Monitor as Monitor
from zeromean.monitoring.hooks import monitor as monitor
from zeromean.monitoring.sample import Layer as Layer
from zeromean.monitoring.sample import Sample as Sample

__all__ = ["Layer", "Monitor", "Sample", "monitor"]
