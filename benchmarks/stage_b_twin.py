"""DreamDiffusion's stage-B step in PyTorch, twice: as the published code takes it, and as one would write it with care.

Both are of diffusers' and transformers' modules, with the encoder of `torch_twin.py`, and compute the same loss.
`published` does what the released code does (arXiv 2306.16934; its waste is noted at the lines that cause it);
`competent` trains the same parameters and computes nothing that is not needed for them. Neither copies its code.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusion_models import alphas, unet_class, unet_fields
from stage_b_sizes import Sizes
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch_twin import Block, positions


# -------------------------------------------------------------------------------------------------------- the networks
class Encoder(nn.Module):
    """The masked autoencoder's encoder without its cls token: (B, channels, samples) → (B, N, dim)."""

    def __init__(self, m: Any, tokens: int, *, remat: bool):
        super().__init__()
        self.embed = nn.Conv1d(m.channels, m.dim, m.patch, m.patch)
        self.positions = nn.Parameter(positions(tokens, m.dim)[:, 1:])
        self.blocks = nn.ModuleList(Block(m.dim, m.heads, m.mlp_ratio) for _ in range(m.depth))
        self.norm, self.remat = nn.LayerNorm(m.dim), remat

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        x = self.embed(signal).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.remat else block(x)
        return self.norm(x)


class Maps(nn.Module):
    """Tokens → context, embedding in CLIP's space, and what is added to the U-Net's time embedding."""

    def __init__(self, tokens: int, dim: int, context: tuple[int, int], hidden: int, projection: int, time: int):
        super().__init__()
        (s, d), half = context, context[0] // 2
        self.tokens = nn.Sequential(nn.Conv1d(tokens, hidden, 1), nn.Conv1d(hidden, s, 1))
        self.dims = nn.Linear(dim, d)
        self.weigh, self.project = nn.Conv1d(tokens, 1, 1), nn.Linear(dim, projection)
        self.time = nn.Sequential(nn.Conv1d(s, half, 1), nn.Conv1d(half, 1, 1), nn.Linear(d, time))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        context = self.dims(self.tokens(tokens))
        return context, self.project(self.weigh(tokens)[:, 0]), self.time(context)[:, 0]


