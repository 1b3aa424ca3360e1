"""What proxies ask of the masks and values that they learn from."""

import numpy as np


def check_examples(masks: np.ndarray, values: np.ndarray) -> None:
    """Raises:
    ValueError: there is nothing to learn from, or a value is not finite.
    """
    if not masks.size:
        raise ValueError(f"nothing to learn from: masks have the shape {masks.shape}")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row = int(bad[0][0])
        raise ValueError(
            f"the value of mask {row} is {values[tuple(bad[0])]}: leave out masks without a value"
        )
