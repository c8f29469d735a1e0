"""Eigenvalues of symmetric operators that are given by their products with vectors."""

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

# Size up to which computing the matrix is cheaper than iterating.
MAX_DENSE_SIZE = 32
# Number of Lanczos vectors between restarts. Few suffice, because the extreme eigenvalues of a
# Hessian are usually well separated; scipy's default of 20 needs twice as many products.
BASIS_SIZE = 10


def extreme_eigenvalue(
    product: Product, size: int, which: Literal["magnitude", "largest"], tolerance: float
) -> float:
    """Compute the largest eigenvalue of a symmetric operator, or the one of largest magnitude.

    Large operators need Lanczos iteration; the matrix of a small one is computed.

    Args:
        product: Function that multiplies the operator by a vector.
        size: Length of that vector.
        which: Eigenvalue to compute.
        tolerance: Relative accuracy of the iteration.

    Raises:
        ZeromeanError: The products are not finite, or the iteration does not converge.
    """
    # A fixed start vector, because ARPACK's own is random.
    start = np.random.default_rng(0).standard_normal(size)
    first = product(start)
    if not np.isfinite(first).all():
        raise ZeromeanError(
            "the Hessian has entries that are not finite",
            "Check that the loss of these batches is finite and twice differentiable",
        )
    if size <= MAX_DENSE_SIZE:
        matrix = np.stack([product(column) for column in np.eye(size)], axis=1)
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        return float(values[np.abs(values).argmax()] if which == "magnitude" else values[-1])
    if not first.any():
        return 0.0
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    try:
        found = eigsh(
            operator, k=1, which="LM" if which == "magnitude" else "LA",
            v0=start, ncv=BASIS_SIZE, tol=tolerance, return_eigenvectors=False,
        )  # fmt: skip
    except ArpackNoConvergence as error:
        raise ZeromeanError(
            f"the Lanczos iteration did not converge to {tolerance:g} in {size * 10} iterations",
            "Raise tolerance",
        ) from error
    return float(found[0])


def ritz_values(product: Product, start: Array, steps: int) -> Array:
    """Compute the eigenvalues of a symmetric operator on the Krylov space of ``start``, ascending.

    These Ritz values lie within the range of the eigenvalues to whose eigenvectors ``start`` is not
    orthogonal, and approach both ends of that range. scipy's Lanczos iteration does not return
    them: it finds only eigenvalues at the ends of the whole spectrum, zeros included. There are
    fewer than ``steps`` if the Krylov space has fewer dimensions.
    """
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(steps, len(start))):
        vector = product(basis[-1])
        diagonal.append(float(basis[-1] @ vector))
        kept = np.stack(basis)
        for _ in range(2):  # rounding leaves the first result not orthogonal
            vector = vector - kept.T @ (kept @ vector)
        length = float(np.linalg.norm(vector))
        if length <= 1e-12 * max(map(abs, diagonal)):
            break
        off_diagonal.append(length)
        basis.append(vector / length)
    return np.asarray(
        eigh_tridiagonal(diagonal, off_diagonal[: len(diagonal) - 1], eigvals_only=True)
    )


def split_like(vector: Array, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Split a flat vector into float64 tensors on the CPU, shaped like ``tensors``."""
    whole = torch.from_numpy(np.ascontiguousarray(vector))
    parts = torch.split(whole, [x.numel() for x in tensors])
    return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]


def flat(tensors: Sequence[Tensor]) -> Array:
    """Concatenate tensors into one flat float64 vector."""
    return torch.cat([x.detach().cpu().double().flatten() for x in tensors]).numpy()
