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
# Lanczos vectors between restarts. The extreme eigenvalues of a loss stand out, so that few
# suffice; scipy's default of 20 costs twice the products.
BASIS_SIZE = 10


def extreme_eigenvalue(
    product: Product, size: int, which: Literal["magnitude", "largest"], tolerance: float
) -> float:
    """Compute the largest eigenvalue, or the one of largest magnitude, by Lanczos iteration.

    Raises:
        ZeromeanError: The products are not finite, or the iteration does not converge.
    """
    # ARPACK would start from its own random vector.
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

    They lie within the range of the eigenvalues whose eigenvectors ``start`` has a part in, and
    approach both ends. scipy's Lanczos iteration does not return them: it only finds eigenvalues
    at the ends of the whole spectrum, zeros included. The Krylov space may be exhausted before it
    has ``steps`` dimensions.
    """
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(steps, len(start))):
        vector = product(basis[-1])
        diagonal.append(float(basis[-1] @ vector))
        kept = np.stack(basis)
        for _ in range(2):  # once does not keep them orthogonal
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
    """Concatenate tensors to one flat vector."""
    return torch.cat([x.detach().double().cpu().flatten() for x in tensors]).numpy()
