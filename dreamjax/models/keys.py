"""Random keys for initial weights."""

import jax


class Keys:
    """The same sequence of keys as `nnx.Rngs(params=key)`; modules take either as `rngs`.

    The count is a Python number. That of `nnx.Rngs` is an array, and incrementing it while a program is traced scans
    the whole trace: for a U-Net, most of its construction time.
    """

    def __init__(self, key: jax.Array):
        self.key, self.count = key, 0

    def params(self) -> jax.Array:
        """Return the next key."""
        self.count += 1
        return jax.random.fold_in(self.key, self.count - 1)
