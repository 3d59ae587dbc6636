"""Pictures as PNG, for programs that show no SVG: Telegram, for example."""

from __future__ import annotations

import struct
from importlib.resources import as_file, files

import resvg_py

#: Pixels per unit of the SVG image: sharp on the screens of phones.
_SCALE = 2
_FONTS = ("Roboto-Regular.ttf", "Roboto-Bold.ttf")


def as_png(svg: str) -> bytes:
    """Return an SVG image as PNG, in its light colours. Raises ValueError if it is not SVG."""
    with as_file(files("font_roboto") / "files") as folder:
        return resvg_py.svg_to_bytes(
            svg_string=svg,
            zoom=_SCALE,
            skip_system_fonts=True,
            font_files=[str(folder / name) for name in _FONTS],
            sans_serif_family="Roboto",
        )


def is_tall(png: bytes) -> bool:
    """Return whether a PNG image is higher than wide: Telegram would make it small, and unreadable."""
    width, height = struct.unpack(">II", png[16:24])  # of the header, the first chunk of every PNG
    return bool(height > width)
