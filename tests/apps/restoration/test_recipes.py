from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from geovit.apps.restoration.network import Network
from geovit.apps.restoration.training import fit
from geovit.apps.restoration.weights import architecture_of

RECIPES = sorted((Path(__file__).parents[3] / "configs" / "restoration").glob("*.yaml"))
PARAMETERS = {"swinir_light_x2": 910_152, "swinir_light_x4": 929_628, "compact_x2": 97_196, "hat_x4": 20_772_507}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_make_networks_that_can_be_saved(recipe):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(fit, as_positional=False, sub_configs=True, skip={"progress"})
    options = parser.instantiate(parser.parse_args(["--config", str(recipe)]))
    with torch.device("meta"):
        network = options.network()
    assert isinstance(network, Network)
    architecture_of(network)
    expected = PARAMETERS.get(recipe.stem)
    assert expected in (None, sum(parameter.numel() for parameter in network.parameters()))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_heads_of_recipes_name_command_and_score(recipe):
    head = recipe.read_text().partition("\nimages:")[0]
    assert f"geovit fit restoration --config configs/restoration/{recipe.name}" in head
    assert "dB" in head
