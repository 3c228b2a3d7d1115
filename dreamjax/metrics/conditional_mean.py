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

Filters leave training windows almost no variance in their stop bands, and the conditional mean relies on that. A window
that was clipped, or recorded with another band, has variance there, which is amplified without bound: one window with
an error of 500 times its power decides the score of all. So each component of a window may take a larger λ than the
chosen one (`Gaussian.adapted_mean`): the one under which its visible samples are most likely, whatever their scale.
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
FIRMER = (*SHRINKAGES, 1e-1, 1.0)  # shrinkages that a window may take
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
        vectors = self.spectrum[1]
        return np.matmul(scale(vectors, self._eigenvalues()[:, None, :]), vectors.transpose(0, 2, 1))

    def _eigenvalues(self) -> Float[np.ndarray, "K T"]:
        values = self.spectrum[0]
        return values + self.shrinkage * values.mean(axis=1, keepdims=True)

    @cached_property
    def firmer(self) -> "Gaussian | None":
        """Return it with the next shrinkage of `FIRMER`; None after the last, and for an exact covariance."""
        larger = [x for x in FIRMER if x > self.shrinkage > 0]
        return Gaussian(self.basis, self.spectrum, larger[0]) if larger else None

    def conditional_mean(
        self, signal: Float[np.ndarray, "B C T"], visible: Bool[np.ndarray, "T"], hidden: Bool[np.ndarray, "T"]
    ) -> Float[np.ndarray, "B C H"]:
        """Return E[hidden | visible] in µV, for windows that share one mask; other samples are unknown."""
        z_KxBxV = np.einsum("ck,bct->kbt", self.basis, signal[:, :, visible], optimize=True)
        return self._in_channels(self._posterior(self._rows(z_KxBxV), visible, hidden)[0], len(signal))

    def adapted_mean(
        self, signal: Float[np.ndarray, "B C T"], visible: Bool[np.ndarray, "T"], hidden: Bool[np.ndarray, "T"]
    ) -> Float[np.ndarray, "B C H"]:
        """Return `conditional_mean` with as much more shrinkage as the visible samples of a component call for."""
        z_KxBxV = np.einsum("ck,bct->kbt", self.basis, signal[:, :, visible], optimize=True)
        rows = self._rows(z_KxBxV)
        mean, likelihood = self._posterior(rows, visible, hidden)
        firmer = self.firmer
        while firmer is not None:
            other, of_other = firmer._posterior(rows, visible, hidden)
            better = of_other > likelihood
            if not better.any():
                break
            mean = np.where(better[:, :, None], other, mean)
            likelihood = np.maximum(likelihood, of_other)
            firmer = firmer.firmer
        return self._in_channels(mean, len(signal))

    def _rows(self, z_KxBxV: np.ndarray) -> np.ndarray:
        """Return the components; those that share one covariance become rows of one, so that it is solved once."""
        return z_KxBxV.reshape(1, -1, z_KxBxV.shape[2]) if len(self.spectrum[0]) == 1 else z_KxBxV

    def _in_channels(self, rows: np.ndarray, windows: int) -> Float[np.ndarray, "B C H"]:
        components = rows.reshape(self.basis.shape[1], windows, rows.shape[2])
        return np.einsum("ck,kbh->bch", self.basis, components, optimize=True)

    def _posterior(
        self, rows: Float[np.ndarray, "K R V"], visible: Bool[np.ndarray, "T"], hidden: Bool[np.ndarray, "T"]
    ) -> tuple[Float[np.ndarray, "K R H"], Float[np.ndarray, "K R"]]:
        """Return E[hidden | visible] of each row, and the log-likelihood of its visible samples at the best scale.

        Solves with Σ_vv; or, where hidden samples are fewer and nothing is unknown, with the precision Λ = Σ⁻¹, of
        which only the hidden block is needed: E = -Λ_hh⁻¹ Λ_hv x_v. The likelihood is -(n log q + log det Σ_vv) / 2
        with q = x_vᵀ Σ_vv⁻¹ x_v, and log det Σ_vv = log det Σ + log det Λ_hh.
        """
        v, h = np.flatnonzero(visible), np.flatnonzero(hidden)
        seen_KxVxR = rows.transpose(0, 2, 1)
        if len(h) < len(v) and len(h) + len(v) == len(visible):
            all_KxTxR = np.zeros((len(rows), len(visible), rows.shape[1]))
            all_KxTxR[:, v] = seen_KxVxR
            pulled_KxTxR = self.precisions @ all_KxTxR
            inner_KxHxH = self.precisions[:, h[:, None], h]
            solved_KxHxR = np.linalg.solve(inner_KxHxH, pulled_KxTxR[:, h])
            mean_KxHxR, log_det = -solved_KxHxR, np.log(self._eigenvalues()).sum(1) + _log_det(inner_KxHxH)
            power = (seen_KxVxR * pulled_KxTxR[:, v]).sum(1) - (pulled_KxTxR[:, h] * solved_KxHxR).sum(1)
        else:
            inner_KxVxV = self.covariances[:, v[:, None], v]
            solved_KxVxR = np.linalg.solve(inner_KxVxV, seen_KxVxR)
            mean_KxHxR, log_det = self.covariances[:, h[:, None], v] @ solved_KxVxR, _log_det(inner_KxVxV)
            power = (seen_KxVxR * solved_KxVxR).sum(1)
        likelihood = -(len(v) * np.log(np.maximum(power, np.finfo(float).tiny)) + log_det[:, None]) / 2
        return mean_KxHxR.transpose(0, 2, 1), likelihood


def _log_det(matrices: Float[np.ndarray, "K n n"]) -> Float[np.ndarray, "K"]:
    return np.asarray(np.linalg.slogdet(matrices)[1])


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
        gaussian, errors = self.make(*kind, SHRINKAGES[0]), {}
        for x in SHRINKAGES:  # windows of the shrinkage before may take each one too, so it is made once
            errors[x] = error(gaussian)
            gaussian = gaussian.firmer or gaussian
        shrinkage = min(errors, key=lambda x: errors[x])
        return Choice(basis, covariance, shrinkage, 1 - errors[shrinkage])


def _share_left(gaussian: Gaussian, m: Masked) -> float:
    """Return the squared error on hidden samples over their power."""
    truth = m.signal[:, :, m.hidden]
    error = (truth - gaussian.adapted_mean(m.signal, m.visible, m.hidden)) ** 2
    real = m.scored[:, :, None]
    return float((error * real).sum() / max((truth**2 * real).sum(), np.finfo(float).tiny))
