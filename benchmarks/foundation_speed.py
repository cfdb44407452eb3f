"""Time the encoder and a step of pretraining against torchgeo's DOFA and a timm ViT, on this machine.

python benchmarks/foundation_speed.py --threads 2             # some ten minutes, with nothing else running

Images are those of Sentinel-2, 12 bands, 224 x 224 pixels, patch 16. Peers have random weights, and ours the same ones. Peers and
ours take turns in one process, and medians are told.

- encoder: torchgeo's DOFA against ours, read from its state dict; timm's VisionTransformer against our TokenEncoder. Errors are
  the largest differences of features from the peer's float32 ones, over their range.
- pretraining: forward, backward and AdamW of a masked auto-encoder (75 % hidden, decoder of half the width and 4 blocks) made of
  timm's blocks against ours. Errors are those of a gradient, over its largest entry.

In float32 and in bfloat16 (by autocast). A bar that is missed in float32 makes the exit status 1.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

import page
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torchgeo.models import DOFA

from geovit.apps.bench import machine
from geovit.apps.foundation.weights import dofa, satmae
from geovit.core.backbones.token_encoder import TokenEncoder
from geovit.core.blocks.metaformer import mlp_block
from geovit.core.layers.global_attention import GlobalAttention
from geovit.core.layers.sincos import plane
from geovit.core.layers.token_position import TablePosition
from geovit.core.layers.tokenizers import GroupEmbed
from geovit.core.precision import autocast

PARTS = ("encoder", "pretraining")
BAR = 1.2
BANDS = (443.0, 490.0, 560.0, 665.0, 705.0, 740.0, 783.0, 842.0, 865.0, 945.0, 1610.0, 2190.0)
SIDE, PATCH = 224, 16
ROWS = SIDE // PATCH
SIZES = {"S": (384, 6, 12), "B": (768, 12, 12)}  # width, heads, blocks
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CPU = torch.device("cpu")
_norm = functools.partial(nn.LayerNorm, eps=1e-6)

Pair = tuple[Callable[[], Tensor], Callable[[], Tensor]]


def dofa_pair(size: str, x: Tensor) -> Pair:
    """Return calls of torchgeo's DOFA and of ours."""
    dim, heads, depth = SIZES[size]
    torch.manual_seed(0)
    peer = DOFA(img_size=SIDE, patch_size=PATCH, embed_dim=dim, depth=depth, num_heads=heads).eval()
    state = peer.state_dict()
    ours = dofa.build({**(dofa.infer(state) or {}), "num_heads": heads}).eval()
    dofa.load(ours, state)
    micrometres, nanometres = [w / 1000 for w in BANDS], torch.tensor(BANDS)
    return lambda: peer.forward_features(x, micrometres), lambda: ours.features(x, nanometres, 10.0)


def vit_pair(size: str, x: Tensor) -> Pair:
    """Return calls of timm's ViT and of ours."""
    dim, heads, depth = SIZES[size]
    torch.manual_seed(0)
    peer = VisionTransformer(SIDE, PATCH, in_chans=len(BANDS), embed_dim=dim, depth=depth, num_heads=heads, num_classes=0).eval()
    blocks = [mlp_block(dim, GlobalAttention(dim, heads=heads), norm=_norm) for _ in range(depth)]
    position = TablePosition(dim, size=(1, ROWS, ROWS))
    ours = TokenEncoder(GroupEmbed(dim, patch=PATCH, groups=[BANDS]), position, blocks).eval()
    state = {}
    for name, tensor in peer.state_dict().items():
        own = name.replace(".attn.", ".mixer.").replace(".mlp.", ".channel_mixer.")
        state[own.replace("patch_embed.", "tokenizer.embeds.0.")] = tensor
    places = state.pop("pos_embed")
    state["prefix"] = state.pop("cls_token")[0] + places[0, :1]
    state["position.table"] = places[:, 1:].unflatten(1, (ROWS, ROWS))
    ours.load_state_dict(state)
    nanometres = torch.tensor(BANDS)

    def call() -> Tensor:
        encoded = ours(x, nanometres, 10.0)
        return torch.cat([encoded.prefix, encoded.tokens.flatten(1, 3)], dim=1)

    return lambda: peer.forward_features(x), call


