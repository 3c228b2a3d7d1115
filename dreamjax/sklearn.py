"""An encoder as a step of a scikit-learn pipeline.

from dreamjax.sklearn import EncoderFeatures
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

decoder = make_pipeline(EncoderFeatures("runs/tiny", sfreq=250, ch_names=names), LogisticRegression())
decoder.fit(trials, labels)     # trials (n, channels, time) in µV
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

import dreamjax
from dreamjax.errors import UserError, missing_package

try:
    from sklearn.base import BaseEstimator, TransformerMixin
except ImportError as e:
    raise missing_package("scikit-learn", "data", "EncoderFeatures") from e


class EncoderFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Trials → features of a pretrained encoder, which is not trained further.

    Args:
        model: what `dreamjax.load` opens.
        sfreq: Hz of the trials.
        ch_names: of their channels.
        pool: "mean": one vector (D) for each trial; "tokens": all tokens in a row (tokens · D).
    """

    def __init__(
        self, model: str, sfreq: float | None = None, ch_names: Sequence[str] | None = None, pool: str = "mean"
    ):
        self.model, self.sfreq, self.ch_names, self.pool = model, sfreq, ch_names, pool

    def fit(self, X: Float[np.ndarray, "n channels time"], y: object = None) -> "EncoderFeatures":
        """Open the encoder. Nothing is learned from `X`."""
        self.model_ = dreamjax.load(self.model)
        self.n_features_in_ = np.shape(X)[1]
        return self

    def transform(self, X: Float[np.ndarray, "n channels time"]) -> Float[np.ndarray, "n features"]:
        """Return the features of each trial. Raise UserError where a trial cannot be used, as rows would be missing."""
        features = self.model_.encode(np.asarray(X), sfreq=self.sfreq, ch_names=self.ch_names)
        if len(features.pooled) != len(X):
            raise UserError(
                f"{len(X)} trials gave {len(features.pooled)} windows; give trials of one window's length that pass "
                "quality control"
            )
        return np.asarray(features.pooled if self.pool == "mean" else features.tokens.reshape(len(X), -1))
