"""Images and labels in memory."""

from typing import NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """One split: `images` uint8 [N, 32, 32, 3], `labels` int64 [N]."""

    images: np.ndarray
    labels: np.ndarray
