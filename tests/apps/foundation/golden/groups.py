"""SatMAE, SatMAE++ and SpectralGPT: auto-encoders and classifiers."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from geovit.apps.foundation.weights import satmae, spectralgpt


def called(module: nn.Module, state: dict[str, Tensor], *args, method=None):
    module = module.to(args[0].dtype).eval()
    own = module.state_dict()
    assert {key: t.shape for key, t in own.items()} == {key: t.shape for key, t in state.items()}
    return functional_call(module, state, args)


def shuffled(noise: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """What the official ``random_masking`` makes of its random numbers: hidden, places that are kept, places of all."""
    order = noise.argsort(1)
    restore = order.argsort(1)
    count = int(noise.shape[1] * (1 - ratio))
    return restore >= count, order[:, :count], restore


def groups_autoencoder(case) -> dict[str, Tensor]:
    image = case.input["image"]
    grouped = "Group" in case.constructor["cls"]
    arguments = {"channel_groups": satmae.SENTINEL2_GROUPS} if grouped else {}
    arguments |= {"proj_ratio": 4} if "image_2x" in case.input else {}  # SatMAE++'s default, where SatMAE has no such argument
    arguments |= case.arguments
    model = satmae.build_autoencoder(arguments)
    groups, side = len(model.groups), image.shape[2] // arguments["patch_size"]
    hidden, kept, restore = shuffled(case.input["noise"], case.constructor["mask_ratio"])
    if arguments.get("spatial_mask"):  # the noise is of places; what is kept follows group by group
        hidden = hidden.repeat(1, groups)
        kept = torch.cat([kept + group * side * side for group in range(groups)], dim=1)
    hidden = hidden.unflatten(1, (groups, side, side))
    state, _ = satmae.autoencoder_state(model, case.state)
    larger = [case.input[name] for name in ("image_2x", "image_4x") if name in case.input]
    seen = {}
    model.encoder.norm.register_forward_hook(lambda module, given, result: seen.update(latent=result))
    made = called(model, state, image, 10.0, hidden, larger)
    # Kept tokens are in the order of the grid here, and in that of the noise there.
    grid = hidden.flatten(1).logical_not().cumsum(1) - 1
    latent = seen["latent"]
    tokens = latent[:, 1:].gather(1, grid.gather(1, kept)[..., None].expand(-1, -1, latent.shape[2]))
    patch = arguments["patch_size"]
    pixels = made.image.unflatten(3, (side, patch)).unflatten(2, (side, patch))  # batch, bands, rows, p, columns, q
    outputs = {
        "ids_restore": restore,
        "latent": torch.cat([latent[:, :1], tokens], dim=1),
        "mask": hidden.flatten(2).to(image.dtype) if grouped else hidden.flatten(1).to(image.dtype),
        "pred": pixels.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
        if grouped
        else pixels.permute(0, 2, 4, 3, 5, 1).flatten(3, 5).flatten(1, 2),
        "loss": made.losses["pixels"],
    }
    if made.larger:
        outputs |= {"multiscale_loss": made.losses["larger"]}
        outputs |= {f"pred_{2 ** (i + 1)}x": image for i, image in enumerate(made.larger)}
    return outputs


def groups_classifier(case) -> dict[str, Tensor]:
    model = satmae.build_classifier(case.arguments)
    state = satmae.classifier_state(case.state)
    seen = {}
    model.head.register_forward_hook(lambda module, given, result: seen.update(features=given[0]))
    bands = torch.tensor(satmae.wavelengths_of(case.arguments))
    return {"logits": called(model, state, case.input["image"], bands, 10.0), **seen}


def cubes(case) -> tuple[tuple[int, int, int], Tensor]:
    args = case.arguments
    side = args["img_size"] // args["patch_size"]
    return (args["num_frames"] // args["t_patch_size"], side, side), 400.0 + 50 * torch.arange(args["num_frames"])


def cubes_autoencoder(case) -> dict[str, Tensor]:
    arguments, image = case.arguments, case.input["image"]
    size, bands = cubes(case)
    model = spectralgpt.build_autoencoder(arguments)
    hidden, kept, restore = shuffled(case.input["noise"], case.constructor["mask_ratio"])
    seen = {}
    model.encoder.norm.register_forward_hook(lambda module, given, result: seen.update(latent=result))
    state = spectralgpt.to_ours(case.state, size, classifier=False)
    made = called(model, state, image, bands, 10.0, hidden.unflatten(1, size))
    latent = seen["latent"][:, int(arguments.get("cls_embed", False)) :]
    grid = hidden.logical_not().cumsum(1) - 1
    patch = arguments["patch_size"]
    pixels = made.image.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).unflatten(1, (size[0], -1))
    return {
        "ids_restore": restore,
        "latent": latent.gather(1, grid.gather(1, kept)[..., None].expand(-1, -1, latent.shape[2])),
        "mask": hidden.to(image.dtype),
        "pred": pixels.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 6).flatten(1, 3),
        "loss": made.losses["pixels"] + made.losses["sums"],
    }


def cubes_classifier(case) -> dict[str, Tensor]:
    size, bands = cubes(case)
    model = spectralgpt.build_classifier(case.arguments)
    state = spectralgpt.to_ours(case.state, size, classifier=True)
    return {"logits": called(model, state, case.input["image"], bands, 10.0)}


ADAPTERS = {
    "satmae_mae": groups_autoencoder,
    "satmaepp_mae": groups_autoencoder,
    "satmaepp_mae_rgb": groups_autoencoder,
    "satmaepp_vit": groups_classifier,
    "spectralgpt_mae": cubes_autoencoder,
    "spectralgpt_vit_tensor": cubes_classifier,
}
