"""A flow in motion, as a GIF."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from PIL import Image

from ..errors import InputError
from .flow_panels import (
    COLOUR_MAP,
    Array,
    Bounds,
    FlowFrame,
    bare,
    check_bounds,
    check_frames,
    colour_limit,
    draw_density,
    draw_points,
    height_over_width,
    name_of_moment,
)
from .style import COLORS, new_figure, style

__all__ = ["animate_flow"]


def animate_flow(
    frames: Sequence[FlowFrame],
    path: Path,
    bounds: Bounds,
    *,
    fps: int = 20,
    pause: float = 2.0,
    limit: int = 1500,
    dpi: int = 80,
    title: str = "",
) -> None:
    """Write an animation of density and samples over time, whole or not at all.

    The animation repeats, and rests on the last frame. A colour means the same in all frames.
    At the default settings, sixty frames stay under a megabyte.

    Args:
        frames: The moments, in order.
        path: Where to write; the name ends in ``.gif``.
        bounds: Left, right, bottom, top of both panels.
        fps: Frames per second, at most 50: browsers slow down what is faster.
        pause: Seconds that the last frame stays, beyond its turn.
        limit: Draws the first of the samples, at most so many: moving points make a file large.
        dpi: Pixels per inch; each panel is about 3 inches wide.
        title: Title above the moment.

    Raises:
        InputError: If there are no frames, an array has a wrong shape or values that are NaN or
            infinite, or a setting makes no sense.
    """
    bounds = check_bounds(bounds)
    checked = check_frames("frames", frames)
    if path.suffix.lower() != ".gif":
        raise InputError("path", str(path), "a name that ends in .gif")
    for name, value, least, most in (
        ("fps", fps, 1, 50),
        ("pause", pause, 0, 60),
        ("limit", limit, 1, 10**9),
        ("dpi", dpi, 10, 1000),
    ):
        if not least <= value <= most:
            raise InputError(name, str(value), f"a number from {least} to {most}")
    pictures = [*_pictures(checked, bounds, limit, dpi, title)]
    duration = 1000 / fps
    durations = [round(duration)] * (len(pictures) - 1) + [round(duration + 1000 * pause)]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.gif")
    try:
        pictures[0].save(
            temporary,
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            loop=0,
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _pictures(
    frames: Sequence[tuple[float | str, Array, Array]],
    bounds: Bounds,
    limit: int,
    dpi: int,
    title: str,
) -> Iterator[Image.Image]:
    with style():
        figure, (left, right) = new_figure(
            1, 2, width=3.0, height=3.0 * height_over_width(bounds) + (0.7 if title else 0.5)
        )
        most = colour_limit([density for _, density, _ in frames])
        image = draw_density(left, frames[0][1], bounds, most)
        cloud = draw_points(right, frames[0][2][:limit], bounds, color=COLORS[1], s=4, alpha=1)
        for axes, name in ((left, "density"), (right, "samples")):
            axes.set_title(name)
            bare(axes)
        heading = figure.suptitle("")
        palette = _palette()
        for moment, density, samples in frames:
            image.set_data(density)
            cloud.set_offsets(samples[:limit])
            heading.set_text(f"{title}\n{name_of_moment(moment)}".strip())
            with BytesIO() as file:
                figure.savefig(file, format="png", dpi=dpi)
                picture = Image.open(file).convert("RGB")
            # Laid out once: the panels stay where they are, and drawing is ten times as fast.
            figure.set_layout_engine("none")
            yield picture.quantize(palette=palette, dither=Image.Dither.NONE)


def _palette() -> Image.Image:
    """The colours that occur, known beforehand.

    matplotlib's own writer leaves it to Pillow to find a palette for each frame: twice the size,
    and colours that flicker.
    """
    fade = np.linspace(0, 1, 8)[:, None]
    orange = np.array(to_rgb(COLORS[1]))
    colors = np.concatenate(
        [
            colormaps[COLOUR_MAP](np.linspace(0, 1, 96))[:, :3],
            np.linspace(0, 1, 16)[:, None].repeat(3, axis=1),
            orange + (1 - orange) * fade,
        ]
    )
    palette = Image.new("P", (1, 1))
    palette.putpalette([*map(int, np.rint(255 * colors).ravel())])
    return palette
