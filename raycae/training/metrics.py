"""Differences between images, one value per image.

Every function takes two batches of RGB images on one device, float (N, 3, H, W) in [0, 1]. The
caller averages over images; for PSNR, that is not the PSNR of the mean error. Differences of
colour take Lab images, so that `rgb_to_lab` runs once.

Of the many Delta E only CIEDE2000 is here. CIE76, the plain distance in Lab, exaggerates
differences of strong colours several times over. `compute_chroma_error` and `compute_hue_error`
tell its parts apart.

scikit-image has the colour functions, too, for one image on the CPU. These run on batches and on a
GPU, and their white is exact. The tests compare them with scikit-image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raycae.errors import InputError

PSNR_CAP_DB = 100.0
"""PSNR of equal images in dB, in place of infinity."""
WINDOW = 7
"""Side of the windows of SSIM in pixels."""
C1, C2 = 0.01**2, 0.03**2
"""Wang's constants (0.01 L)² and (0.03 L)² with L = 1, the range of the images."""
SRGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
"""Linear sRGB to XYZ, IEC 61966-2-1.

White is its value at (1, 1, 1), which is D65 to four digits. So grey (r = g = b) has no chroma.
"""


def compute_mse(a: Tensor, b: Tensor) -> Tensor:
    """Compute the mean squared error of each image, over its channels and pixels.

    Args:
        a: Images, float (N, C, H, W); chroma (N, 2, H, W) is allowed, too.
        b: Images, same shape.

    Returns:
        MSE, float (N,), 0 (equal) to 1 for values in [0, 1].
    """
    return (a - b).square().mean(dim=(1, 2, 3))


