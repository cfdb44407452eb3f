"""From an encoder's file and a few options to the recipe that adapts it."""

from dataclasses import replace
from pathlib import Path

from ...core.sensors.model import FoundationModel, load_model
from .encoder_network import Adaptation
from .recipe import DEFAULT_RECIPE, Recipe, named_recipe


def adapting(
    recipe: Recipe,
    encoder: str | Path | None,
    *,
    lora_rank: int | None = None,
    freeze: bool = False,
    full: bool = False,
    adapters: bool = False,
) -> tuple[Recipe, FoundationModel | None]:
    """Read an encoder and fit a recipe to it; without an encoder the recipe stays as it is.

    Args:
        recipe: the default stands for that of encoders if an encoder is given.
        encoder: file of `geovit pretrain`.
        lora_rank: adapt by adapters of that rank; default: what the recipe says.
        freeze: leave the encoder as it is.
        full: train all of it.
        adapters: whether adapters are to be written.

    Raises:
        FileNotFoundError: no such file.
        ValueError: options or a recipe that do not go together, or another kind of file.
    """
    given = [name for name, is_given in {"lora_rank": lora_rank is not None, "freeze": freeze, "full": full}.items() if is_given]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other: choose one")
    if encoder is None:
        if given or adapters:
            raise ValueError(
                f"{given[0] if given else 'adapters'} is said of a pretrained encoder, but none was given: add --encoder"
            )
        if recipe.network == "encoder":
            raise ValueError("the recipe adapts a pretrained encoder, but none was given: add --encoder")
        return recipe, None
    if recipe == DEFAULT_RECIPE:
        recipe = named_recipe("encoder")
    if recipe.network != "encoder":
        raise ValueError(
            f"the recipe's network is {recipe.network}, which has no use for an encoder: leave one of them out, or give"
            " --recipe encoder before other settings of the recipe"
        )
    adaptation: Adaptation = (
        "freeze" if freeze else "full" if full else "lora" if lora_rank is not None else recipe.encoder.adaptation
    )
    if adapters and adaptation not in ("lora", "freeze"):
        raise ValueError(f"there are no adapters to write after {adaptation}, which trains all weights")
    model = read_encoder(encoder)
    assert model.config is not None, "published encoders have files of their own, which are refused"
    rank = recipe.encoder.rank if lora_rank is None else lora_rank
    config = replace(recipe.encoder, architecture=model.config, adaptation=adaptation, rank=rank)
    return replace(recipe, encoder=config), model


def read_encoder(path: str | Path) -> FoundationModel:
    """Read an encoder that can be adapted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file.
    """
    path = Path(path)
    if path.is_file() and path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is no encoder of geovit pretrain, a file .safetensors: only those can be adapted; published checkpoints can"
            " be used by geovit embed and geovit probe"
        )
    return load_model(path)
