"""The best linear guess at hidden samples: the conditional mean of a Gaussian process fitted on training subjects.

    E[x_h | x_v] = Σ_hv Σ_vv⁻¹ x_v          (x zero-mean; h hidden, v visible samples)

Every mask here hides all channels of a sample at once. A signal is written in spatial components z = Uᵀ x, each with a
covariance over the T samples of a window: the exact conditional mean for Σ = (U ⊗ I) blockdiag(Σ_1 … Σ_K) (U ⊗ I)ᵀ.
Correlation *between* components at different times is left out; on resting EEG it adds about 0.01 to the share
explained. Choices, made on validation subjects:

- basis: `channels` (U = identity, one covariance for all channels) or `components` (U = principal components of the
  channels, own covariances);
- covariance: `sample`, or `stationary` (its diagonals averaged: a Toeplitz matrix);
- shrinkage λ: Σ_k + λ tr(Σ_k) / T · I.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import linalg

Basis = Literal["channels", "components"]
Covariance = Literal["sample", "stationary"]
SHRINKAGES = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
START = 1e-6
FLOOR = 1e-10  # eigenvalues are raised to this share of the largest: an averaged diagonal may leave some below zero

Spectrum = tuple[Float[np.ndarray, "K T"], Float[np.ndarray, "K T T"]]  # eigenvalues, eigenvectors in columns


def toeplitz_row(products: Float[np.ndarray, "T T"], counts: Float[np.ndarray, "T T"]) -> Float[np.ndarray, "T"]:
    """Return the covariance at every lag, from sums of products x_s x_t and how many each is a sum of."""
    T = len(products)
    sums = np.array([np.trace(products, k) for k in range(T)])
    n = np.array([np.trace(counts, k) for k in range(T)])
    return np.divide(sums, n, out=np.zeros(T), where=n > 0)


@dataclass
class SecondMoments:
    """Second moments of training windows: what both covariances are made of."""

    basis: Float[np.ndarray, "C K"]
    products: Float[np.ndarray, "K T T"]
    counts: Float[np.ndarray, "T T"]

    @classmethod
    def gather(
        cls, signal: Float[np.ndarray, "B C T"], valid: Bool[np.ndarray, "B T"], basis: Float[np.ndarray, "C K"]
    ) -> "SecondMoments":
        """Return the second moments of `signal`, in µV and zero where not `valid`."""
        z = np.einsum("ck,bct->kbt", basis, signal, optimize=True)
        v = valid.astype(np.float64)
        return cls(basis, np.matmul(z.transpose(0, 2, 1), z), v.T @ v)

    def pooled(self) -> "SecondMoments":
        """Return one covariance for all components, as of channels that are alike."""
        return SecondMoments(self.basis, self.products.mean(0, keepdims=True), self.counts)

    def spectra(self, kind: Covariance) -> Spectrum:
        """Return covariances in µV² by their eigenvalues, at least FLOOR of the largest, and eigenvectors.

        Pairs of samples that no window has take the stationary value.
        """
        out = np.empty_like(self.products)
        for k, products in enumerate(self.products):
            out[k] = linalg.toeplitz(toeplitz_row(products, self.counts))
            if kind == "sample":
                np.divide(products, self.counts, out=out[k], where=self.counts > 0)
        values, vectors = np.linalg.eigh(out)
        return np.maximum(values, FLOOR * np.maximum(values[:, -1:], np.finfo(float).tiny)), vectors


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A fitted Gaussian: covariances of spatial components over the samples of a window, K = 1 shared by all."""

    basis: Float[np.ndarray, "C K"]
    spectrum: Spectrum
    shrinkage: float

    @cached_property
    def covariances(self) -> Float[np.ndarray, "K T T"]:
        return self._matrices(np.multiply)

    @cached_property
    def precisions(self) -> Float[np.ndarray, "K T T"]:
        return self._matrices(np.divide)

    def _matrices(self, scale: np.ufunc) -> Float[np.ndarray, "K T T"]:
        values, vectors = self.spectrum
        values = values + self.shrinkage * values.mean(axis=1, keepdims=True)
        return np.matmul(scale(vectors, values[:, None, :]), vectors.transpose(0, 2, 1))

    def conditional_mean(
        self, signal: Float[np.ndarray, "B C T"], visible: Bool[np.ndarray, "T"], hidden: Bool[np.ndarray, "T"]
    ) -> Float[np.ndarray, "B C H"]:
        """Return E[hidden | visible] in µV, for windows that share one mask; other samples are unknown.

        Solves with Σ_vv; or, where hidden samples are fewer and nothing is unknown, with the precision Λ = Σ⁻¹, of
        which only the hidden block is needed: E = -Λ_hh⁻¹ Λ_hv x_v.
        """
        v, h = np.flatnonzero(visible), np.flatnonzero(hidden)
        z = np.einsum("ck,bct->kbt", self.basis, signal[:, :, v], optimize=True)
        by_precision = len(h) < len(v) and len(h) + len(v) == signal.shape[2]
        matrices, inner = (self.precisions, h) if by_precision else (self.covariances, v)
        parts = z.reshape(1, -1, len(v)) if len(matrices) == 1 else z  # a shared covariance is solved once
        inner_KxIxI, across_KxHxV = matrices[:, inner[:, None], inner], matrices[:, h[:, None], v]
        seen_KxVxB = parts.transpose(0, 2, 1)
        if by_precision:
            out = -np.linalg.solve(inner_KxIxI, across_KxHxV @ seen_KxVxB)
        else:
            out = across_KxHxV @ np.linalg.solve(inner_KxIxI, seen_KxVxB)
        out = out.transpose(0, 2, 1)
        return np.einsum("ck,kbh->bch", self.basis, out.reshape(z.shape[0], z.shape[1], len(h)), optimize=True)


