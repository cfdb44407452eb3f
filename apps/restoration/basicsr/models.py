"""What the networks' own repositories add to BasicSR's models."""

from typing import Any

import torch
from torch import Tensor

from ..tiling import Tiler

# They differ from BasicSR's SRModel in padding to whole windows, which our networks do themselves, and in tiles.
NAMES = ("HATModel", "DRCTModel")


class TiledTest:
    """Placed before BasicSR's SRModel: images are restored in tiles where the option file has ``tile``.

    That holds ``tile_size`` and ``tile_pad``, in pixels: what a tile contributes, and how far it looks beyond on each side.
    """

    opt: dict[str, Any]
    device: torch.device
    lq: Tensor
    output: Tensor

    def test(self) -> None:
        """Set ``output`` to the restored ``lq``, by the averaged weights if there are any."""
        tile = self.opt.get("tile")
        if not tile:
            super().test()  # type: ignore[misc]
            return
        model: Any = self
        bare = model.get_bare_model(model.net_g_ema if hasattr(model, "net_g_ema") else model.net_g)
        network = getattr(bare, "network", None)
        if network is None:
            raise ValueError(f"tile is for networks of geovit, not for {type(bare).__name__}")
        training = bare.training
        bare.eval()
        margin = int(tile["tile_pad"])
        tiler = Tiler(network, self.device, tile=int(tile["tile_size"]) + 2 * margin, overlap=2 * margin)
        self.output = torch.stack([tiler.restored(image_CHW) for image_CHW in self.lq]).to(self.lq.device)
        bare.train(training)
