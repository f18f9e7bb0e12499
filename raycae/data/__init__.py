"""Sources of images, as uint8 sRGB arrays and disjoint splits.

A source is one of

- ``cifar10``: CIFAR-10, downloaded once into `cache_folder`;
- ``photos``: crops of five colour photographs inside the scikit-image wheel, no download;
- a folder of Parquet files with a column of encoded images, such as a clone from the Hugging Face
  Hub;
- a folder of image files.

``builtin:photos`` and ``builtin:cifar10`` always mean the built-in sources, ``./photos`` always the
folder. A folder may end with a suffix: ``DATA?splits=no``, ``DATA?splits=yes``,
``DATA?column=NAME``; suffixes combine with ``&``.

Which images are the data set:

- **Splits.** ``train``/``training``, ``val``/``valid``/``validation``/``dev`` and
  ``test``/``testing``/``eval`` are splits only if a training split and at least one other exist, at
  the top or one level down in every folder, and contain all images. That holds for folders and for
  Parquet files with such names. In other layouts these are ordinary folders, and everything is one
  set. An ambiguous layout is refused; ``?splits=yes`` and ``?splits=no`` choose. The complete rule
  is in `raycae.data.layout`.
- **Files.** Links to folders are followed; no folder is read twice. Hidden, system and thumbnail
  folders, raycae's own studies, and image formats that are not decoded are left out and counted. A
  damaged image is an error.
- **Parquet.** If there are Parquet files with images, they are the data set, and image files next
  to them are counted. The column ``image`` or ``img`` is used, else the only candidate. Missing
  shards, empty splits and rows without bytes are refused.
- **Colour.** Embedded colour profiles are converted to sRGB.
- **Copies.** An image that is in several splits, equal in every pixel after decoding, stays in one:
  test before validation before training, so that test errors stay comparable with published ones.

Every source becomes three disjoint splits (see `split_indices`). `load` decodes all of them, the
test images to check them and to find their copies. The splits can be stored and loaded again by
name (see `membership`). Everything that is left out is counted: `DataSummary` has the numbers, in
``Images.summary`` and from `summarize`.

CIFAR-10 has a class for each image, and so have Parquet files with a column ``label`` of integers,
as Hugging Face writes them. `load_labels` reads the classes of all splits before a search, so that
missing labels of test images show early.
"""

from raycae.data.cifar10 import cache_folder, describe_download
from raycae.data.colour_profiles import srgb_profile
from raycae.data.decoding import IMAGE_SUFFIXES, to_rgb
from raycae.data.folders import picture
from raycae.data.loading import check, count_images, load, load_labels, load_test, summarize
from raycae.data.membership import Membership
from raycae.data.photos import PHOTOS, Crop, photo_crops
from raycae.data.pixel_files import SharedPixels
from raycae.data.sources import NAMED_SOURCES, is_built_in, require_unambiguous, resolve_source
from raycae.data.splits import LEAST_IMAGES, Split, split_indices
from raycae.data.summary import DataSummary, LeftOut, Reason
from raycae.data.types import Images, Indices, Labels, Pixels

__all__ = [
    "IMAGE_SUFFIXES",
    "LEAST_IMAGES",
    "NAMED_SOURCES",
    "PHOTOS",
    "Crop",
    "DataSummary",
    "Images",
    "Indices",
    "Labels",
    "LeftOut",
    "Membership",
    "Pixels",
    "Reason",
    "SharedPixels",
    "Split",
    "cache_folder",
    "check",
    "count_images",
    "describe_download",
    "is_built_in",
    "load",
    "load_labels",
    "load_test",
    "photo_crops",
    "picture",
    "require_unambiguous",
    "resolve_source",
    "split_indices",
    "srgb_profile",
    "summarize",
    "to_rgb",
]
