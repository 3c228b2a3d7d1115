"""Use an exported folder with PyTorch and without JAX: `python demo/torch_encoder.py FOLDER`.

Load the model, compare it with the outputs that dreamjax stored in the folder, and embed two windows.
"""

import json
import sys
from pathlib import Path

FORBIDDEN = ("jax", "jaxlib", "flax", "dreamjax")


def main(folder: str) -> int:
    sys.modules.update(dict.fromkeys(FORBIDDEN))  # type: ignore[arg-type]  # importing one of them raises ImportError
    import torch

    sys.path.insert(0, folder)
    from modeling_dreamjax import MaskedAutoencoder, check_parity

    model = MaskedAutoencoder.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(20 * torch.randn(2, model.n_chans, model.n_times), return_features=True)
    result = {
        "differences": check_parity(folder),
        "tolerance": model.provenance["parity_tolerance"],
        "takes": f"(batch, {model.n_chans} channels, {model.n_times} samples at {model.sfreq:g} Hz) in µV",
        "features": list(outputs["features"].shape),
        "pooled": list(outputs["pooled"].shape),
        "jax_imported": any(sys.modules.get(name) for name in FORBIDDEN),
    }
    print(json.dumps(result))
    return int(max(result["differences"].values()) > result["tolerance"] or result["jax_imported"])


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1], "modeling_dreamjax.py").is_file():
        print("give the folder of an export: dreamjax export RUN --to torch --out FOLDER", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))
