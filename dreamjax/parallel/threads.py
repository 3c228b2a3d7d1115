"""One thread for BLAS and LAPACK, whose own threads would wait for each other with their processors spinning.

NumPy, SciPy and, through SciPy, XLA on CPU factor many small matrices here. On all cores each of them costs more than
on one: a training step with the interpolation layer took 90 ms instead of 58 on two idle cores, 830 on busy ones.
"""

import functools
from contextlib import AbstractContextManager

import scipy.linalg  # noqa: F401  (whose library must be loaded before it can be told)
from threadpoolctl import ThreadpoolController


def single() -> AbstractContextManager:
    """A context: one BLAS thread in this process inside the block."""
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # which looks through everything that is loaded: 3 ms
