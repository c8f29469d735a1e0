"""Extreme eigenvalues of symmetric operators that are known by their products alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from zeromean.errors import ZeromeanError

Array = npt.NDArray[np.float64]
Product = Callable[[Array], Array]

# Up to here the matrix itself is cheaper than iterating.
DENSE = 32
# Vectors between restarts. The ends of a loss's spectrum stand out and are found in few; scipy's
# own 20 cost twice the products.
BASIS = 10


def extreme_eigenvalue(
    product: Product, size: int, which: Literal["magnitude", "largest"], tolerance: float
) -> float:
    """The eigenvalue of largest magnitude, or the largest one, by Lanczos iteration.

    Args:
        product: From a vector to the symmetric operator's product with it, shape (size,) both.
        size: The operator's dimension.
        which: "magnitude" or "largest".
        tolerance: Relative accuracy.

    Raises:
        ZeromeanError: The products are not finite, or the iteration does not converge.
    """
    # ARPACK starts from a random vector of its own otherwise.
    start = np.random.default_rng(0).standard_normal(size)
    first = product(start)
    if not np.isfinite(first).all():
        raise ZeromeanError(
            "a Hessian with infinite or undefined entries",
            "a loss that is finite and twice differentiable here",
            "check the loss of these batches",
        )
    if size <= DENSE:
        values = np.linalg.eigvalsh(as_matrix(product, size))
        return float(values[np.abs(values).argmax()] if which == "magnitude" else values[-1])
    if not first.any():
        return 0.0
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    code = {"magnitude": "LM", "largest": "LA"}[which]
    try:
        found = eigsh(
            operator,
            k=1,
            which=code,
            v0=start,
            ncv=BASIS,
            tol=tolerance,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as error:
        raise ZeromeanError(
            f"an eigenvalue that Lanczos did not find to {tolerance:g} in {size * 10} iterations",
            "convergence",
            "raise tolerance",
        ) from error
    return float(found[0])


def as_matrix(product: Product, size: int) -> Array:
    """The operator as a symmetric matrix, a product a column."""
    matrix = np.stack([product(column) for column in np.eye(size)], axis=1)
    return np.asarray((matrix + matrix.T) / 2)


def ritz_values(product: Product, start: Array, steps: int) -> Array:
    """Eigenvalues of a symmetric operator on the Krylov space of ``start``, ascending.

    They lie between the extremes of the eigenvalues whose eigenvectors ``start`` has a part in, and
    reach towards both. scipy's Lanczos does not give them away, and only finds eigenvalues at the
    ends of the whole spectrum, zeros included.

    Args:
        product: As in :func:`extreme_eigenvalue`.
        start: Any vector but zero.
        steps: Dimension of the Krylov space, at most; it ends where the space is exhausted.
    """
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(steps, len(start))):
        vector = product(basis[-1])
        diagonal.append(float(basis[-1] @ vector))
        kept = np.stack(basis)
        for _ in range(2):  # once is not enough to stay orthogonal
            vector = vector - kept.T @ (kept @ vector)
        length = float(np.linalg.norm(vector))
        if length <= 1e-12 * max(map(abs, diagonal)):
            break
        beside.append(length)
        basis.append(vector / length)
    return np.asarray(eigh_tridiagonal(diagonal, beside[: len(diagonal) - 1], eigvals_only=True))


def split_like(vector: Array, tensors: Sequence[Tensor]) -> list[Tensor]:
    """A flat vector as float64 tensors of the shapes of ``tensors``, on the CPU."""
    whole = torch.from_numpy(np.ascontiguousarray(vector))
    parts = torch.split(whole, [x.numel() for x in tensors])
    return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]


def flat(tensors: Sequence[Tensor]) -> Array:
    """Tensors as one flat vector."""
    return torch.cat([x.detach().double().cpu().flatten() for x in tensors]).numpy()
