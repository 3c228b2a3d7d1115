"""A masked-signal EEG autoencoder that dreamjax trained, in PyTorch alone (needs torch and safetensors, no JAX).

    from modeling_dreamjax import MaskedAutoencoder

    model = MaskedAutoencoder.from_pretrained("path/of/this/folder").eval()
    x = ...                                      # (batch, channels, time): µV, model.sfreq Hz, model.ch_names
    pooled = model(x)                            # (batch, embed_dim)
    out = model(x, return_features=True)         # out["features"]: (batch, tokens, embed_dim), out["pooled"], …
    filled = model.reconstruct(x, masked)        # (batch, channels, time), µV; masked: (batch, tokens), True = hidden

    classifier = MaskedAutoencoder.from_pretrained("path/of/this/folder", n_outputs=4)  # a fresh linear final_layer

    python modeling_dreamjax.py                  # compares this machine's results with the ones stored in this folder

Argument names, `final_layer`, `return_features`, `reset_head`, `get_config` and `from_config` are braindecode's.
"""

import hashlib
import inspect
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR_UV = 1e-3  # a window flatter than this is not blown up
NOISE_FLOOR, STRIDE = 1e-4, 10.0  # of the interpolation: least noise, and nepers per unit of its curve
FOREIGN_KEYS = ("dreamjax", "braindecode_version")  # of config.json, which are no arguments of the model


