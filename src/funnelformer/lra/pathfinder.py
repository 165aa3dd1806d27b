"""Pathfinder: does a dashed path join the two circles? Images of our own, and the folders of the release.

Source of the task: Linsley et al. 2018, arXiv:1805.08315; Long Range Arena, Tay et al. 2021, arXiv:2011.04006,
section 2.2. The images drawn here follow its idea, not its program: accuracies on them are not those of the release.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import UserError
from ..base.files import atomic_folder, check_file, iter_lines

__all__ = ["PathfinderStyle", "draw_image", "draw_images", "label_of", "read_pathfinder", "write_pathfinder"]

_IMAGES_PER_FOLDER = 1000
_TRIES_PER_STEP = 6
_TRIES_PER_SNAKE = 30
_TRIES_PER_IMAGE = 200


@dataclass(frozen=True)
class PathfinderStyle:
    """What is drawn; lengths are in pixels of a 32-pixel image and grow with `size`.

    num_dashes: dashes of each of the two long snakes (the release's contour length).
    num_distractors: short snakes, of a third of that length.
    dash, gap: length of a dash and of the space to the next.
    clearance: smallest distance between ends of dashes of two snakes, and of one snake's far apart dashes.
    max_turn: largest change of direction from a dash to the next, in radians.
    """

    size: int = 32
    num_dashes: int = 14
    num_distractors: int = 4
    dash: float = 1.3
    gap: float = 1.0
    clearance: float = 2.4
    radius: float = 1.5
    max_turn: float = 0.6

    def __post_init__(self) -> None:
        if self.size < 16:
            raise UserError(f"Pathfinder: images of {self.size} pixels a side; allowed: 16 or more")
        if self.num_dashes < 2:
            raise UserError(f"Pathfinder: a path of {self.num_dashes} dashes; allowed: 2 or more")


def label_of(index: int, seed: int) -> int:
    """1 when image `index` has its circles joined: exactly one of the images 2k and 2k + 1, at random."""
    first = int(np.random.default_rng([seed, index // 2, 1]).integers(2))
    return first ^ (index % 2)


def draw_image(index: int, seed: int, style: PathfinderStyle) -> np.ndarray:
    """Draw image `index` of the series `seed`: uint8 [size, size], black with white paths.

    Joined or not, an image has two long snakes, two circles at ends of them, and short snakes. The snakes are drawn
    without regard to the label, and such that circles about as far apart can stand at one snake or at both:
    neither the snakes nor the distance between the circles (a threshold on it would be right in 69% of images
    otherwise) tells the label. Raises UserError when the style leaves no room for that.
    """
    generator = np.random.default_rng([seed, index, 0])
    joined = label_of(index, seed) == 1
    radius, num_short = style.radius * style.size / 32, max(2, style.num_dashes // 3)
    for _ in range(_TRIES_PER_IMAGE):
        taken: list[tuple[float, float, float]] = []
        long = _place_snakes(generator, taken, 2, style.num_dashes, radius, style)
        markers = None if long is None else _place_circles(generator, long[0], long[1], joined, style)
        if long is None or markers is None:
            continue
        short = _place_snakes(generator, taken, style.num_distractors, num_short, 0.0, style)
        if short is not None:
            return _render(long + short, markers, style)
    raise UserError(
        f"Pathfinder: two paths of {style.num_dashes} dashes and {style.num_distractors} short ones find no "
        f"room in {style.size} pixels; take fewer, or shorter dashes"
    )


Points = tuple[np.ndarray, np.ndarray]


def _place_circles(
    generator: np.random.Generator,
    first: np.ndarray,
    second: np.ndarray,
    joined: bool,
    style: PathfinderStyle,
) -> Points | None:
    """Two ends of one snake or of both, out of those equally far apart, within a pixel; None when there are none."""
    same = [(snake[0], snake[-1]) for snake in (first, second)]
    cross = [(first[i], second[j]) for i in (0, -1) for j in (0, -1)]
    distances = [[math.dist(*ends) for ends in choices] for choices in (same, cross)]
    tolerance = style.size / 32
    equal = [
        (i, j)
        for i, one in enumerate(distances[0])
        for j, other in enumerate(distances[1])
        if abs(one - other) < tolerance
    ]
    if not equal:
        return None
    # Drawn for both labels, so that the choice does not depend on the label either.
    i, j = equal[int(generator.integers(len(equal)))]
    return same[i] if joined else cross[j]


def draw_images(count: int, seed: int, style: PathfinderStyle) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images [N, size, size] of a series and their labels [N]; half of an even count are 1."""
    images = np.empty((count, style.size, style.size), dtype=np.uint8)
    for index in range(count):
        images[index] = draw_image(index, seed, style)
    return images, np.array([label_of(index, seed) for index in range(count)])


def _place_snakes(
    generator: np.random.Generator,
    taken: list[tuple[float, float, float]],
    count: int,
    num_dashes: int,
    radius: float,
    style: PathfinderStyle,
) -> list[np.ndarray] | None:
    """Points [2n, 2] (ends of n dashes) of each of `count` snakes; None when one finds no place.

    taken: points (x, y, margin) to keep clear of; those placed are added. radius: of the circles that may stand at
    the ends, and must not touch another path.
    """
    snakes = []
    for _ in range(count):
        for _ in range(_TRIES_PER_SNAKE):
            snake = _grow(generator, taken, num_dashes, radius, style)
            if snake is not None:
                break
        else:
            return None
        snakes.append(np.array(snake))
        ends = (0, len(snake) - 1)
        taken += [(x, y, radius if place in ends else 0.0) for place, (x, y) in enumerate(snake)]
    return snakes


def _grow(
    generator: np.random.Generator,
    taken: list[tuple[float, float, float]],
    num_dashes: int,
    radius: float,
    style: PathfinderStyle,
) -> list[tuple[float, float]] | None:
    """One snake that keeps clear of the taken points (x, y, margin) and of itself; None when it is stuck.

    In plain numbers: with a few dozen points, most tries failing at the first of them, arrays are slower.
    """
    scale = style.size / 32
    low = (style.radius + 0.5) * scale
    high = style.size - low
    clearance = style.clearance * scale
    dash, gap = style.dash * scale, style.gap * scale
    x, y = generator.uniform(low, high, 2).tolist()
    if not _is_clear(x, y, clearance + radius, taken):
        return None
    direction = generator.uniform(0, 2 * math.pi)
    turns = generator.uniform(-style.max_turn, style.max_turn, (num_dashes, _TRIES_PER_STEP)).tolist()
    # Neighbours along a bend come closer than snakes may: those few are not compared.
    num_near = 2 * math.ceil(style.clearance / (style.dash + style.gap)) + 2
    points: list[tuple[float, float]] = []
    for number in range(num_dashes):
        own = [(*point, 0.0) for point in points[: max(0, 2 * number - num_near)]]
        needed = clearance + (radius if number + 1 == num_dashes else 0)
        for turn in turns[number]:
            angle = direction + turn
            step_x, step_y = math.cos(angle), math.sin(angle)
            skipped = gap if number else 0.0
            start = (x + skipped * step_x, y + skipped * step_y)
            end = (start[0] + dash * step_x, start[1] + dash * step_y)
            inside = low <= end[0] <= high and low <= end[1] <= high
            if inside and _is_clear(*end, needed, own) and _is_clear(*end, needed, taken):
                break
        else:
            return None
        points += [start, end]
        (x, y), direction = end, angle
    return points


def _is_clear(x: float, y: float, distance: float, taken: list[tuple[float, float, float]]) -> bool:
    for other_x, other_y, margin in taken:
        across, down, needed = x - other_x, y - other_y, distance + margin
        if across * across + down * down < needed * needed:
            return False
    return True


def _render(snakes: list[np.ndarray], markers: Points, style: PathfinderStyle) -> np.ndarray:
    """Anti-aliased: a pixel's brightness is how far its centre lies inside the stroke, 0 to 1."""
    scale = style.size / 32
    image = np.zeros((style.size, style.size))
    half_width = 0.4 * scale
    for snake in snakes:
        for start, end in zip(snake[::2], snake[1::2], strict=True):
            _stroke(image, start, end, half_width)
    for centre in markers:
        _stroke(image, centre, centre, style.radius * scale)
    return np.rint(image * 255).astype(np.uint8)


def _stroke(image: np.ndarray, start: np.ndarray, end: np.ndarray, half_width: float) -> None:
    """Draw the points within half_width (in pixels) of a segment, a disc when its ends are one."""
    reach = half_width + 1
    low = np.floor(np.minimum(start, end) - reach).astype(int).clip(0, len(image))
    high = np.ceil(np.maximum(start, end) + reach).astype(int).clip(0, len(image))
    x = np.arange(low[0], high[0])[None, :] + 0.5 - start[0]
    y = np.arange(low[1], high[1])[:, None] + 0.5 - start[1]
    along_x, along_y = end - start
    squared = along_x**2 + along_y**2
    share = ((x * along_x + y * along_y) / squared).clip(0, 1) if squared else 0.0
    distance = np.hypot(x - share * along_x, y - share * along_y)
    patch = image[low[1] : high[1], low[0] : high[0]]
    np.maximum(patch, (half_width + 0.5 - distance).clip(0, 1), out=patch)


def write_pathfinder(out: Path, count: int, seed: int, style: PathfinderStyle) -> None:
    """Write the first `count` images of a series as imgs/K/sample_I.png and their labels in metadata/K.npy.

    As in the release a metadata file is text despite its suffix, a line an image: folder, file, number, label,
    then ours alone: dashes of the path and short snakes. Raises UserError when `out` is not empty.
    """
    image_class = _pillow()
    with atomic_folder(out) as folder:
        (folder / "metadata").mkdir()
        for first in range(0, count, _IMAGES_PER_FOLDER):
            name = f"imgs/{first // _IMAGES_PER_FOLDER}"
            (folder / name).mkdir(parents=True)
            lines = []
            for index in range(first, min(first + _IMAGES_PER_FOLDER, count)):
                number = index - first
                image = draw_image(index, seed, style)
                image_class.fromarray(image).save(folder / name / f"sample_{number}.png")
                label = label_of(index, seed)
                extra = f"{style.num_dashes} {style.num_distractors}"
                lines.append(f"{name} sample_{number}.png {number} {label} {extra}\n")
            (folder / "metadata" / f"{first // _IMAGES_PER_FOLDER}.npy").write_text("".join(lines))


def read_pathfinder(
    folder: Path, size: int, shuffle_seed: int | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Read images [N, size, size] and labels [N] of a release folder, in the order of its metadata files or shuffled.

    Third comes the number of image files that are empty, which are left out: the release has one.
    Raises UserError naming metadata file and line, or the image, that cannot be used.
    """
    image_class = _pillow()
    files = sorted((folder / "metadata").glob("*.npy"), key=lambda file: (len(file.stem), file.stem))
    if not files:
        raise UserError(f"{folder / 'metadata'}: holds no .npy file")
    entries: list[tuple[Path, int, Path, int]] = []  # metadata file, line, image file, label
    num_empty = 0
    for file in files:
        for number, line in iter_lines(file):
            columns = line.split()
            if len(columns) < 4 or columns[3] not in ("0", "1"):
                raise UserError(
                    f"{file}: line {number} is {line[:60]!r}; allowed: a folder, an image, a number and the label "
                    "0 or 1, spaces between"
                )
            place = folder / columns[0] / columns[1]
            if place.is_file() and place.stat().st_size == 0:
                num_empty += 1
                continue
            entries.append((file, number, place, int(columns[3])))
    if not entries:
        raise UserError(f"{folder}: no image of it has any content")
    # Each image is read to where the shuffle puts it: Path-X has 3.3 GB of them, too many for a second copy.
    order = np.arange(len(entries))
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(len(entries))
    images = np.empty((len(entries), size, size), dtype=np.uint8)
    for row, (file, number, place, _) in zip(np.argsort(order), entries, strict=True):
        try:
            images[row] = _read_image(check_file(place), size, image_class)
        except UserError as error:
            raise UserError(f"{file}: line {number}: {error}") from None
    labels = np.array([label for *_, label in entries])
    return images, labels[order], num_empty


def _read_image(file: Path, size: int, image_class: Any) -> np.ndarray:
    try:
        # The size is known before anything is decompressed.
        with image_class.open(file, formats=["PNG"]) as image:
            if image.size != (size, size):
                raise UserError(
                    f"{file}: has {image.size[0]} x {image.size[1]} pixels, the task {size} x {size}"
                )
            return np.asarray(image.convert("L"))
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as an image ({error})") from None


def _pillow() -> Any:
    """Pillow comes with matplotlib, not as a dependency of its own; nothing but this task needs it."""
    try:
        from PIL import Image
    except ImportError:
        raise UserError("Pathfinder's images are PNG files, which need Pillow: pip install pillow") from None
    return Image
