"""`raycae cache`: what raycae keeps between searches."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from raycae.cli.terminal import print_table
from raycae.errors import InputError
from raycae.formatting import make_printable


def show_cache(
    is_cleared: Annotated[
        bool,
        typer.Option(
            "--clear",
            help="Delete decoded images and PCA baselines, which raycae computes again when "
            "needed. Images that a search uses are kept, and so are downloads.",
        ),
    ] = False,
) -> None:
    """Print the content and size of the cache, or clear it.

    The cache is in RAYCAE_CACHE, or else in ~/.cache/raycae. It holds decoded images (at most 10
    GB; the least recently used are deleted first), the errors and components of PCA baselines,
    and CIFAR-10.

    Example: raycae cache
    """
    from rich.table import Table

    from raycae import data
    from raycae.data import image_cache
    from raycae.data.pixel_files import PixelFile

    try:
        folder = data.cache_folder()
    except RuntimeError:
        raise InputError("this user has no home folder: set RAYCAE_CACHE to a folder") from None
    if is_cleared:
        before = measure_folder(folder)
        image_cache.remove_unused()
        with suppress(OSError):  # The folder cannot be read.
            errors = (folder / "baselines").glob(f"{image_cache.NAME}.*")
            components = (folder / "components").glob("*.safetensors")
            partial = (folder / "components").glob("*.partial")
            for path in (*errors, *components, *partial):
                with suppress(OSError):
                    if path.suffix == ".partial":
                        image_cache.remove_unless_used(path)  # A living process locks it.
                    else:
                        path.unlink()
        print(f"deleted {format_size(before - measure_folder(folder))}")
    images = image_cache.list_files()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("decoded images", format_size(measure_folder(folder / image_cache.FOLDER)))
    for file in images:
        with suppress(OSError, ValueError):  # It was deleted meanwhile, or is damaged.
            count, side = PixelFile(file.path).pixels.shape[:2]
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(file.used_s))
            text = f"  {count:,} of {side} x {side}, last used {used}"
            table.add_row(text, format_size(file.n_bytes))
    n_bytes = sum(measure_folder(folder / name) for name in ("baselines", "components"))
    table.add_row("PCA baselines", format_size(n_bytes))
    downloads = measure_folder(folder, "cifar-10*")
    table.add_row("CIFAR-10 (not deleted by --clear)", format_size(downloads))
    print(make_printable(str(folder)))
    print_table(table)


def measure_folder(folder: Path, pattern: str = "*") -> int:
    """Return the size of the files in a folder and below it, in bytes.

    Args:
        folder: The folder; one that does not exist is empty.
        pattern: Names of the entries of the folder that count.
    """
    n_bytes = 0
    with suppress(OSError):  # The folder cannot be read.
        for top in folder.glob(pattern):
            for path in (top, *top.rglob("*")):
                with suppress(OSError):  # It was deleted meanwhile.
                    n_bytes += path.stat().st_size if path.is_file() else 0
    return n_bytes


def format_size(n_bytes: int) -> str:
    """Write a size in GB, MB or kB.

    Args:
        n_bytes: The size in bytes.
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:,.1f} {name}"
    return f"{n_bytes / 1e3:,.1f} kB"
