"""Random keys for initial weights."""

import jax


class Keys:
    """One key after another, those that `nnx.Rngs(params=key)` gives; modules take either as `rngs`.

    The count is a number of Python's. That of `nnx.Rngs` is an array, and to count it up while a program is traced
    means to look through the whole trace so far: for a U-Net, most of the time that its construction takes.
    """

    def __init__(self, key: jax.Array):
        self.key, self.count = key, 0

    def params(self) -> jax.Array:
        self.count += 1
        return jax.random.fold_in(self.key, self.count - 1)
