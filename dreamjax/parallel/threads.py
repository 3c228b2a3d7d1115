"""One thread for BLAS and LAPACK, whose own threads would wait for each other with their processors spinning.

NumPy, SciPy and, through SciPy, XLA on CPU factor many small matrices here. On all cores each of them costs more than
on one: a training step with the interpolation layer took 90 ms instead of 58 on two idle cores, 830 on busy ones.
"""

import scipy.linalg  # noqa: F401  (whose library must be loaded before it can be told)
from threadpoolctl import threadpool_limits


def single() -> threadpool_limits:
    """A context: one BLAS thread in this process inside the block."""
    return threadpool_limits(1, user_api="blas")
