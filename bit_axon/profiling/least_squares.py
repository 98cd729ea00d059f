"""Small nonlinear least squares: Levenberg-Marquardt with numerical derivatives."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Residuals = Callable[[Vector], Vector]

_DIFFERENCE: Final = 1e-4  # of the argument, for derivatives
_LONGEST_STEP: Final = 1.0
_CONVERGED: Final = 1e-6  # relative decrease of the sum of squares
_ITERATIONS, _ATTEMPTS = 60, 8


def least_squares(residuals: Residuals, start: Vector, reach: float) -> Vector:
    """The point that minimizes |residuals(point)|^2 near `start`.

    Args:
        residuals: (P,) -> (N,), smooth; arguments of about the same size as their effect.
        start: (P,), where the search begins.
        reach: how far each coordinate may move from `start`.
    """
    point, left = start, residuals(start)
    damping = 1e-2
    for _ in range(_ITERATIONS):
        slopes = _slopes(residuals, point, left)
        normal, gradient = slopes.T @ slopes, slopes.T @ left
        for _ in range(_ATTEMPTS):
            step = np.linalg.lstsq(normal + damping * _diagonal(normal), -gradient, rcond=None)[0]
            step = np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
            tried = np.clip(point + step, start - reach, start + reach)
            tried_left = residuals(tried)
            if tried_left @ tried_left < left @ left:
                break
            damping *= 4.0
        else:
            return point
        gained = 1.0 - (tried_left @ tried_left) / (left @ left)
        point, left, damping = tried, tried_left, damping / 4.0
        if gained < _CONVERGED:
            return point
    return point


def standard_errors(residuals: Residuals, point: Vector) -> Vector:
    """Of each coordinate at a minimum, (P,), if what is left is independent noise of equal size."""
    left = residuals(point)
    slopes = _slopes(residuals, point, left)
    variance = (left @ left) / max(1, len(left) - len(point))
    errors: Vector = np.sqrt(variance * np.diag(np.linalg.pinv(slopes.T @ slopes, hermitian=True)))
    return errors


def _slopes(residuals: Residuals, point: Vector, left: Vector) -> Vector:
    """d residuals / d point, (N, P), by forward differences from `left`, the residuals there."""
    columns = []
    for index in range(len(point)):
        aside = point.copy()
        aside[index] += _DIFFERENCE
        columns.append((residuals(aside) - left) / _DIFFERENCE)
    return np.stack(columns, axis=1)


def _diagonal(matrix: Vector) -> Vector:
    """A diagonal that is never zero, so that a coordinate without effect stays where it is."""
    diagonal = np.diag(matrix)
    return np.diag(np.maximum(diagonal, 1e-9 * max(1e-9, float(diagonal.max()))))
