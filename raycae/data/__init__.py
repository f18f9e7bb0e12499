"""Sources of images, as uint8 arrays and disjoint splits.

A source is one of

- ``cifar10``: CIFAR-10, downloaded once into `cache_folder`;
- ``photos``: crops of the colour photographs inside the scikit-image wheel, no download;
- a folder of Parquet files in the Hugging Face image layout: ``train-*.parquet`` and, where
  there are any, ``validation-*.parquet`` and ``test-*.parquet``;
- a folder of image files, with or without ``train``, ``validation`` and ``test`` folders, and with
  or without class folders. Hidden files and links to folders are not followed.

A folder called ``photos`` is reached as ``./photos``.

Every source ends as three disjoint splits (see `split_indices`). Training and validation come from
`load`; the test images come from `load_test` alone, and `load` does not decode them nor, where the
source keeps them apart, open the files they are in.

CIFAR-10 says which class each image is of, and so do Parquet files with a column ``label`` of whole
numbers, as Hugging Face writes them. `load_labels` reads that, of the test images too, so that
nobody learns after a search that they cannot be evaluated.
"""

from raycae.data.cifar10 import cache_folder
from raycae.data.decoding import to_rgb
from raycae.data.folders import IMAGE_SUFFIXES, picture
from raycae.data.loading import NAMED_SOURCES, check, load, load_labels, load_test
from raycae.data.photos import PHOTOS, Crop, photo_crops
from raycae.data.splits import LEAST_IMAGES, Split, split_indices
from raycae.data.types import Images, Indices, Labels, Pixels

__all__ = [
    "IMAGE_SUFFIXES",
    "LEAST_IMAGES",
    "NAMED_SOURCES",
    "PHOTOS",
    "Crop",
    "Images",
    "Indices",
    "Labels",
    "Pixels",
    "Split",
    "cache_folder",
    "check",
    "load",
    "load_labels",
    "load_test",
    "photo_crops",
    "picture",
    "split_indices",
    "to_rgb",
]