class TimmAutoencoder(nn.Module):
    """A masked auto-encoder of timm's blocks, with the names that published ones have."""

    def __init__(self, size: str) -> None:
        super().__init__()
        dim, heads, depth = SIZES[size]
        inner = dim // 2
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(len(BANDS), dim, PATCH, PATCH)})
        self.cls_token, self.mask_token = nn.Parameter(torch.randn(1, 1, dim)), nn.Parameter(torch.randn(1, 1, inner))
        count = torch.arange(float(ROWS))[None]
        for name, width in (("pos_embed", dim), ("decoder_pos_embed", inner)):
            table = plane(count, count, width).flatten(1, 2)
            self.register_buffer(name, torch.cat([torch.zeros(1, 1, width), table], dim=1))
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True, norm_layer=_norm) for _ in range(depth)))
        self.norm, self.decoder_norm = _norm(dim), _norm(inner)
        self.decoder_embed = nn.Linear(dim, inner)
        self.decoder_blocks = nn.Sequential(*(Block(inner, heads, qkv_bias=True, norm_layer=_norm) for _ in range(4)))
        self.decoder_pred = nn.Linear(inner, PATCH * PATCH * len(BANDS))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the mean squared error of hidden patches; ``hidden`` is bool (batch, tokens)."""
        tokens = self.patch_embed["proj"](x).flatten(2).mT + self.pos_embed[:, 1:]
        kept = (~hidden).nonzero()[:, 1].reshape(len(x), -1)[..., None]
        tokens = tokens.gather(1, kept.expand(-1, -1, tokens.shape[2]))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        y = self.decoder_embed(self.norm(self.blocks(torch.cat([first, tokens], dim=1))))
        whole = self.mask_token.to(y.dtype).expand(len(x), ROWS**2, -1)
        whole = whole.scatter(1, kept.expand(-1, -1, y.shape[2]), y[:, 1:])
        y = torch.cat([y[:, :1], whole], dim=1) + self.decoder_pos_embed
        y = self.decoder_pred(self.decoder_norm(self.decoder_blocks(y)))[:, 1:]
        cut = x.unflatten(3, (ROWS, PATCH)).unflatten(2, (ROWS, PATCH))  # batch, bands, rows, p, columns, q
        target = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return ((y.float() - target).square().mean(2) * hidden).sum() / hidden.sum()


def autoencoders(size: str) -> tuple[TimmAutoencoder, nn.Module]:
    """Return the peer, and ours with the same weights."""
    dim, heads, depth = SIZES[size]
    torch.manual_seed(0)
    peer = TimmAutoencoder(size)
    arguments = {
        "img_size": SIDE,
        "patch_size": PATCH,
        "in_chans": len(BANDS),
        "embed_dim": dim,
        "depth": depth,
        "num_heads": heads,
    }
    ours = satmae.build_autoencoder({**arguments, "decoder_embed_dim": dim // 2, "decoder_depth": 4, "decoder_num_heads": heads})
    satmae.load_autoencoder(ours, peer.state_dict())
    return peer, ours


def encoder_row(name: str, pair: Pair, dtype: torch.dtype, args: argparse.Namespace) -> tuple[list[str], bool]:
    """Return a row: images and tokens in a second."""
    peer, ours = pair
    with torch.inference_mode():
        want = peer().float()

        def run(call: Callable[[], Tensor]) -> Tensor:
            with autocast(CPU, dtype):
                return call()

        errors = [float((run(call).float() - want).abs().max() / (want.max() - want.min())) for call in pair]
        taken = page.medians({"peer": lambda: run(peer), "geovit": lambda: run(ours)}, args.runs)
    tokens = args.batch * ROWS**2
    gain = taken["peer"] / taken["geovit"]
    cells = [name, str(dtype).removeprefix("torch."), *(f"{tokens / seconds:.0f}" for seconds in taken.values()), f"{gain:.2f}"]
    return [*cells, *(f"{error:.0e}" for error in errors)], gain >= BAR


def pretraining_row(size: str, dtype: torch.dtype, args: argparse.Namespace) -> tuple[list[str], bool]:
    """Return a row: a step."""
    x = torch.randn(args.batch, len(BANDS), SIDE, SIDE)
    hidden = torch.rand(args.batch, ROWS**2).argsort(1).argsort(1) >= ROWS**2 // 4
    networks = dict(zip(("peer", "geovit"), autoencoders(size), strict=True))
    optimizers = {key: torch.optim.AdamW(network.parameters(), lr=1e-5) for key, network in networks.items()}
    calls: dict[str, Callable[[], Any]] = {
        "peer": lambda: networks["peer"](x, hidden),
        "geovit": lambda: networks["geovit"](x, 10.0, hidden.unflatten(1, (1, ROWS, ROWS))).losses["pixels"],
    }
    gradients: dict[str, Tensor] = {}

    def step(key: str) -> None:
        optimizers[key].zero_grad()
        with autocast(CPU, dtype):
            loss = calls[key]()
        loss.backward()
        if key not in gradients:
            blocks = networks[key].blocks if key == "peer" else networks[key].encoder.blocks
            gradients[key] = blocks[0].norm1.weight.grad.clone()
        optimizers[key].step()

    taken = page.medians({key: functools.partial(step, key) for key in networks}, args.runs)
    worst = float((gradients["geovit"] - gradients["peer"]).abs().max() / gradients["peer"].abs().max())
    gain = taken["peer"] / taken["geovit"]
    cells = [f"ViT-{size}", str(dtype).removeprefix("torch."), *(f"{1e3 * seconds:.0f}" for seconds in taken.values())]
    return [*cells, f"{gain:.2f}", f"{worst:.0e}"], gain >= BAR


def main() -> int:
    """Print the tables; return 1 if a bar is missed in float32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=7, help="of each, after one to warm up")
    parser.add_argument("--batch", type=int, default=4, help="images")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{machine(CPU)}, {args.threads} threads. Batches of {args.batch}, medians of {args.runs} runs in turn.")
    met = []
    if "encoder" in args.only:
        page.heading(["encoder", "precision", "peer, tokens/s", "geovit", "times", "peer's error", "geovit's error"])
        x = torch.randn(args.batch, len(BANDS), SIDE, SIDE)
        for size in args.sizes:
            for name, pair in (("torchgeo DOFA", dofa_pair(size, x)), ("timm ViT", vit_pair(size, x))):
                for key in args.dtypes:
                    cells, good = encoder_row(f"{name}-{size}", pair, DTYPES[key], args)
                    page.show(cells)
                    met.append(good or key != "float32")
    if "pretraining" in args.only:
        page.heading(["pretraining step", "precision", "timm blocks, ms", "geovit", "times", "difference of a gradient"])
        for size in args.sizes:
            for key in args.dtypes:
                cells, good = pretraining_row(size, DTYPES[key], args)
                page.show(cells)
                met.append(good or key != "float32")
    print(f"\nBar: {BAR} times, in float32.")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
