"""How far one picture is from another, image by image.

Every function takes two batches of RGB pictures, float (N, 3, H, W) in [0, 1], on one device, and
gives one number per image, (N,). A mean over images is the caller's; for PSNR it is not the PSNR of
the mean error. Differences of colour take what `rgb_to_lab` makes of the pictures: it is then made
once.

Of the many Delta E only CIEDE2000 is here: CIE76, the plain distance in Lab, overrates differences
of strong colours several times over. Its parts say more: `compute_chroma_error` and
`compute_hue_error`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raycae.errors import InputError

PSNR_CAP_DB = 100.0
WINDOW = 7
# Wang's constants (0.01 L)^2 and (0.03 L)^2 with L = 1, the range of the pictures.
C1, C2 = 0.01**2, 0.03**2
# Linear sRGB to XYZ, IEC 61966-2-1. White is what it makes of (1, 1, 1), D65 to four digits, so
# that grey (r = g = b) has no chroma at all.
SRGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)


def compute_mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error: the mean of (a - b)^2 over the channels and pixels of an image.

    (N, 3, H, W) twice to (N,); 0 (equal) to 1; squared pixel value, white being 1. Serves chroma
    (N, 2, H, W) as well.
    """
    return (a - b).square().mean(dim=(1, 2, 3))