@dataclass(frozen=True)
class Masked:
    """Windows that share a mask, for choosing a Gaussian: µV and which samples are visible, which hidden."""

    signal: Float[np.ndarray, "B C T"]
    visible: Bool[np.ndarray, "T"]
    hidden: Bool[np.ndarray, "T"]
    scored: Bool[np.ndarray, "B C"]  # real channels


@dataclass(frozen=True)
class Choice:
    """The best candidate on validation subjects, and the share of variance that it explained there."""

    basis: Basis
    covariance: Covariance
    shrinkage: float
    validation_r2: float


class Candidates:
    """Every basis and covariance, fitted once on training windows; `choose` takes the best for a kind of mask."""

    def __init__(self, signal: Float[np.ndarray, "B C T"], valid: Bool[np.ndarray, "B T"]):
        C = signal.shape[1]
        bases: dict[Basis, SecondMoments] = {"channels": SecondMoments.gather(signal, valid, np.eye(C)).pooled()}
        if C > 1:
            flat = signal.transpose(1, 0, 2).reshape(C, -1)
            principal = np.linalg.eigh(flat @ flat.T)[1][:, ::-1]  # of the channels' covariance, the largest first
            bases["components"] = SecondMoments.gather(signal, valid, principal)
        kinds: tuple[Covariance, ...] = ("sample", "stationary")
        self.fitted = {(b, k): (m.basis, m.spectra(k)) for (b, m), k in product(bases.items(), kinds)}

    def make(self, basis: Basis, covariance: Covariance, shrinkage: float = START) -> Gaussian:
        return Gaussian(*self.fitted[basis, covariance], shrinkage)

    def choose(self, validation: Sequence[Masked]) -> Choice:
        """Return the candidate with the largest share explained on hidden samples.

        First basis and covariance are chosen, at λ = START, then λ. Every item of `validation` has the same weight.
        """

        def error(gaussian: Gaussian) -> float:
            return float(np.mean([_share_left(gaussian, m) for m in validation]))

        at_start = {kind: error(self.make(*kind)) for kind in self.fitted}
        basis, covariance = kind = min(at_start, key=lambda kind: at_start[kind])
        errors = {x: at_start[kind] if x == START else error(self.make(*kind, x)) for x in SHRINKAGES}
        shrinkage = min(errors, key=lambda x: errors[x])
        return Choice(basis, covariance, shrinkage, 1 - errors[shrinkage])


def _share_left(gaussian: Gaussian, m: Masked) -> float:
    """Return the squared error on hidden samples over their power."""
    truth = m.signal[:, :, m.hidden]
    error = (truth - gaussian.conditional_mean(m.signal, m.visible, m.hidden)) ** 2
    real = m.scored[:, :, None]
    return float((error * real).sum() / max((truth**2 * real).sum(), np.finfo(float).tiny))
