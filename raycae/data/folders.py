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
    DamagedImageError,
    decode,
    identify_files,
    lock_large_image,
    require_undamaged,
    run_in_threads,
    warnings_as_errors,
)
from raycae.data.layout import (
    SPLITS,
    Layout,
    Parts,
    describe_deeper,
    find_layout,
    find_split_word,
    parse_split,
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
from raycae.data.summary import Reason, Remark
from raycae.data.types import ImagePool, Indices, Origin, Pixels, PixelTarget, Pools
from raycae.errors import InputError


def open_folder(source: Source) -> Pools:
    """Open a folder of images or Parquet files; decode nothing.

    Parquet files with an image column are the data set if there are any, else image files.

    Args:
        source: The source; its `folder` is opened.

    Returns:
        The images of each split.

    Raises:
        InputError: There are no images, the layout is ambiguous, a split is empty, or Parquet files
            are damaged, missing or without the chosen column.
    """
    assert source.folder is not None  # The source is not a built-in one.
    scan = scan_folder(source.folder)
    footers = {path: read_footer(source.folder / path) for path in scan.parquet}
    if footers and (
        source.column or not scan.images or any(footer.candidates for footer in footers.values())
    ):
        return _open_parquet(source, scan, footers)
    return _open_images(source, scan)


def _open_images(source: Source, scan: Scan) -> Pools:
    """Open a folder of image files."""
    if source.column:
        raise InputError(
            f"source {source.text!r}: ?column= needs Parquet files, but the folder has none"
        )
    scan.tally.extend(Reason.OTHER, map(str, scan.parquet))
    if not scan.images:
        left_out = "; ".join(map(str, scan.tally.list_entries()))
        raise InputError(
            f"folder {scan.folder}: contains no images to train on. Supported formats: "
            f"{', '.join(IMAGE_SUFFIXES)} and .parquet."
            + (f" Left out: {left_out}" if left_out else "")
        )
    entries = [(path.parent.parts, path) for path in scan.images]
    groups, layout, places = _divide(source, scan, entries, [1] * len(entries))
    pools = _make_pools(groups, lambda files: ImageFiles(scan.folder, files))
    return replace(
        pools,
        n_classes=_count_classes(places, layout),
        left_out=scan.tally.list_entries(),
        note="" if layout else describe_deeper(places),
    )


def _open_parquet(source: Source, scan: Scan, footers: dict[Path, Footer]) -> Pools:
    """Open a folder of Parquet files."""
    scan.tally.extend(Reason.BESIDE_PARQUET, map(str, scan.images))
    require_whole_shards(scan.folder, list(footers))
    entries = []
    for path in footers:
        word = find_split_word(path.stem)
        entries.append((path.parent.parts + ((word,) if word else ()), path))
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
    pools = _make_pools(groups, lambda files: ParquetRows(scan.folder, files, column))
    note = "" if layout else describe_deeper(places)
    return replace(pools, left_out=scan.tally.list_entries(), note=note)


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
    layout = find_layout(source, places, weights, _find_empty_folders(scan, places))
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
                f"folder {scan.folder / layout.names[split][0]}: contains no images, so the "
                f"{split} split is empty; put some there or remove the folder"
            )
        if shared := next((path for path in files if path in owner), None):
            raise InputError(
                f"source {source.text!r}: {shared} is in the {owner[shared]} and in the {split} "
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
    """Return the files behind links with the name of a split, at the place of the link."""
    return [
        (link.parts + parts[len(target.parts) :], path)
        for link, target in scan.aliases.items()
        if parse_split(link.name) and len(link.parts) <= 2
        for parts, path in entries
        if parts[: len(target.parts)] == target.parts
    ]


def _find_empty_folders(scan: Scan, places: Sequence[Parts]) -> set[Parts]:
    """Return the folders that contain no such file and no image."""
    held = {parts[:depth] for parts in places for depth in range(len(parts) + 1)}
    held |= {path.parts[:depth] for path in scan.images for depth in range(len(path.parts))}
    return {folder.parts for folder in scan.folders} - held


def _make_pools(groups: dict[str, list[Path]], pool: Callable[[list[Path]], ImagePool]) -> Pools:
    """Make a pool of images for each split."""
    pools = {split: pool(files) for split, files in groups.items()}
    return Pools(pools["train"], pools.get("validation"), pools.get("test"))


def _count_classes(places: Sequence[Parts], layout: Layout | None) -> int | None:
    """Count the folders that divide the training images, or return None without such folders.

    Args:
        places: The folders that contain each training image.
        layout: The splits; their own folders are not classes.
    """
    if layout:
        depth = layout.names["train"][0].count("/")
        places = [parts[:depth] + parts[depth + 1 :] for parts in places]
    while all(places) and len({parts[0] for parts in places}) == 1:
        places = [parts[1:] for parts in places]
    return len({parts[0] for parts in places}) if all(places) else None


class ImageFiles:
    """Image files as an `ImagePool`, in the order of their paths."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        """Keep the files; open none.

        Args:
            folder: The source folder.
            files: Paths relative to it.
        """
        self._folder, self._files = folder, files
        self.remarks: list[Remark] = []

    def __len__(self) -> int:
        return len(self._files)

    def names(self) -> list[str]:
        """Return the path of every image, relative to the source."""
        return [file.as_posix() for file in self._files]

    def decode_into(self, out: PixelTarget, slots: Indices, indices: Indices) -> None:
        """Decode images, see `ImagePool`."""
        problems: dict[int, tuple[str, str]] = {}  # Texts, as exceptions keep whole files alive.

        def fill(job: int) -> None:
            file = self._files[indices[job]]
            try:
                out[slots[job]], reasons = read_image(self._folder / file, out.shape[1])
            except DamagedImageError as error:
                problems[indices[job]] = str(self._folder / file), str(error)
                return
            self.remarks += [(reason, file.as_posix()) for reason in reasons]

        run_in_threads(fill, len(indices))
        require_undamaged([problems[index] for index in sorted(problems)])

    def identify(self, indices: Indices) -> Origin:
        """Describe what decides on the pixels of images, see `ImagePool`."""
        return identify_files(self._folder, [self._files[index] for index in indices])

    def labels(self) -> None:
        """Return None, because folders of image files have no labels."""
        return None


def picture(file: Path) -> Pixels:
    """Read an image file at its own size, with the conversions that training images get.

    Args:
        file: The image file.

    Returns:
        sRGB, uint8 (H, W, 3), 0 to 255.

    Raises:
        InputError: The file cannot be decoded as an image; the message names it.
    """
    with warnings_as_errors():
        return read_image(file, None)[0]


def read_image(file: Path, size: int | None) -> tuple[Pixels, list[Reason]]:
    """Read and decode an image file.

    Args:
        file: The image file.
        size: Side of the square that it is cut and resized to, in pixels; None for its own size.

    Returns:
        sRGB, uint8 (size, size, 3) or (H, W, 3); and what of it is not read as it is.

    Raises:
        InputError: The file is unreadable, damaged or too large.
    """
    try:
        n_bytes = _measure_file(file)
        with lock_large_image(n_bytes > LARGE):
            return decode(file.read_bytes(), str(file), size)
    except OSError as error:
        raise InputError(f"image {file}: cannot be read: {error.strerror}") from error


def _measure_file(file: Path) -> int:
    """Return the size of an image file in bytes.

    Raises:
        InputError: It is not a regular file, or too large. A pipe would block, and a device has no
            end.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"image {file}: is a folder, a device or a pipe; it must be a file")
    assert Image.MAX_IMAGE_PIXELS is not None  # raycae does not change Pillow's limit.
    if status.st_size > (most := 8 * Image.MAX_IMAGE_PIXELS):  # four channels of 16 bits
        raise InputError(f"image {file}: {status.st_size:,} bytes; at most {most:,} are read")
    return status.st_size
