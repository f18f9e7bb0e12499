"""List the image and Parquet files of a folder; count other files by reason."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from raycae.data.decoding import IMAGE_SUFFIXES
from raycae.data.summary import Reason, Tally
from raycae.errors import InputError

_KNOWN_SUFFIXES = """
.3fr .ai .apng .arw .avif .bpg .cr2 .cr3 .crw .cur .dcm .dcr .dds .dib .djvu .dng .emf .eps .erf
.exr .fit .fits .flif .fpx .hdr .heic .heics .heif .hif .icns .ico .iiq .im .j2c .j2k .jp2 .jpc
.jpf .jph .jpm .jpx .jxl .jxr .kdc .mos .mpo .mrw .msp .nef .nrw .orf .pam .pbm .pcd .pcx .pef
.pfm .pgm .pic .pict .pix .pnm .ppm .ps .psb .psd .ptx .qoi .raf .ras .raw .rgb .rgba .rle .rw2
.rwl .sgi .sr2 .srf .srw .svg .svgz .tga .wbmp .wdp .wmf .x3f .xbm .xcf .xpm
"""
UNREAD_SUFFIXES = frozenset(_KNOWN_SUFFIXES.split()) - set(IMAGE_SUFFIXES)
"""Suffixes of image files that are counted and named, but not decoded."""

SYSTEM_FOLDERS = frozenset(
    {
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "@__thumb",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "@sharebin",
        "@tmp",
        "__macosx",
        "__pycache__",
        "found.000",
        "lost+found",
        "network trash folder",
        "recycled",
        "recycler",
        "system volume information",
        "temporary items",
        "~snapshot",
    }
)
"""Names, in lower case, of folders that an operating system or a file server creates.

A name that begins with a full stop is hidden as well.
"""

SYSTEM_FILES = frozenset({"desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "icon\r", "thumbs.db"})
"""Names, in lower case, of files that an operating system creates in folders of images."""


@dataclass
class Scan:
    """The content of a source folder. All paths are relative to it and sorted.

    Attributes:
        folder: The source folder.
        images: Image files that may be decoded.
        parquet: Parquet files.
        folders: Every folder below the source, the empty ones too.
        aliases: Links to folders that are read under another path: link to that path.
        tally: What was left out so far.
    """

    folder: Path
    images: list[Path] = field(default_factory=list)
    parquet: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    aliases: dict[Path, Path] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)


def scan_folder(folder: Path) -> Scan:
    """List the content of a source folder, through links to folders.

    No folder is read twice: a link to a folder that is read under another path is an alias. A link
    to the source or to a folder around it is counted and not followed. Hidden, system and thumbnail
    folders and raycae's own studies are counted and not read.

    Args:
        folder: The source folder.

    Returns:
        The files by kind, and what is left out.

    Raises:
        InputError: A folder cannot be listed, or the source is a study or inside of one.
    """
    root = Path(os.path.realpath(folder))
    if study := next((path for path in (root, *root.parents) if is_study(path)), None):
        raise InputError(
            f"folder {folder}: {study} is a raycae study. Files that a study writes cannot be used "
            "as a data set. Choose the folder of the original images"
        )
    scan = Scan(folder)
    read: dict[Path, Path] = {}  # real path to the path it is read under
    links: deque[Path] = deque([Path()])
    while links:
        link = links.popleft()
        target = Path(os.path.realpath(folder / link))
        if link != Path() and (target == root or target in root.parents):
            scan.tally.add(Reason.LINK, str(link))
        elif any(is_study(parent) for parent in target.parents):
            _count_inside(scan, Reason.STUDY, link)
        elif target in read:
            scan.aliases[link] = read[target]
        else:
            links.extend(_walk(scan, link, target, read))
    scan.images.sort()
    scan.parquet.sort()
    scan.folders.sort()
    return scan


def is_study(folder: Path) -> bool:
    """Return whether a folder holds a study.

    Args:
        folder: The folder.

    Returns:
        Whether it does; False for a folder that cannot be read.
    """
    try:
        return (folder / "study.json").is_file() and (folder / "ledger").is_dir()
    except OSError:  # An unreadable folder has nothing to read.
        return False


def _walk(scan: Scan, top: Path, target: Path, read: dict[Path, Path]) -> list[Path]:
    """List ``top`` and the folders below it; return the links to folders, sorted."""
    links: list[Path] = []
    pending = deque([(top, target)])
    while pending:
        path_within, real_path = pending.popleft()
        if real_path in read:  # A link led into this folder before.
            scan.aliases[path_within] = read[real_path]
            continue
        read[real_path] = path_within
        if path_within != Path():
            scan.folders.append(path_within)
        for entry in _list_entries(scan.folder / path_within):
            path = path_within / entry.name
            if _is_folder(entry):
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FOLDERS:
                    _count_inside(scan, Reason.HIDDEN, path)
                elif is_study(scan.folder / path):
                    _count_inside(scan, Reason.STUDY, path)
                elif entry.is_symlink():
                    links.append(path)
                else:
                    pending.append((path, real_path / entry.name))
            else:
                _sort_file(scan, path)
    return sorted(links)


def _sort_file(scan: Scan, path: Path) -> None:
    """Add a file to the list of its kind."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if name.startswith(".") or name in SYSTEM_FILES:
        scan.tally.add(Reason.HIDDEN, str(path))
    elif suffix in IMAGE_SUFFIXES:
        scan.images.append(path)
    elif suffix == ".parquet":
        scan.parquet.append(path)
    elif suffix in UNREAD_SUFFIXES:
        scan.tally.add(Reason.CANNOT_DECODE, str(path))
    else:
        scan.tally.add(Reason.OTHER, str(path))


def _list_entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"folder {folder}: cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _count_inside(scan: Scan, reason: Reason, folder: Path) -> None:
    """Count the image and Parquet files below a folder that is not read; at least one."""
    suffixes = {*IMAGE_SUFFIXES, *UNREAD_SUFFIXES, ".parquet"}
    files = sorted(
        Path(folder_path, name).relative_to(scan.folder)
        for folder_path, _, names in os.walk(scan.folder / folder)
        for name in names
        if Path(name).suffix.lower() in suffixes
    )
    scan.tally.extend(reason, map(str, files or [folder]))
