"""LESS ViT of uiuctml/LESSViT, and of its predecessor uiuctml/GeospatialFM: encoders and auto-encoders."""

import torch
from torch.func import functional_call

from geovit.apps.foundation.published.less import SPECTRUM
from geovit.apps.foundation.weights import less


class Grid(torch.nn.Module):
    """An encoder with its class tokens."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, *call):
        return self.encoder.grid(self.encoder.embed(*call))


def prepared(case, build, state):
    """The module, its state, and image, wavelengths and metres of a pixel to call it with."""
    config = dict(case.constructor["config"])
    image, waves = case.input["optical"], case.input["optical_wavelengths"][0]
    rotary = config.get("use_rope_embed", False)
    if rotary and waves.max() <= 2:  # scaled by the official program before
        waves = SPECTRUM[0] + waves * (SPECTRUM[1] - SPECTRUM[0])
    elif rotary:
        config["spectrum"] = (0.0, 1.0)
    module = build(config).to(image.dtype)
    ours = state(case.state)
    assert {key: t.shape for key, t in module.state_dict().items()} == {key: t.shape for key, t in ours.items()}
    return module, ours, (image, waves, float(case.constructor.get("spatial_resolution", 10)))


def encoder(case, *, old):
    module, state, call = prepared(case, lambda config: less.build_encoder(config, predecessor=old), less.encoder_state)
    grid = functional_call(Grid(module), {f"encoder.{key}": tensor for key, tensor in state.items()}, call)
    return {"x": grid, "cls_token": grid[:, 0, 0], "patch_tokens": grid[:, 1:, 1:]}


def kept(noise, ratio, least, batch):
    """What the official masking makes of its random numbers: indices that are kept, places of all, 1 for those hidden."""
    noise = noise.detach().expand(batch, -1)
    if ratio == 0:
        order = torch.arange(noise.shape[1]).expand(batch, -1)
        return order, order, torch.zeros_like(noise)
    order = noise.argsort(1)
    count = max(int(noise.shape[1] * (1 - ratio)), least)
    restore = order.argsort(1)
    return order[:, :count], restore, (restore >= count).to(noise.dtype)


def autoencoder(case, *, old):
    config = case.constructor["config"]
    module, state, call = prepared(case, lambda config: less.build_autoencoder(config, predecessor=old), less.autoencoder_state)
    bands, band_order, band_mask = kept(case.input["noise_channel"], config["channel_mask_ratio"], 2, len(call[0]))
    places, place_order, place_mask = kept(case.input["noise_position"], config["mask_ratio"], 0, len(call[0]))
    made = functional_call(module, state, (*call, bands, places))
    return {
        "latent": made.latent,
        "recon": made.patches,
        "target": made.target,
        "channel_ids_restore": band_order,
        "channel_mask": band_mask,
        "position_ids_restore": place_order,
        "position_mask": place_mask,
    }


ADAPTERS = {
    "less_vit_encoder": lambda case: encoder(case, old=False),
    "less_vit_mae": lambda case: autoencoder(case, old=False),
    "less_old_encoder": lambda case: encoder(case, old=True),
    "less_old_mae": lambda case: autoencoder(case, old=True),
}
