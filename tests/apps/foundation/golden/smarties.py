"""SMARTIES: auto-encoder and classifier, with the slips of the published program."""

import torch
from torch import Tensor
from torch.func import functional_call

from geovit.apps.foundation.weights import smarties
from geovit.core.layers.tokenizers import RADAR
from geovit.core.sensors.batch import SensorBatch


def build(case, make):
    arguments = case.arguments | {"spectrum_specs": case.constructor["spectrum_specs"]}
    dtype = next(t.dtype for t in case.input.values() if t.is_floating_point())
    model = make(arguments, as_published=True).to(dtype).eval()
    state = smarties.to_ours(case.state)
    assert {key: t.shape for key, t in model.state_dict().items()} == {key: t.shape for key, t in state.items()}
    return model, state


def bands(model, indices: Tensor) -> Tensor:
    """Wavelengths of the bands of some projections: the centres of their ranges."""
    assert (indices == indices[:1, :1, :1]).all()  # a band has one projection everywhere
    ranges = [model.encoder.tokenizer.ranges[i] for i in indices[0, 0, 0].tolist()]
    return torch.tensor([RADAR[r.polarization] if r.polarization else r.centre for r in ranges])


def image(patches: Tensor) -> Tensor:
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def tokens(pixels: Tensor, patch: int) -> Tensor:
    """(batch, bands, height, width) to (batch, tokens, bands, pixels)."""
    cut = pixels.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(4, 5).flatten(1, 2)


def autoencoder(case) -> dict[str, Tensor]:
    if "patches" in case.input:
        return features(case)
    model, state = build(case, smarties.build_autoencoder)
    patch, side = case.arguments["patch_size"], case.arguments["img_size"] // case.arguments["patch_size"]
    batches, indices = [], []
    for name in ("first", "second"):
        x = image(case.input[f"{name}_patches"])
        indices.append(case.input[f"{name}_projection_indices"])
        gsd = torch.full((len(x),), 10.0)
        batches.append(SensorBatch(x, torch.ones_like(x, dtype=torch.bool), bands(model, indices[-1]), gsd, name))
    length = side * side
    ranks = case.input["noise_mixup"].argsort(1).argsort(1)
    swapped = (ranks >= int(length * 0.5)).unflatten(1, (side, side))
    order = case.input["noise_mask"].argsort(1)
    restore, kept = order.argsort(1), int(length * (1 - case.constructor["mask_ratio"]))
    hidden = restore >= kept

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, first, second):
            return model.reconstruct((first, second), model.embed(first, second), swapped, hidden.unflatten(1, (side, side)))

    made = functional_call(Whole(), {f"model.{key}": t for key, t in state.items()}, tuple(batches))
    outputs = {"mask": hidden.to(batches[0].values.dtype), "ids_restore": restore, "loss": made.loss}
    # The published order of indices is that of the places; the one of what is kept, that of the noise.
    sources = [indices[1].where(swapped[..., None], indices[0]), indices[1]]
    for i in range(2):
        latent = made.encoded[i].tokens.flatten(1, 3).gather(1, order[:, :kept, None].expand(-1, -1, model.encoder.dim))
        outputs |= {
            f"latent{i + 1}": torch.cat([made.encoded[i].prefix, latent], dim=1),
            f"target{i + 1}": tokens(made.targets[i], patch),
            f"pred{i + 1}": tokens(made.images[i], patch).flatten(2),
            f"mixed_indices{i + 1}": sources[i].flatten(1, 2),
        }
    outputs["decoder1"] = torch.cat([made.decoded[0].prefix, made.decoded[0].tokens.flatten(1, 3)], dim=1)
    return outputs


def features(case) -> dict[str, Tensor]:
    model, state = build(case, smarties.build_autoencoder)
    own = {key.removeprefix("encoder."): t for key, t in state.items() if key.startswith("encoder.")}
    wavelengths = bands(model, case.input["projection_indices"])
    encoded = functional_call(model.encoder, own, (image(case.input["patches"]), wavelengths, 10.0))
    return {"cls_feature": encoded.prefix[:, 0]}


def classifier(case) -> dict[str, Tensor]:
    model, state = build(case, smarties.build_classifier)
    numbers = range(1, 3) if "image1" in case.input else [""]
    names = [(f"image{i}", f"indices{i}" if i else "projection_indices") for i in numbers]
    images = [(case.input[name], bands(model, case.input[index])) for name, index in names]
    seen = {}
    model.head.register_forward_hook(lambda module, given, result: seen.update(features=given[0]))
    logits = functional_call(model, state, tuple(images))
    return {"logits": logits, **seen} if "features" in case.output else {"logits": logits}


ADAPTERS = {"smarties_mae": autoencoder, "smarties_vit": classifier}