class PatchEmbed(nn.Module):
    """All channels of `patch_size` consecutive samples become one token."""

    def __init__(self, n_chans: int, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv1d(n_chans, dim, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attend: Tensor | None = None) -> Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if attend is None else attend[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block; `attend` (batch, tokens) is False for tokens that are not attended to."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, attend: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), attend)
        return x + self.mlp(self.norm2(x))


class GaussianInterpolation(nn.Module):
    """The conditional mean of a stationary Gaussian process given the visible samples, before any network.

    y = K a with (K_vv + noise) a_v = x_v and a = 0 in hidden samples; K is the Toeplitz covariance of a learned
    spectrum, which `adapt` changes for each window by its cls token. Solved in float64.
    """

    def __init__(self, points: int, dim: int, entries: int, decoder_dim: int) -> None:
        super().__init__()
        self.log_spectrum = nn.Parameter(-torch.log1p((torch.linspace(0, 1, points) / 0.04) ** 2) / STRIDE)
        self.log_noise = nn.Parameter(torch.tensor(math.log(1e-3) / STRIDE))
        self.adapt = nn.Linear(dim, points)
        self.embed = nn.Linear(entries, decoder_dim)

    def forward(self, x: Tensor, visible: Tensor, cls: Tensor) -> Tensor:
        """Map x (batch, channels, time), visible (batch, time), cls (batch, dim) to (batch, channels, time)."""
        time, points = x.shape[2], len(self.log_spectrum)
        curve = (STRIDE * self.log_spectrum + self.adapt(cls)).double()
        place = torch.linspace(0, points - 1, time + 1, dtype=torch.float64, device=x.device)
        between = (1 - (place[None, :] - torch.arange(points, device=x.device)[:, None]).abs()).clamp(min=0)
        log_power = curve @ between
        power = torch.exp(log_power - log_power.amax(1, keepdim=True))
        total = 2 * power.sum(1, keepdim=True) - power[:, :1] - power[:, -1:]
        covariance = torch.fft.irfft(power * 2 * time / total, 2 * time)[:, :time]  # of every lag; variance one
        lag = torch.arange(time, device=x.device)
        k = covariance[:, (lag[:, None] - lag[None, :]).abs()]
        seen = visible.double()
        noise = NOISE_FLOOR + torch.exp(STRIDE * self.log_noise.double())
        system = k * seen[:, :, None] * seen[:, None, :] + torch.diag_embed(noise * seen + 1 - seen)
        known = x.transpose(1, 2).double() * seen[:, :, None]
        solved = torch.cholesky_solve(known, torch.linalg.cholesky(system)) * seen[:, :, None]
        return (k @ solved).transpose(1, 2).to(x.dtype)


def sincos_positions(tokens: int, dim: int) -> Tensor:
    """Return (1, 1 + tokens, dim): a zero row for cls, then all sines and all cosines of t · 10000^(-2i / dim)."""
    frequencies = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * frequencies
    rows = torch.cat([angles.sin(), angles.cos()], dim=1).float()
    return torch.cat([torch.zeros(1, dim), rows])[None]


def _median(x: Tensor) -> Tensor:
    """Return the median over the last axis; for an even number, the mean of the middle two (torch takes the lower)."""
    ordered, n = x.sort(dim=-1).values, x.shape[-1]
    return (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2


def robust_scale(recording: Tensor) -> Tensor:
    """Return the scale of a recording (channels, time) in µV, for `scale=`: median over channels of 1.4826 · MAD."""
    return _median(1.4826 * _median((recording - _median(recording)[..., None]).abs()))


def _window(
    n_chans: int | None,
    chs_info: list[dict] | None,
    n_times: int | None,
    input_window_seconds: float | None,
    sfreq: float | None,
) -> tuple[int, int, float]:
    """Return (channels, samples, Hz) of a window. Raise ValueError where one is missing, or two ways disagree."""
    n_chans = len(chs_info) if n_chans is None and chs_info else n_chans
    if n_times is None and input_window_seconds and sfreq:
        n_times = round(input_window_seconds * sfreq)
    if not n_chans or not n_times or not sfreq:
        raise ValueError("give n_chans (or chs_info), sfreq, and n_times (or input_window_seconds)")
    if chs_info and len(chs_info) != n_chans:
        raise ValueError(f"chs_info lists {len(chs_info)} channels, but n_chans is {n_chans}")
    if input_window_seconds and n_times != round(input_window_seconds * sfreq):
        raise ValueError(f"n_times is {n_times}, but {input_window_seconds} s at {sfreq} Hz are another number")
    return n_chans, n_times, sfreq


class MaskedAutoencoder(nn.Module):
    """See the module. Parameters have the names of DreamDiffusion's `checkpoint.pth`.

    Args:
      n_outputs: classes of `final_layer`; None for pooled features instead of logits.
      n_chans, n_times, sfreq: the windows that it takes; another number of channels or samples is refused.
      chs_info: one dict per channel as `mne.Info["chs"]`: "ch_name", and "loc" whose first three are metres.
      scaling: µV to the network's units. "divide": by `divide`. "robust": by the recording's scale (`scale=` of the
        call, see `robust_scale`; without it each window's own). "zscore": each channel of a window by its mean and SD.
      spectrum_points: points of the interpolation's curve, on which the decoder builds; 0 for no interpolation.
      clip: largest magnitude in the network's units; 0 for none.
      target: "raw", or "patch_normalised" for a decoder whose predictions have lost their scale.
    """

    def __init__(
        self,
        n_outputs: int | None = None,
        n_chans: int | None = None,
        chs_info: list[dict] | None = None,
        n_times: int | None = None,
        input_window_seconds: float | None = None,
        sfreq: float | None = None,
        *,
        patch_size: int = 4,
        embed_dim: int = 192,
        depth: int = 4,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        decoder_embed_dim: int = 128,
        decoder_depth: int = 2,
        decoder_num_heads: int = 4,
        cls_token: bool = True,
        learned_positions: bool = False,
        spectrum_points: int = 0,
        scaling: str = "divide",
        divide: float = 10.0,
        clip: float = 0.0,
        target: str = "raw",
    ) -> None:
        super().__init__()
        n_chans, n_times, sfreq = _window(n_chans, chs_info, n_times, input_window_seconds, sfreq)
        if n_times % patch_size:
            raise ValueError(f"n_times is {n_times}, but it must divide by patch_size = {patch_size}")
        self.n_outputs, self.n_chans, self.chs_info = n_outputs, n_chans, chs_info
        self.n_times, self.sfreq = n_times, sfreq
        self.patch_size, self.embed_dim, self.depth, self.num_heads = patch_size, embed_dim, depth, num_heads
        self.mlp_ratio, self.decoder_embed_dim, self.decoder_depth = mlp_ratio, decoder_embed_dim, decoder_depth
        self.decoder_num_heads, self.learned_positions = decoder_num_heads, learned_positions
        self.spectrum_points = spectrum_points
        self.scaling, self.divide, self.clip, self.target = scaling, divide, clip, target
        self.has_cls = cls_token
        self.provenance: dict = {}  # the entry "dreamjax" of config.json

        tokens = n_times // patch_size
        self.patch_embed = PatchEmbed(n_chans, patch_size, embed_dim)
        if cls_token:
            self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(sincos_positions(tokens, embed_dim), requires_grad=learned_positions)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-5)
        if decoder_depth:
            self._build_decoder(tokens)
        if spectrum_points:
            entries = patch_size * n_chans
            self.interpolation = GaussianInterpolation(spectrum_points, embed_dim, entries, decoder_embed_dim)
        self.final_layer = nn.Identity()
        if n_outputs:
            self.reset_head(n_outputs)

    def _build_decoder(self, tokens: int) -> None:
        dim = self.decoder_embed_dim
        self.decoder_embed = nn.Linear(self.embed_dim, dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.decoder_pos_embed = nn.Parameter(sincos_positions(tokens, dim), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(dim, self.decoder_num_heads, self.mlp_ratio) for _ in range(self.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-5)
        self.decoder_pred = nn.Linear(dim, self.patch_size * self.n_chans)

    # ------------------------------------------------------------------------------------------------------- computing
    def forward(
        self,
        x: Tensor,
        scale: Tensor | float | None = None,
        valid: Tensor | None = None,
        sfreq: float | None = None,
        return_features: bool = False,
    ) -> Any:
        """Return logits (batch, n_outputs), or pooled features (batch, embed_dim) where the model has no head.

        Args:
          x: (batch, channels, time) in µV.
          scale: the recording's scale in µV, a number or (batch,); used by scaling "robust" only.
          valid: (batch, time), 0 where a shorter window was padded; None for all valid.
          sfreq: of x, in Hz; checked where given.
          return_features: a dict instead: "features" (batch, tokens, embed_dim), "cls_token" (batch, embed_dim) or
            None, and "pooled" (batch, embed_dim), the mean of the valid tokens.
        """
        self._check(x, sfreq)
        scaled, _, _ = self.scaled(x, scale, valid)
        ok = self._valid_tokens(valid)
        tokens = self._encode(scaled, ok)
        features = tokens[:, int(self.has_cls) :]
        weight = torch.ones_like(features[:, :, :1]) if ok is None else ok[:, :, None].to(features.dtype)
        pooled = (features * weight).sum(1) / weight.sum(1).clamp(min=1)
        if return_features:
            return {"features": features, "cls_token": tokens[:, 0] if self.has_cls else None, "pooled": pooled}
        return self.final_layer(pooled)

    def reconstruct(
        self,
        x: Tensor,
        masked: Tensor,
        scale: Tensor | float | None = None,
        valid: Tensor | None = None,
        sfreq: float | None = None,
    ) -> Tensor:
        """Return the decoder's signal in µV, (batch, channels, time). `masked` (batch, tokens): True hides a patch."""
        if not self.decoder_depth:
            raise ValueError("this model has an encoder alone and reconstructs nothing")
        if self.target != "raw":
            raise ValueError("this model was trained on normalised targets, so its predictions have no scale")
        self._check(x, sfreq)
        if masked.shape != (len(x), self.n_times // self.patch_size):
            raise ValueError(
                f"masked has shape {tuple(masked.shape)}, but there are {self.n_times // self.patch_size} tokens"
            )
        scaled, gain, offset = self.scaled(x, scale, valid)
        ok = self._valid_tokens(valid)
        visible = ~masked if ok is None else ~masked & ok
        tokens = self._encode(scaled, visible)
        y = self.decoder_embed(tokens)  # what hidden tokens encode to is replaced in the next line
        y = torch.cat([y[:, :1], torch.where(visible[:, :, None], y[:, 1:], self.mask_token)], dim=1)
        y = y + self.decoder_pos_embed
        guess = None
        if self.spectrum_points:
            samples = visible.repeat_interleave(self.patch_size, dim=1)
            guess = self._patches(self.interpolation(scaled, samples, tokens[:, 0]))
            y = y + F.pad(self.interpolation.embed(guess), (0, 0, 1, 0))
        attend = None if ok is None else F.pad(ok, (1, 0), value=True)
        for block in self.decoder_blocks:
            y = block(y, attend)
        patches = self.decoder_pred(self.decoder_norm(y[:, 1:]))
        patches = patches if guess is None else patches + guess
        signal = patches.reshape(len(x), self.n_times, self.n_chans).transpose(1, 2)
        return signal * gain[:, :, None] + offset[:, :, None]

    def scaled(
        self, x: Tensor, scale: Tensor | float | None = None, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (x in network units, gain, offset): µV = units · gain + offset; gain and offset (batch, channels)."""
        if scale is not None and self.scaling != "robust":
            raise ValueError(f"this model scales its input by {self.scaling}, so it takes no scale")
        offset = torch.zeros_like(x[:, :, 0])
        if self.scaling == "divide":
            gain = torch.full_like(offset, self.divide)
        elif self.scaling == "robust":
            factors = robust_scale(x) if scale is None else torch.as_tensor(scale, dtype=x.dtype, device=x.device)
            factors = torch.where(torch.isfinite(factors) & (factors > FLOOR_UV), factors, 1.0)
            gain = factors.reshape(-1, 1).expand_as(offset)
        else:
            weight = torch.ones_like(x[:, :1]) if valid is None else valid[:, None, :].to(x.dtype)
            count = weight.sum(2).clamp(min=1)
            offset = (x * weight).sum(2) / count
            gain = ((weight * (x - offset[:, :, None]) ** 2).sum(2) / count).sqrt()
            gain = torch.where(gain > FLOOR_UV, gain, 1.0)
        units = (x - offset[:, :, None]) * (1 / gain)[:, :, None]
        return (units.clamp(-self.clip, self.clip) if self.clip else units), gain, offset

    def _encode(self, scaled: Tensor, attend: Tensor | None = None) -> Tensor:
        """Return (batch, tokens, embed_dim) after the final norm, the cls token first if the model has one."""
        x = self.patch_embed(scaled) + self.pos_embed[:, 1:]
        if self.has_cls:
            first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
            x = torch.cat([first, x], dim=1)
            attend = None if attend is None else F.pad(attend, (1, 0), value=True)
        for block in self.blocks:
            x = block(x, attend)
        return self.norm(x)

    def _patches(self, signal: Tensor) -> Tensor:
        """Return (batch, tokens, patch_size · channels), each time-major: all channels of t0, of t1, …"""
        return signal.transpose(1, 2).reshape(len(signal), -1, self.patch_size * self.n_chans)

    def _valid_tokens(self, valid: Tensor | None) -> Tensor | None:
        return None if valid is None else valid.reshape(len(valid), -1, self.patch_size).amin(2) > 0

    def _check(self, x: Tensor, sfreq: float | None) -> None:
        if x.ndim != 3 or x.shape[1] != self.n_chans or x.shape[2] != self.n_times:
            raise ValueError(
                f"this model takes (batch, {self.n_chans} channels, {self.n_times} samples), not {tuple(x.shape)}"
            )
        if sfreq is not None and not math.isclose(sfreq, self.sfreq):
            raise ValueError(f"this model takes {self.sfreq:g} Hz, not {sfreq:g} Hz; resample the recording first")

    # ---------------------------------------------------------------------------------------- braindecode's conventions
    @property
    def ch_names(self) -> list[str] | None:
        return [channel["ch_name"] for channel in self.chs_info] if self.chs_info else None

    @property
    def input_window_seconds(self) -> float:
        return self.n_times / self.sfreq

    def reset_head(self, n_outputs: int | None) -> None:
        """Replace `final_layer` by a fresh one of `n_outputs` classes (None: by none, so that features come out)."""
        self.n_outputs = n_outputs
        self.final_layer = nn.Linear(self.embed_dim, n_outputs) if n_outputs else nn.Identity()
        self.final_layer.to(self.norm.weight.device, self.norm.weight.dtype)

    def get_config(self) -> dict:
        """Return every argument of the constructor, ready for JSON, as `from_config` takes it."""
        names = [name for name in inspect.signature(type(self)).parameters if name != "cls_token"]
        return {name: getattr(self, name) for name in names} | {"cls_token": self.has_cls}

    @classmethod
    def from_config(cls, config: dict) -> "MaskedAutoencoder":
        """Return a model with fresh weights."""
        arguments = {name: value for name, value in config.items() if name not in FOREIGN_KEYS}
        unknown = sorted(set(arguments) - set(inspect.signature(cls).parameters))
        if unknown:
            raise ValueError(f"config.json has the key {unknown[0]}, which this version of the model does not know")
        model = cls(**arguments)
        model.provenance = config.get("dreamjax", {})
        return model

    @classmethod
    def from_pretrained(cls, folder: str | Path, **expected: Any) -> "MaskedAutoencoder":
        """Return the model of an exported folder (or of a Hub repository, if huggingface_hub is installed).

        `n_outputs=` gives it a fresh head, unless the folder holds a head of that size. Any other argument, such as
        `n_chans=`, `n_times=`, `sfreq=` or `chs_info=`, must agree with what the weights were trained on.
        """
        folder = Path(folder) if Path(folder).is_dir() else _from_hub(str(folder))
        _check_files(folder, "config.json", "model.safetensors")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        n_outputs = expected.pop("n_outputs", config.get("n_outputs"))
        model = cls.from_config(config | {"n_outputs": None})
        for name, value in expected.items():
            _check_expected(model, name, value)
        if n_outputs:
            model.reset_head(n_outputs)
        head: dict = {name: weights.pop(name) for name in ("final_layer.weight", "final_layer.bias") if name in weights}
        if head and n_outputs and len(head["final_layer.bias"]) == n_outputs:
            weights.update(head)
        expected_names = {name for name in model.state_dict() if name in weights or not name.startswith("final_layer.")}
        if expected_names != set(weights):
            missing, extra = sorted(expected_names - set(weights)), sorted(set(weights) - expected_names)
            raise ValueError(f"{folder}: model.safetensors lacks {missing} and has unexpected {extra}; fetch it again")
        model.load_state_dict(weights, strict=False)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and this file, for example after fine-tuning."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = self.get_config() | {"dreamjax": self.provenance}
        (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        save_file(
            {k: v.contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors", {"format": "pt"}
        )
        (folder / "modeling_dreamjax.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
        (folder / "manifest.json").unlink(missing_ok=True)  # the hashes of the files that these replace


def _check_files(folder: Path, *names: str) -> None:
    """Raise ValueError where a file differs from what dreamjax exported (manifest.json)."""
    path = folder / "manifest.json"
    listed = json.loads(path.read_text(encoding="utf-8"))["files"] if path.is_file() else {}
    for name in names:
        if name in listed and hashlib.sha256((folder / name).read_bytes()).hexdigest() != listed[name]["sha256"]:
            raise ValueError(
                f"{folder}: {name} has changed since it was exported; fetch it again, or delete manifest.json if you "
                "meant to change it"
            )


def _check_expected(model: MaskedAutoencoder, name: str, value: Any) -> None:
    if name == "chs_info":
        have, wanted = model.ch_names, [channel["ch_name"].lower() for channel in value]
        if have and [name.lower() for name in have] != wanted:
            raise ValueError(f"this model takes the channels {', '.join(have)} in this order")
        return
    if not hasattr(model, name):
        raise ValueError(f"this model has no argument {name}")
    have = getattr(model, name)
    if not (math.isclose(have, value) if isinstance(have, float) else have == value):
        raise ValueError(f"this model was trained with {name} = {have}, not {value}")


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise FileNotFoundError(f"{name} is not a folder; to fetch it from the Hub, install huggingface_hub") from None
    return Path(snapshot_download(name))


@torch.no_grad()
def check_parity(folder: str | Path) -> dict[str, float]:
    """Return output → largest difference from dreamjax's (parity.safetensors), relative to the largest magnitude."""
    model = MaskedAutoencoder.from_pretrained(folder)
    stored = load_file(Path(folder) / "parity.safetensors")
    scale = stored.get("scale")
    outputs = model(stored["input"], scale, return_features=True)
    outputs["tokens"] = outputs.pop("features")
    if "reconstruction" in stored:
        outputs["reconstruction"] = model.reconstruct(stored["input"], stored["masked"].bool(), scale)
    names = [name for name in ("tokens", "pooled", "reconstruction") if name in stored]
    return {name: float((outputs[name] - stored[name]).abs().max() / stored[name].abs().max()) for name in names}


def main() -> int:
    folder = Path(__file__).parent
    tolerance = json.loads((folder / "config.json").read_text(encoding="utf-8"))["dreamjax"]["parity_tolerance"]
    differences = check_parity(folder)
    print(json.dumps({"tolerance": tolerance, "differences": differences}))
    return int(max(differences.values()) > tolerance)


if __name__ == "__main__":
    sys.exit(main())
