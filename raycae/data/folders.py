"""Open folders of image files or Parquet files, and read image files."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from raycae.data.decoding import (
    IMAGE_SUFFIXES,
    LARGE,
    alone_if,
    blank_images,
    decode,
    run_in_threads,
    warnings_as_errors,
)
from raycae.data.layout import (
    SPLITS,
    Layout,
    Parts,
    describe_deeper,
    find_layout,
    split_of,
    split_of_file,
)
from raycae.data.parquet_images import (
    Footer,
    ParquetRows,
    choose_column,
    read_footer,
    require_bytes,
    require_whole_shards,
)
from raycae.data.scanning import Scan, scan_folder
from raycae.data.sources import Source
from raycae.data.summary import Reason
from raycae.data.types import ImagePool, Indices, Pixels, Pools
from raycae.errors import InputError


def open_folder(source: Source) -> Pools:
    """Find out what a source folder holds; decode nothing.

    Parquet files with an image column are the data set where there are any, and image files
    elsewhere.

    Raises:
        InputError: There are no images, the layout can be read in two ways, a split is empty, or
            Parquet files are damaged, missing or without the chosen column.
    """
    assert source.folder is not None  # not a built-in source
    scan = scan_folder(source.folder)
    footers = {path: read_footer(source.folder / path) for path in scan.parquet}
    if footers and (
        source.column or not scan.images or any(footer.candidates for footer in footers.values())
    ):
        return _open_parquet(source, scan, footers)
    return _open_images(source, scan)


def _open_images(source: Source, scan: Scan) -> Pools:
    if source.column:
        raise InputError(
            f"source {source.text!r}: asks for a column, but there are no Parquet files in it"
        )
    scan.tally.extend(Reason.OTHER, map(str, scan.parquet))
    if not scan.images:
        left_out = "; ".join(map(str, scan.tally.entries()))
        raise InputError(
            f"folder {scan.folder}: holds no images to train on; read are "
            f"{', '.join(IMAGE_SUFFIXES)} and .parquet files"
            + (f". Left out: {left_out}" if left_out else "")
        )
    entries = [(path.parent.parts, path) for path in scan.images]
    groups, layout, places = _divide(source, scan, entries, [1] * len(entries))
    pools = _as_pools(groups, lambda files: ImageFiles(scan.folder, files))
    return replace(
        pools,
        n_classes=_count_classes(places, layout),
        left_out=scan.tally.entries(),
        note="" if layout else describe_deeper(places),
    )


def _open_parquet(source: Source, scan: Scan, footers: dict[Path, Footer]) -> Pools:
    scan.tally.extend(Reason.BESIDE_PARQUET, map(str, scan.images))
    require_whole_shards(scan.folder, list(footers))
    entries = []
    for path in footers:
        name = split_of_file(path.stem)
        entries.append((path.parent.parts + ((path.stem[: len(name)],) if name else ()), path))
    sizes = [footer.n_rows for footer in footers.values()]
    groups, layout, places = _divide(source, scan, entries, sizes)
    chosen = {path: footers[path] for files in groups.values() for path in files}
    column = choose_column(source, chosen)
    for split, files in groups.items():
        if layout and not sum(footers[path].n_rows for path in files):
            raise InputError(
                f"Parquet file {scan.folder / files[0]}: holds no rows, so the {split} split is "
                f"empty. Remove the file, or use {source.with_suffix(splits=False)!r}"
            )
    for path in chosen:
        require_bytes(scan.folder / path, column)
    pools = _as_pools(groups, lambda files: ParquetRows(scan.folder, files, column))
    note = "" if layout else describe_deeper(places)
    return replace(pools, left_out=scan.tally.entries(), note=note)


def _divide(
    source: Source, scan: Scan, entries: list[tuple[Parts, Path]], sizes: list[int]
) -> tuple[dict[str, list[Path]], Layout | None, list[Parts]]:
    """Sort files into splits.

    Args:
        source: The source.
        scan: What its folder holds; what is left out is counted there.
        entries: Place and path of every file.
        sizes: The number of images in every file.

    Returns:
        The files of each split, only "train" where they are one set; the layout; the places of
        the training files.
    """
    size_of = dict(zip((path for _, path in entries), sizes, strict=True))
    linked = _follow_aliases(scan, entries)
    everything = [*entries, *linked]
    places = [parts for parts, _ in everything]
    weights = [size_of[path] for _, path in everything]
    layout = find_layout(source, places, weights, _empty_folders(scan, places))
    if layout is None:
        scan.tally.extend(Reason.LINK, map(str, scan.aliases))
        return {"train": [path for _, path in entries]}, None, [parts for parts, _ in entries]
    used = {name for names in layout.names.values() for name in names}
    unused = [str(link) for link in scan.aliases if link.as_posix() not in used]
    scan.tally.extend(Reason.LINK, unused)
    groups: dict[str, list[Path]] = {}
    owner: dict[Path, str] = {}
    for split in SPLITS:
        if split not in layout.groups:
            continue
        files = groups[split] = sorted({everything[index][1] for index in layout.groups[split]})
        if not files:
            raise InputError(
                f"folder {scan.folder / layout.names[split][0]}: holds no images, so the {split} "
                "split is empty; put some there or remove the folder"
            )
        if twice := next((path for path in files if path in owner), None):
            raise InputError(
                f"source {source.text!r}: {twice} is in the {owner[twice]} and in the {split} "
                "split, through a link between folders; remove the link"
            )
        owner.update(dict.fromkeys(files, split))
    rest = sorted({everything[index][1] for index in layout.rest} - owner.keys())
    for path in rest:
        is_parquet = path.suffix.lower() == ".parquet"
        reason = Reason.FILE_OUTSIDE_SPLITS if is_parquet else Reason.OUTSIDE_SPLITS
        scan.tally.add(reason, str(path))
    return groups, layout, [places[index] for index in layout.groups["train"]]


def _follow_aliases(scan: Scan, entries: Sequence[tuple[Parts, Path]]) -> list[tuple[Parts, Path]]:
    """Return the files behind links that are called like a split, in the place of the link."""
    return [
        (link.parts + parts[len(target.parts) :], path)
        for link, target in scan.aliases.items()
        if split_of(link.name) and len(link.parts) <= 2
        for parts, path in entries
        if parts[: len(target.parts)] == target.parts
    ]


def _empty_folders(scan: Scan, places: Sequence[Parts]) -> set[Parts]:
    """Return the folders without a file of this kind, and without an image, below them."""
    held = {parts[:depth] for parts in places for depth in range(len(parts) + 1)}
    held |= {path.parts[:depth] for path in scan.images for depth in range(len(path.parts))}
    return {folder.parts for folder in scan.folders} - held


def _as_pools(groups: dict[str, list[Path]], pool: Callable[[list[Path]], ImagePool]) -> Pools:
    pools = {split: pool(files) for split, files in groups.items()}
    return Pools(pools["train"], pools.get("validation"), pools.get("test"))


def _count_classes(places: Sequence[Parts], layout: Layout | None) -> int | None:
    """Count the folders that divide the training images, or None where they are in none.

    Args:
        places: The folders that each training image is in.
        layout: The splits; their own folders are no classes.
    """
    if layout:
        depth = layout.names["train"][0].count("/")
        places = [parts[:depth] + parts[depth + 1 :] for parts in places]
    while all(places) and len({parts[0] for parts in places}) == 1:
        places = [parts[1:] for parts in places]
    return len({parts[0] for parts in places}) if all(places) else None


class ImageFiles:
    """One image a file, in the order of their paths."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        """Keep ``files``, relative to ``folder``."""
        self._folder, self._files = folder, files
        self.bad_profiles: list[str] = []

    def __len__(self) -> int:
        return len(self._files)

    def names(self) -> list[str]:
        return [file.as_posix() for file in self._files]

    def take(self, indices: Indices, size: int) -> Pixels:
        out = blank_images(len(indices), size)

        def fill(slot: int) -> None:
            file = self._files[indices[slot]]
            out[slot], has_bad_profile = read_image(self._folder / file, size)
            if has_bad_profile:
                self.bad_profiles.append(file.as_posix())

        run_in_threads(fill, len(indices))
        return out

    def labels(self) -> None:
        return None


def picture(file: Path) -> Pixels:
    """Read the image in ``file`` at its own size, as the images of a folder are read.

    Returns:
        sRGB, uint8 (H, W, 3), 0 to 255.

    Raises:
        InputError: It is no image that can be decoded; the message names the file.
    """
    with warnings_as_errors():
        return read_image(file, None)[0]


def read_image(file: Path, size: int | None) -> tuple[Pixels, bool]:
    """Read and decode one image file; see `decode`."""
    try:
        n_bytes = _n_bytes(file)
        with alone_if(n_bytes > LARGE):
            return decode(file.read_bytes(), str(file), size)
    except OSError as error:
        raise InputError(f"image {file}: cannot be read: {error.strerror}") from error


def _n_bytes(file: Path) -> int:
    """The size of an image file; `InputError` for what cannot be one. A pipe would be waited for,
    and a device has no end."""
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):
        raise InputError(f"image {file}: a folder, a device or a pipe; it has to be a file")
    assert Image.MAX_IMAGE_PIXELS is not None  # nobody sets it
    if about.st_size > (most := 8 * Image.MAX_IMAGE_PIXELS):  # four channels of 16 bits
        raise InputError(f"image {file}: {about.st_size:,} bytes; at most {most:,} are read")
    return about.st_size
