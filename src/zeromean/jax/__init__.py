"""Gradient Centralization for optax, over the fan-in axes of each layer.

Needs ``jax`` and ``optax``. Flax, Equinox and Haiku are needed only to pass their modules.

>>> import jax, optax, zeromean.jax
>>> from flax import linen
>>> model, inputs = linen.Dense(2), jax.numpy.ones((1, 3))
>>> axes = zeromean.jax.fan_in(model, jax.random.key(0), inputs)
>>> at_gradient = optax.chain(
...     optax.add_decayed_weights(5e-4), zeromean.jax.centralize(axes), optax.sgd(0.1)
... )
>>> at_update = optax.chain(optax.adamw(1e-3), zeromean.jax.centralize(axes, at="update"))
"""

from zeromean.errors import needs_extra

with needs_extra("jax", "zeromean.jax", "jax", "jaxlib", "optax"):
    from zeromean.jax.axes import explain, fan_in
    from zeromean.jax.projection import center
    from zeromean.jax.transforms import centralize

__all__ = ["center", "centralize", "explain", "fan_in"]


def __dir__() -> list[str]:
    return sorted(__all__)
