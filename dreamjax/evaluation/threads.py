"""Many small matrix factorisations run faster on one BLAS thread than on all, where threads wait for each other."""

from contextlib import AbstractContextManager, nullcontext


def single() -> AbstractContextManager:
    """One BLAS thread inside the block, where threadpoolctl (which scikit-learn brings) is installed."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(1, user_api="blas")
