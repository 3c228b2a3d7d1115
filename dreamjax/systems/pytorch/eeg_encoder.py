"""EEG → what Stable Diffusion is conditioned on, in PyTorch and diffusers: the component `eeg_encoder` of a pipeline.

`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` loads it; or alone, with this file imported:

    encoder = EEGEncoder.from_pretrained("folder/eeg_encoder")
    found = encoder(eeg)                         # eeg: (batch, channels, time), µV, encoder.config.sfreq Hz
    found["context"], found["embedding"]         # (batch, S, D), and (batch, P) in the space of CLIP's images

Names of parameters are those of DreamDiffusion's generative checkpoint, behind `cond_stage_model.`; its pointwise
convolutions are linear layers here.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

# in an exported folder the text of that file replaces the next line
from dreamjax.systems.pytorch.masked_autoencoder import MaskedAutoencoder


class EmbeddingHead(nn.Module):
    """A learned weighted sum of the tokens, then a linear map, aligned with CLIP's embedding of an image."""

    def __init__(self, tokens: int, dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.maxpool, self.fc = nn.Linear(tokens, 1), nn.Linear(dim, embedding_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.maxpool(tokens.transpose(1, 2))[..., 0])


class EEGEncoder(ModelMixin, ConfigMixin):
    """The pretrained encoder and the maps of DreamDiffusion (Bai et al., arXiv 2306.16934, sections 3.2 and 3.3).

    Args:
      n_chans … clip: as those of `MaskedAutoencoder`.
      context_tokens, context_dim: of the U-Net's context. hidden: width between tokens and context tokens.
      embedding_dim: width of the embedding that is aligned with images'; 0 for none. time_dim: width of the U-Net's
        time embedding, to which an offset is added; 0 for none.
      unconditional: whether it has `nothing`, the text states of the empty caption: the unconditional input of
        guidance.
    """

    @register_to_config
    def __init__(
        self,
        n_chans: int = 128,
        n_times: int = 512,
        sfreq: float = 256.0,
        chs_info: list | None = None,
        patch_size: int = 4,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_ratio: float = 1.0,
        cls_token: bool = False,
        learned_positions: bool = False,
        scaling: str = "divide",
        divide: float = 10.0,
        clip: float = 0.0,
        context_tokens: int = 77,
        context_dim: int = 768,
        hidden: int = 64,
        embedding_dim: int = 0,
        time_dim: int = 0,
        unconditional: bool = True,
    ) -> None:
        super().__init__()
        shared = ["n_chans", "n_times", "sfreq", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio"]
        shared += ["cls_token", "learned_positions", "scaling", "divide", "clip"]
        self.mae = MaskedAutoencoder(decoder_depth=0, **{name: self.config[name] for name in shared})
        tokens = n_times // patch_size
        self.channel_mapper = nn.Sequential(nn.Linear(tokens, hidden), nn.Linear(hidden, context_tokens))
        self.dim_mapper = nn.Linear(embed_dim, context_dim)
        self.mapping = EmbeddingHead(tokens, embed_dim, embedding_dim) if embedding_dim else None
        self.time_embed_condtion = None
        if time_dim:
            half = context_tokens // 2
            self.time_embed_condtion = nn.Sequential(
                nn.Linear(context_tokens, half), nn.Linear(half, 1), nn.Linear(context_dim, time_dim)
            )
        if unconditional:
            self.register_buffer("nothing", torch.zeros(context_tokens, context_dim))

    def forward(
        self,
        eeg: Tensor,
        scale: Tensor | float | None = None,
        valid: Tensor | None = None,
        sfreq: float | None = None,
    ) -> dict:
        """Return `context` (batch, S, D), and if the model has them `time_offset` (batch, T), `embedding` (batch, P).

        Args:
          eeg: (batch, channels, time) in µV, in the order of `config.chs_info`; scaled here, in float32.
          scale: the recording's scale in µV, a number or (batch,); used by scaling "robust" only.
          valid: (batch, time), 0 where a shorter window was padded; None for all valid.
          sfreq: of eeg, in Hz; checked where given.
        """
        self.mae._check(eeg, sfreq)
        scaled, _, _ = self.mae.scaled(eeg.float(), scale, valid)
        ok = self.mae._valid_tokens(valid)
        tokens = self.mae._encode(scaled.to(self.dtype), ok)[:, int(self.config.cls_token) :]
        if ok is not None:
            tokens = tokens.masked_fill(~ok[:, :, None], 0)
        context = self.dim_mapper(self.channel_mapper(tokens.transpose(1, 2)).transpose(1, 2))
        conditions = {"context": context, **self.time_offset(context)}
        return conditions if self.mapping is None else {**conditions, "embedding": self.mapping(tokens)}

    def time_offset(self, context: Tensor) -> dict:
        """Return {"time_offset": addition to the U-Net's time embedding}, or {} where the model has no such maps."""
        if self.time_embed_condtion is None:
            return {}
        first, second, third = self.time_embed_condtion
        return {"time_offset": third(second(first(context.transpose(1, 2)))[..., 0])}

    def without_eeg(self) -> dict:
        """Return the unconditional input of guidance, the empty caption, a batch of one. Raise ValueError if none."""
        if not self.config.unconditional:
            raise ValueError("this model was trained without an unconditional branch: guidance_scale=1 is none")
        context = self.nothing[None].to(self.dtype)
        return {"context": context, **self.time_offset(context)}
