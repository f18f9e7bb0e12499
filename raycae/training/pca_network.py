"""A PCA baseline as a network, to draw and measure its reconstructions."""

from __future__ import annotations

from torch import Tensor, nn

from raycae.training.baselines import LEVELS, WHOLE_IMAGE, Images


def find_block(name: str, images: Images) -> tuple[int, int]:
    """Return the height and width in pixels of the blocks that a PCA baseline is fitted on.

    Args:
        name: Name of the baseline.
        images: Images, uint8 (N, H, W, 3).
    """
    if name == WHOLE_IMAGE:
        return images.shape[1], images.shape[2]
    height, width = name.removeprefix(f"{WHOLE_IMAGE}_").split("x")
    return int(height), int(width)


class PcaNetwork(nn.Module):
    """A PCA baseline as a network: images are projected on components and back.

    Args:
        block: Height and width of a block in pixels.
        mean: The mean block in pixel values (0 to 255), float (D,), over height, width, rgb.
        components: The components, float (D, n).
    """

    mean: Tensor
    components: Tensor

    def __init__(self, block: tuple[int, int], mean: Tensor, components: Tensor) -> None:
        super().__init__()
        self.block = block
        self.register_buffer("mean", mean.float() / LEVELS)
        self.register_buffer("components", components.float())

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images.

        Args:
            images: RGB, float (N, 3, H, W) in [0, 1].

        Returns:
            Their reconstructions, float (N, 3, H, W); values outside [0, 1] are possible.
        """
        n, _, rows, columns = images.shape
        height, width = self.block
        tiles = images.reshape(n, 3, rows // height, height, columns // width, width)
        tiles = tiles.permute(0, 2, 4, 3, 5, 1)  # (N, rows, columns, height, width, 3)
        x = tiles.reshape(-1, 3 * height * width) - self.mean
        y = (x @ self.components) @ self.components.T + self.mean
        return y.reshape(tiles.shape).permute(0, 5, 1, 3, 2, 4).reshape(images.shape)
