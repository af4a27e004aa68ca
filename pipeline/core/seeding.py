"""Named seeds: every source of randomness has a name, none shares a stream with another."""

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive an independent seed for a named purpose.

    The same arguments give the same seed on every machine, and no state is carried from one draw to the
    next, so that work can be resumed at any named point (an epoch, say) without saving a generator.

    Parameters
    ----------
    seed
        The seed of the study.
    *names
        What the stream is for, for example ``("augmentation", fold, epoch)``.

    Returns
    -------
    int
        A seed in [0, 2**63).

    Examples
    --------
    >>> derive_seed(1, "folds") == derive_seed(1, "folds")
    True
    >>> derive_seed(1, "fold", 1) == derive_seed(1, "fold", 2)
    False
    """
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