def compute_psnr_db(a: Tensor, b: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio of each image: 10 log10(1 / MSE), the peak being 1.

    Equal images would have an infinite PSNR, and one of them would spoil every mean. So 100 dB
    (MSE 1e-10) is the cap: one 8-bit step in one value of a 32 x 32 image is 83 dB.
    Source: ITU-T J.340; Huynh-Thu and Ghanbari 2008.

    Args:
        a: RGB images, float (N, 3, H, W) in [0, 1].
        b: RGB images, same shape.

    Returns:
        PSNR in dB, float (N,), 0 to 100; higher is better.
    """
    return convert_mse_to_psnr_db(compute_mse(a, b))


def convert_mse_to_psnr_db(mse: Tensor) -> Tensor:
    """Convert mean squared errors of images to PSNR, see `compute_psnr_db`.

    Args:
        mse: Mean squared errors, float.

    Returns:
        PSNR in dB, float of the same shape.
    """
    return -10 * mse.clamp_min(10 ** (-PSNR_CAP_DB / 10)).log10()


def compute_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Compute the structural similarity of each image, averaged over windows and channels.

    Windows are 7 x 7, uniform and completely inside the image; variances are those of a sample
    (divided by 48). That is scikit-image's `structural_similarity(channel_axis=-1, data_range=1)`,
    to 1e-5. It is not comparable with values of an 11 x 11 Gaussian window. Source: Wang, Bovik,
    Sheikh and Simoncelli 2004.

    Args:
        a: RGB images, float (N, 3, H, W) in [0, 1].
        b: RGB images, same shape.

    Returns:
        SSIM, float (N,), -1 to 1; 1 for equal images.

    Raises:
        InputError: The images are smaller than the window.
    """
    n, _, height, width = a.shape
    if min(height, width) < WINDOW:
        raise InputError(f"ssim: pictures of {height} x {width} are smaller than 7 x 7")
    # With s = a + b and d = a - b: 2 ab = (s² - d²) / 2 and a² + b² = (s² + d²) / 2, for the means
    # as for the (co)variances. Two quantities replace five, and a rounding error of var(s) is in
    # both numerator and denominator. Otherwise flat bright areas are off by 1e-4 in float32.
    both = torch.cat((a + b, a - b))  # (2 N, 3, H, W)
    offset = both.mean(dim=(2, 3), keepdim=True)  # Squares of small numbers lose fewer digits.
    both = both - offset
    means, squares = compute_window_means(torch.cat((both, both.square()))).split(2 * n)
    variances = (squares - means.square()) * (WINDOW**2 / (WINDOW**2 - 1))
    s_mean, d_mean = (means + offset).square().split(n)  # squared, (N, 3, H - 6, W - 6)
    s_var, d_var = variances.split(n)
    luminance = ((s_mean - d_mean) / 2 + C1) / ((s_mean + d_mean) / 2 + C1)
    structure = ((s_var - d_var) / 2 + C2) / ((s_var + d_var) / 2 + C2)
    similarity: Tensor = luminance * structure
    return similarity.mean(dim=(1, 2, 3))


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB to CIE L*a*b* under D65 for the 2 degree observer.

    A distance of 2.3 is about the smallest visible difference (Mahy et al. 1994). The result equals
    scikit-image's `rgb2lab` to 0.01. Source: CIE 15:2018; IEC 61966-2-1 for sRGB.

    Args:
        rgb: RGB images, float (N, 3, H, W) in [0, 1].

    Returns:
        L*, a*, b*, float (N, 3, H, W): L* from 0 (black) to 100 (white), a* (green to red) from -86
        to 98, b* (blue to yellow) from -108 to 94; grey has a* = b* = 0.
    """
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    red, green, blue = linear.unbind(1)  # each (N, H, W)
    # A matrix product would have three correct digits on a GPU in TF32.
    x, y, z = (
        apply_cube_root((r * red + g * green + b * blue) / (r + g + b)) for r, g, b in SRGB_TO_XYZ
    )
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def compute_delta_e(a: Tensor, b: Tensor) -> Tensor:
    """Compute CIEDE2000, the perceived difference of colours, averaged over pixels.

    It is scaled so that 1 is about the smallest difference that is visible between two patches side
    by side (0.8 in Paravina et al. 2015). It is symmetric, but not a metric, because the triangle
    inequality does not hold. It equals scikit-image's `deltaE_ciede2000`.
    Source: CIE 142-2001; Sharma, Wu and Dalal 2005.

    Args:
        a: Lab images, float (N, 3, H, W), from `rgb_to_lab`.
        b: Lab images, same shape.

    Returns:
        CIEDE2000, float (N,), 0 (equal) to about 120, without unit.
    """
    (light_a, red_a, yellow_a), (light_b, red_b, yellow_b) = a.unbind(1), b.unbind(1)
    # Greyish colours are spread along a*, because the eye distinguishes more there than Lab does.
    plain = (torch.hypot(red_a, yellow_a) + torch.hypot(red_b, yellow_b)) / 2
    spread = 1.5 - compute_strength(plain) / 2
    chroma_a, hue_a = to_polar(red_a * spread, yellow_a)
    chroma_b, hue_b = to_polar(red_b * spread, yellow_b)
    chroma = (chroma_a + chroma_b) / 2
    turn = compute_turn(hue_a, hue_b)
    hue = torch.remainder(hue_a + turn / 2, math.tau)  # the mean hue, the shorter way round

    from_grey = ((light_a + light_b) / 2 - 50).square()
    light = (light_b - light_a) / (1 + 0.015 * from_grey / (20 + from_grey).sqrt())
    purity = (chroma_b - chroma_a) / (1 + 0.045 * chroma)
    ripple = (
        1
        - 0.17 * torch.cos(hue - math.radians(30))
        + 0.24 * torch.cos(2 * hue)
        + 0.32 * torch.cos(3 * hue + math.radians(6))
        - 0.20 * torch.cos(4 * hue - math.radians(63))
    )
    tint = compute_chord(chroma_a, chroma_b, turn) / (1 + 0.015 * chroma * ripple)
    blueness = torch.exp(-((torch.rad2deg(hue) - 275) / 25).square())
    twist = 2 * compute_strength(chroma) * torch.sin(math.radians(60) * blueness)
    squared = light.square() + purity.square() + tint.square() - twist * purity * tint
    return squared.clamp_min(0).sqrt().mean(dim=(1, 2))


def compute_chroma_error(a: Tensor, b: Tensor) -> Tensor:
    """Compute the error in the strength of colours, averaged over the pixels of an image.

    It is |C*a - C*b|, with C* the distance from grey in Lab. Source: CIE 15:2018, delta C*ab.

    Args:
        a: Lab images, float (N, 3, H, W), from `rgb_to_lab`.
        b: Lab images, same shape.

    Returns:
        The error in units of Lab, float (N,), 0 to 134.
    """
    return (compute_chroma(a) - compute_chroma(b)).abs().mean(dim=(1, 2))


def compute_hue_error(a: Tensor, b: Tensor) -> Tensor:
    """Compute the error in hue, averaged over the pixels of an image.

    It is 2 sqrt(C*a C*b) |sin((ha - hb) / 2)|. In one pixel, the squares of this, of the chroma
    error and of the difference of L* add up to that of the distance in Lab. Grey has no hue, and
    the angle of a greyish colour means little. Weighted by the chromas, the error is 0 where either
    colour is grey, because only the chroma is wrong then. Source: CIE 15:2018, delta H*ab.

    Args:
        a: Lab images, float (N, 3, H, W), from `rgb_to_lab`.
        b: Lab images, same shape.

    Returns:
        The error in units of Lab, float (N,), 0 to about 250.
    """
    (chroma_a, hue_a), (chroma_b, hue_b) = (to_polar(*x.unbind(1)[1:]) for x in (a, b))
    return compute_chord(chroma_a, chroma_b, compute_turn(hue_a, hue_b)).abs().mean(dim=(1, 2))


def compute_colourfulness(rgb: Tensor) -> Tensor:
    """Compute how colourful images look: M3 of Hasler and Süsstrunk.

    With rg = R - G and yb = (R + G) / 2 - B, it is sqrt(var rg + var yb) + 0.3 sqrt(mean rg² + mean
    yb²) over the pixels. The authors call 15 slightly, 33 moderately, 45 averagely, 59 quite and 82
    highly colourful. Source: Hasler and Süsstrunk 2003, "Measuring colourfulness in natural
    images".

    Args:
        rgb: RGB images, float (N, 3, H, W) in [0, 1].

    Returns:
        Colourfulness on values from 0 to 255, float (N,), 0 (grey) to about 300, without unit.
    """
    red, green, blue = (255 * rgb).unbind(1)  # each (N, H, W)
    opponents = torch.stack((red - green, (red + green) / 2 - blue), dim=1)  # (N, 2, H, W)
    variance = opponents.var(dim=(2, 3), correction=0).sum(dim=1)
    return variance.sqrt() + 0.3 * opponents.mean(dim=(2, 3)).square().sum(dim=1).sqrt()


def apply_cube_root(t: Tensor) -> Tensor:
    """Apply CIE's cube root, which is a straight line near black to bound its slope.

    Args:
        t: Relative tristimulus values, float, any shape.

    Returns:
        The roots, same shape.
    """
    return torch.where(t > (6 / 29) ** 3, t ** (1 / 3), t / (3 * (6 / 29) ** 2) + 4 / 29)


def to_polar(red: Tensor, yellow: Tensor) -> tuple[Tensor, Tensor]:
    """Convert a* and b* to chroma and hue.

    Args:
        red: a*, float (N, H, W).
        yellow: b*, float (N, H, W).

    Returns:
        Chroma, and hue in radians from -pi to pi (0 for grey), both (N, H, W).
    """
    return torch.hypot(red, yellow), torch.atan2(yellow, red)


def compute_chroma(lab: Tensor) -> Tensor:
    """Compute the chroma, the distance from grey in Lab.

    Args:
        lab: Lab images, float (N, 3, H, W).

    Returns:
        Chroma, float (N, H, W).
    """
    return torch.hypot(lab[:, 1], lab[:, 2])


def compute_turn(a: Tensor, b: Tensor) -> Tensor:
    """Compute the angle from one hue to another, the shorter way round.

    Args:
        a: Hue in radians, any shape.
        b: Hue in radians, same shape.

    Returns:
        The angle in radians from -pi to pi.
    """
    return torch.remainder(b - a + math.pi, math.tau) - math.pi


def compute_chord(chroma_a: Tensor, chroma_b: Tensor, turn: Tensor) -> Tensor:
    """Compute the distance in Lab that a turn of the hue causes.

    It is measured on a circle whose radius is the geometric mean of the two chromas.

    Args:
        chroma_a: Chroma of the first colour, any shape.
        chroma_b: Chroma of the second colour, same shape.
        turn: Angle between their hues in radians, same shape.

    Returns:
        The signed distance in units of Lab.
    """
    return 2 * (chroma_a * chroma_b).sqrt() * torch.sin(turn / 2)


def compute_strength(chroma: Tensor) -> Tensor:
    """Compute CIEDE2000's weight of strong colours: sqrt(C⁷ / (C⁷ + 25⁷)).

    Args:
        chroma: Chroma, any shape.

    Returns:
        The weight: 0 for greyish colours to 1 for strong ones.
    """
    seventh = chroma * chroma.square() * chroma.square().square()  # a third of the time of `** 7`
    return (seventh / (seventh + 25**7)).sqrt()


def compute_window_means(planes: Tensor) -> Tensor:
    """Compute the mean of every complete 7 x 7 window: down the columns, then along the rows.

    This is 5 to 8 times as fast on a CPU as `avg_pool2d`. A matrix product would be faster still,
    but on a GPU in TF32 SSIM would not have three correct digits.

    Args:
        planes: Planes, float (N, C, H, W).

    Returns:
        Means, float (N, C, H - 6, W - 6).
    """
    return planes.unfold(2, WINDOW, 1).mean(-1).unfold(3, WINDOW, 1).mean(-1)
