"""JAX: Gradient Centralization for optax, over the axes that each layer really has.

Needs the packages ``jax`` and ``optax``; Flax, Equinox and Haiku are asked for only by those who
pass their modules.

>>> import jax, optax, zeromean.jax
>>> params = {"Dense_0": {"kernel": jax.numpy.ones((3, 2)), "bias": jax.numpy.zeros(2)}}
>>> optimizer = zeromean.jax.centralized(
...     optax.adamw(1e-3), axes=zeromean.jax.fan_in(params), at="update"
... )
"""

from zeromean.jax.axes import explain, fan_in
from zeromean.jax.projection import center
from zeromean.jax.transforms import centralize, centralized

__all__ = ["center", "centralize", "centralized", "explain", "fan_in"]
