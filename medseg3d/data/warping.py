"""A patch sampled through a matrix and a smooth displacement, in one pass over its voxels.

The source is read directly, without a grid in memory; image and labels move together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.geometry.machine_code import compiled
from medseg3d.types import Image, LabelMap, Size3

Matrix = npt.NDArray[np.float64]


def rotation_matrix(angles: Sequence[float] | Matrix) -> Matrix:
    """Rotation about the first, then the second, then the third axis, in radians.

    Examples:
        >>> rotation_matrix((0.0, 0.0, np.pi / 2)).round() @ (1, 0, 0)
        array([0., 1., 0.])
    """
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        after, last = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[after, after] = turn[last, last] = np.cos(angle)
        turn[last, after] = np.sin(angle)
        turn[after, last] = -np.sin(angle)
        matrix = turn @ matrix
    return matrix


def warp(
    image: Image,
    labels: LabelMap,
    matrix: Matrix | None,
    displacement: npt.NDArray[np.float32] | None,
    *,
    size: Size3,
    offset: Sequence[int] | npt.NDArray[Any] = (0, 0, 0),
) -> tuple[Image, LabelMap]:
    """Sample a patch from a region through a matrix and a displacement.

    Voxel ``o`` of the patch is read at ``offset + c + matrix @ (o - c) + displacement(o)``
    with the patch's center ``c = (size - 1) / 2``. Images are trilinear, with 0 beyond the
    region; a voxel gets the label whose trilinear weights are the largest.

    Args:
        image: Region ``(C, I, J, K)``.
        labels: Labels ``(I, J, K)`` of the region.
        matrix: ``(3, 3)``, identity by default.
        displacement: ``(3, N, N, N)`` in voxels, none by default.
        size: Patch size.
        offset: Where the unchanged patch begins in the region.
    """
    linear = np.eye(3) if matrix is None else np.asarray(matrix, dtype=np.float64)
    bend = np.zeros((3, 2, 2, 2), dtype=np.float32) if displacement is None else displacement
    center = (np.array(size, dtype=np.float64) - 1) / 2
    origin = np.array(offset, dtype=np.float64) + center - linear @ center
    warped = np.empty((len(image), *size), dtype=np.float32)
    moved = np.empty(size, dtype=labels.dtype)
    _sample(
        np.ascontiguousarray(image, dtype=np.float32),
        np.ascontiguousarray(labels),
        linear,
        origin,
        np.ascontiguousarray(bend),
        warped,
        moved,
    )
    return warped, moved


@compiled
def _elect(votes: Any, weights: Any) -> Any:
    most, winner = -1.0, votes[0]
    for candidate in votes:
        total = 0.0
        for vote, weight in zip(votes, weights):  # noqa: B905 - machine code knows no strict
            if vote == candidate:
                total += weight
        if total > most:
            most, winner = total, candidate
        if total > 0.5:
            break
    return winner


@compiled
def _sample(
    image: Any, labels: Any, matrix: Any, origin: Any, bend: Any, warped: Any, moved: Any
) -> None:
    size_i, size_j, size_k = moved.shape
    end_i, end_j, end_k = labels.shape
    points = bend.shape[1]
    step_i = (points - 1) / max(size_i - 1, 1)
    step_j = (points - 1) / max(size_j - 1, 1)
    step_k = (points - 1) / max(size_k - 1, 1)
    row = np.empty((3, points))
    weights = np.empty(8)
    votes = np.empty(8, dtype=labels.dtype)
    background = labels.dtype.type(0)
    # Unsigned places in flat arrays spare the test for counting from the end.
    flat_image, flat_labels = image.reshape(len(image), -1), labels.ravel()
    next_i, next_j, next_k = np.uintp(end_j * end_k), np.uintp(end_k), np.uintp(1)
    next_ij, next_ik, next_jk = next_i + next_j, next_i + next_k, next_j + next_k
    next_ijk = next_ij + next_k
    for i in range(size_i):
        cell_i = min(int(i * step_i), points - 2)
        part_i = i * step_i - cell_i
        for j in range(size_j):
            cell_j = min(int(j * step_j), points - 2)
            part_j = j * step_j - cell_j
            for axis in range(3):
                start = origin[axis] + matrix[axis, 0] * i + matrix[axis, 1] * j
                for point in range(points):
                    near = (1 - part_j) * bend[axis, cell_i, cell_j, point]
                    near += part_j * bend[axis, cell_i, cell_j + 1, point]
                    far = (1 - part_j) * bend[axis, cell_i + 1, cell_j, point]
                    far += part_j * bend[axis, cell_i + 1, cell_j + 1, point]
                    row[axis, point] = start + (1 - part_i) * near + part_i * far
            for k in range(size_k):
                cell_k = min(int(k * step_k), points - 2)
                part_k = k * step_k - cell_k
                x = (1 - part_k) * row[0, cell_k] + part_k * row[0, cell_k + 1]
                y = (1 - part_k) * row[1, cell_k] + part_k * row[1, cell_k + 1]
                z = (1 - part_k) * row[2, cell_k] + part_k * row[2, cell_k + 1]
                x += matrix[0, 2] * k
                y += matrix[1, 2] * k
                z += matrix[2, 2] * k
                if not (-1 <= x < end_i and -1 <= y < end_j and -1 <= z < end_k):
                    for channel in range(len(warped)):
                        warped[channel, i, j, k] = 0
                    moved[i, j, k] = 0
                    continue
                a, b, c = int(x + 1) - 1, int(y + 1) - 1, int(z + 1) - 1
                u, v, w = x - a, y - b, z - c
                inside = a >= 0 and a + 1 < end_i and b >= 0 and b + 1 < end_j
                inside = inside and c >= 0 and c + 1 < end_k
                if inside:
                    here = np.uintp((a * end_j + b) * end_k + c)
                    first = flat_labels[here]
                    agree = (
                        first == flat_labels[here + next_k]
                        and first == flat_labels[here + next_j]
                        and first == flat_labels[here + next_jk]
                        and first == flat_labels[here + next_i]
                        and first == flat_labels[here + next_ik]
                        and first == flat_labels[here + next_ij]
                        and first == flat_labels[here + next_ijk]
                    )
                    for channel in range(len(warped)):
                        values = flat_image[channel]
                        near = values[here] + w * (values[here + next_k] - values[here])
                        far = values[here + next_j]
                        far += w * (values[here + next_jk] - far)
                        low = near + v * (far - near)
                        near = values[here + next_i]
                        near += w * (values[here + next_ik] - near)
                        far = values[here + next_ij]
                        far += w * (values[here + next_ijk] - far)
                        warped[channel, i, j, k] = low + u * (near + v * (far - near) - low)
                    if agree:
                        moved[i, j, k] = first
                        continue
                else:
                    for channel in range(len(warped)):
                        warped[channel, i, j, k] = 0
                for corner in range(8):
                    here_a, here_b, here_c = (
                        a + (corner >> 2),
                        b + ((corner >> 1) & 1),
                        c + (corner & 1),
                    )
                    weight = u if corner & 4 else 1 - u
                    weight *= v if corner & 2 else 1 - v
                    weight *= w if corner & 1 else 1 - w
                    weights[corner] = weight
                    if inside or (
                        0 <= here_a < end_i and 0 <= here_b < end_j and 0 <= here_c < end_k
                    ):
                        votes[corner] = labels[here_a, here_b, here_c]
                        if not inside:
                            for channel in range(len(warped)):
                                warped[channel, i, j, k] += (
                                    weight * image[channel, here_a, here_b, here_c]
                                )
                    else:
                        votes[corner] = background
                moved[i, j, k] = _elect(votes, weights)