def compute_psnr_db(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio: 10 log10(1 / MSE), the peak being 1.

    (N, 3, H, W) twice to (N,); 0 to 100 dB, higher is better. Equal pictures would be infinitely
    good and one of them would spoil every mean, so 100 dB (MSE 1e-10) is the cap: one 8-bit step in
    one number of a 32 x 32 picture is 83 dB. Source: ITU-T J.340; Huynh-Thu and Ghanbari 2008.
    """
    return -10 * compute_mse(a, b).clamp_min(10 ** (-PSNR_CAP_DB / 10)).log10()


def compute_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity, averaged over windows and over the three colour channels.

    (N, 3, H, W) twice to (N,); -1 to 1, 1 for equal pictures; no unit. Windows are 7 x 7, uniform,
    lie wholly inside the picture, variances are those of a sample (divided by 48): scikit-image's
    `structural_similarity(channel_axis=-1, data_range=1)`, to 1e-5. Do not compare with figures of
    an 11 x 11 Gaussian window. Raises `InputError` for pictures smaller than the window.
    Source: Wang, Bovik, Sheikh and Simoncelli 2004.
    """
    n, _, height, width = a.shape
    if min(height, width) < WINDOW:
        raise InputError(f"ssim: pictures of {height} x {width} are smaller than 7 x 7")
    # With s = a + b and d = a - b: 2 ab = (s^2 - d^2) / 2 and a^2 + b^2 = (s^2 + d^2) / 2, for the
    # means as for the (co)variances. Two quantities serve for five, and a rounding error of var(s)
    # stands above and below the line: in float32, flat bright areas would be off by 1e-4 without.
    both = torch.cat((a + b, a - b))  # (2 N, 3, H, W)
    offset = both.mean(dim=(2, 3), keepdim=True)  # squares of small numbers lose less
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
    """CIE L*a*b* of sRGB pictures under D65, seen by the 2 degree observer.

    RGB (N, 3, H, W) in [0, 1] to L*, a*, b* (N, 3, H, W): L* from 0 (black) to 100 (white); a*
    (green to red) from -86 to 98 and b* (blue to yellow) from -108 to 94, grey at 0. A distance of
    2.3 is about the least that is seen (Mahy et al. 1994). scikit-image's `rgb2lab`, to 0.01.
    Source: CIE 15:2018; IEC 61966-2-1 for sRGB.
    """
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    red, green, blue = linear.unbind(1)  # each (N, H, W)
    # Sums, not a matrix product, which on a GPU in TF32 would have three digits.
    x, y, z = (
        apply_cube_root((r * red + g * green + b * blue) / (r + g + b)) for r, g, b in SRGB_TO_XYZ
    )
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def compute_delta_e(a: Tensor, b: Tensor) -> Tensor:
    """CIEDE2000: how different two colours look, the mean over the pixels of an image.

    Lab (N, 3, H, W) twice to (N,); 0 (equal) to about 120; no unit, but it is scaled so that 1 is
    about the least difference that is seen between two patches side by side (0.8 in Paravina et al.
    2015). Symmetric; no metric, for the triangle inequality does not hold. scikit-image's
    `deltaE_ciede2000`. Source: CIE 142-2001; Sharma, Wu and Dalal 2005.
    """
    (light_a, red_a, yellow_a), (light_b, red_b, yellow_b) = a.unbind(1), b.unbind(1)
    # Along the red axis greyish colours are spread, for there the eye is finer than Lab.
    plain = (torch.hypot(red_a, yellow_a) + torch.hypot(red_b, yellow_b)) / 2
    spread = 1.5 - compute_strength(plain) / 2
    chroma_a, hue_a = to_polar(red_a * spread, yellow_a)
    chroma_b, hue_b = to_polar(red_b * spread, yellow_b)
    chroma = (chroma_a + chroma_b) / 2
    turn = compute_turn(hue_a, hue_b)
    hue = torch.remainder(hue_a + turn / 2, math.tau)  # halfway, the shorter way round

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
    """How far off the strength of colours is: |C*a - C*b|, C* being the distance from grey in Lab;
    the mean over the pixels of an image.

    Lab (N, 3, H, W) twice to (N,); 0 to 134; units of Lab. Source: CIE 15:2018, delta C*ab.
    """
    return (compute_chroma(a) - compute_chroma(b)).abs().mean(dim=(1, 2))


def compute_hue_error(a: Tensor, b: Tensor) -> Tensor:
    """How far off the hue is: 2 sqrt(C*a C*b) |sin((ha - hb) / 2)|, the mean over the pixels of an
    image.

    Lab (N, 3, H, W) twice to (N,); 0 to about 250; units of Lab, as the chroma error: in one pixel
    the squares of the two and of the difference of L* add up to that of the distance in Lab. Grey
    has no hue, and a greyish colour's angle says little; weighted by the chromas the difference is
    0 where either colour is grey, for then only the chroma is wrong. Source: CIE 15:2018, delta
    H*ab.
    """
    (chroma_a, hue_a), (chroma_b, hue_b) = (to_polar(*x.unbind(1)[1:]) for x in (a, b))
    return compute_chord(chroma_a, chroma_b, compute_turn(hue_a, hue_b)).abs().mean(dim=(1, 2))


def compute_colourfulness(rgb: Tensor) -> Tensor:
    """How colourful a picture looks, M3 of Hasler and Süsstrunk: with rg = R - G and
    yb = (R + G) / 2 - B, sqrt(var rg + var yb) + 0.3 sqrt(mean rg^2 + mean yb^2) over its pixels.

    RGB (N, 3, H, W) to (N,); 0 (grey) to about 300; no unit, on values from 0 to 255, for which the
    authors give words: 15 slightly, 33 moderately, 45 averagely, 59 quite, 82 highly colourful.
    Source: Hasler and Süsstrunk 2003, "Measuring colourfulness in natural images".
    """
    red, green, blue = (255 * rgb).unbind(1)  # each (N, H, W)
    opponents = torch.stack((red - green, (red + green) / 2 - blue), dim=1)  # (N, 2, H, W)
    variance = opponents.var(dim=(2, 3), correction=0).sum(dim=1)
    return variance.sqrt() + 0.3 * opponents.mean(dim=(2, 3)).square().sum(dim=1).sqrt()


def apply_cube_root(t: Tensor) -> Tensor:
    """CIE's: near black a straight line, which would be infinitely steep otherwise."""
    return torch.where(t > (6 / 29) ** 3, t ** (1 / 3), t / (3 * (6 / 29) ** 2) + 4 / 29)


def to_polar(red: Tensor, yellow: Tensor) -> tuple[Tensor, Tensor]:
    """Chroma, and hue in radians from -pi to pi (0 for grey)."""
    return torch.hypot(red, yellow), torch.atan2(yellow, red)


def compute_chroma(lab: Tensor) -> Tensor:
    return torch.hypot(lab[:, 1], lab[:, 2])


def compute_turn(a: Tensor, b: Tensor) -> Tensor:
    """From one hue to the other the shorter way round, in radians from -pi to pi."""
    return torch.remainder(b - a + math.pi, math.tau) - math.pi


def compute_chord(chroma_a: Tensor, chroma_b: Tensor, turn: Tensor) -> Tensor:
    """What a turn of the hue is in Lab, on a circle of the two chromas' geometric mean."""
    return 2 * (chroma_a * chroma_b).sqrt() * torch.sin(turn / 2)


def compute_strength(chroma: Tensor) -> Tensor:
    """0 for greyish colours to 1 for strong ones."""
    seventh = chroma * chroma.square() * chroma.square().square()  # a third of the time of `** 7`
    return (seventh / (seventh + 25**7)).sqrt()


def compute_window_means(planes: Tensor) -> Tensor:
    """Mean of every whole 7 x 7 window: down the columns, then along the rows.

    5 to 8 times as fast on a CPU as `avg_pool2d`; a matrix product would be faster still, but
    on a GPU in TF32 it would not be SSIM to three digits.
    """
    return planes.unfold(2, WINDOW, 1).mean(-1).unfold(3, WINDOW, 1).mean(-1)