class Networks(nn.Module):
    """All that a step needs; `vae` and `clip` for the published one alone. `twin`: the U-Net of `unet_twin.py`."""

    def __init__(self, sizes: Sizes, *, whole: bool, remat: bool, twin: bool):
        super().__init__()
        m, widths = sizes.config.encoder.model, sizes.parts["unet"]["block_out_channels"]
        tokens = sizes.config.data.samples // m.patch
        self.encoder = Encoder(m, tokens, remat=remat and not whole)
        hidden = sizes.config.model.hidden
        self.maps = Maps(tokens, m.dim, sizes.context, hidden, sizes.projection, 4 * widths[0])
        fields = unet_fields(sizes.parts) | {"class_embed_type": "identity"}
        self.unet = unet_class(twin).from_config(fields).train()
        if remat:
            self.unet.enable_gradient_checkpointing()
        if whole:
            from diffusers import AutoencoderKL
            from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

            fields = {name: value for name, value in sizes.parts["vae"].items() if name != "_class_name"}
            self.vae = AutoencoderKL.from_config(fields).requires_grad_(False).eval()
            self.clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes.parts["image_encoder"])).eval()

    def loss(self, signal: torch.Tensor, z: torch.Tensor, alphas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (the diffusion loss, the embedding of the signal); `alphas`: the schedule's cumulative products."""
        context, ours, time = self.maps(self.encoder(signal))
        t = torch.randint(0, len(alphas), (len(z),), device=z.device)
        noise, share = torch.randn_like(z), alphas[t].view(-1, 1, 1, 1)
        noisy = share.sqrt() * z + (1 - share).sqrt() * noise
        output = self.unet(noisy, t, context, class_labels=time, return_dict=False)[0]
        return F.mse_loss(output.float(), noise), ours.float()


# ----------------------------------------------------------------------------------------------------------- the steps
@dataclass
class Step:
    """Networks, an optimiser and a fixed batch; `step()` is one training step."""

    networks: Networks
    optimiser: torch.optim.Optimizer
    batch: dict[str, torch.Tensor]
    alphas: torch.Tensor
    scale: float
    clip: float
    bfloat16: bool = False

    @property
    def listed(self) -> list[nn.Parameter]:
        return self.optimiser.param_groups[0]["params"]


class Published(Step):
    """The step of the released code, in its order, with its gradient checkpointing of the U-Net."""

    def step(self) -> None:
        with sdpa_kernel(SDPBackend.MATH):  # its attention writes the T × T array
            with torch.no_grad():
                moments = self.networks.vae.encode(self.batch["image"]).latent_dist  # at every step
                z = self.scale * moments.sample()
            diffusion, ours = self.networks.loss(self.batch["signal"], z, self.alphas)
            theirs = self.networks.clip(pixel_values=self.batch["for_clip"]).image_embeds  # at every step, with a graph
            loss = diffusion + 1 - F.cosine_similarity(ours, theirs, dim=-1).mean()
            self.optimiser.zero_grad(set_to_none=False)  # of the listed: all other gradients add up for ever
            loss.backward()
        nn.utils.clip_grad_norm_(self.listed, self.clip)
        self.optimiser.step()


class Competent(Step):
    """The same parameters, cached latents and embeddings, fused kernels, no gradient of what is frozen."""

    def step(self) -> None:
        mean, log_variance = self.batch["mean"], self.batch["log_variance"]
        z = self.scale * (mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.bfloat16):
            diffusion, ours = self.networks.loss(self.batch["signal"], z, self.alphas)
        (diffusion + 1 - F.cosine_similarity(ours, self.batch["embedding"], dim=-1).mean()).backward()
        nn.utils.clip_grad_norm_(self.listed, self.clip, foreach=True)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def listed(networks: Networks, *, published: bool) -> list[nn.Parameter]:
    """Return the parameters that the optimiser gets: 198 M at the published sizes."""
    chosen = [*networks.encoder.parameters(), *networks.maps.parameters()]
    unet = [(name, p) for name, p in networks.unet.named_parameters() if "transformer_blocks" in name]
    chosen += [p for name, p in unet if "attn2" in name or "norm2" in name]
    if not published:
        networks.encoder.positions.requires_grad_(False)
        return [p for p in chosen if p is not networks.encoder.positions]
    # by accident, as names are matched in all that there is: the encoder's once more, and CLIP's
    chosen += [p for name, p in networks.encoder.named_parameters() if "norm2" in name]
    return chosen + [p for name, p in networks.clip.named_parameters() if "layer_norm2" in name]


def made(sizes: Sizes, *, published: bool, remat: bool, compiled: bool = False, twin: bool = False) -> Step:
    """Return a step with random weights, on the GPU where there is one.

    `compiled`: U-Net and encoder by `torch.compile`; `twin`: the U-Net of `unet_twin.py` in place of diffusers'.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    optim = sizes.config.optim
    with device:
        networks = Networks(sizes, whole=published, remat=remat or published, twin=twin)
    if not published:
        for p in networks.unet.parameters():
            p.data = p.data.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p.data
    trained = listed(networks, published=published)
    if not published:
        networks.requires_grad_(False)
        for p in trained:
            p.requires_grad_(True)
    if compiled:
        networks.unet.compile()
        networks.encoder.compile()
    optimiser = torch.optim.AdamW(
        trained,
        lr=optim.learning_rate,
        betas=(optim.beta1, optim.beta2),
        eps=optim.epsilon,
        weight_decay=optim.weight_decay,
        fused=None if published else True,
    )
    given = {"signal": sizes.signal()} | (sizes.images() if published else _channels_first(sizes.cached()))
    batch = {name: torch.from_numpy(x).to(device) for name, x in given.items()}
    kind = Published if published else Competent
    scale, bfloat16 = sizes.parts["vae"]["scaling_factor"], sizes.config.model.dtype == "bfloat16"
    return kind(networks, optimiser, batch, alphas(sizes.parts, device), scale, optim.clip, bfloat16)


def _channels_first(x: dict[str, Any]) -> dict[str, Any]:
    return {name: a.transpose(0, 3, 1, 2).copy() if a.ndim == 4 else a for name, a in x.items()}


# --------------------------------------------------------------------------------------------------------------- bytes
class Living(TorchDispatchMode):
    """Bytes of all storages that are alive, now and at most: what PyTorch makes, not what a kernel needs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        torch.utils._pytree.tree_map_only(torch.Tensor, self.see, (args, result))
        return result

    def see(self, x: torch.Tensor) -> None:
        storage = x.untyped_storage()
        if (key := storage._cdata) not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.gone, key)

    def gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def counted(sizes: Sizes, *, published: bool, remat: bool) -> dict[str, int]:
    """Return the peak bytes of a second step by kind, counted without allocating memory (FakeTensorMode)."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), Living() as living:
        step = made(sizes, published=published, remat=remat)
        step.step()  # makes gradients and moments, which then stay
        living.peak = living.now
        step.step()
        parameters = list(step.networks.parameters())
        kept = {
            "parameters": parameters,
            "gradients": [p if p.grad is None else p.grad for p in parameters if p.requires_grad],
            "optimiser": [x for of_one in step.optimiser.state.values() for x in of_one.values()],
        }
        counts = {name: sum(x.untyped_storage().nbytes() for x in tensors) for name, tensors in kept.items()}
    return counts | {"rest": living.peak - sum(counts.values()), "total": living.peak}
