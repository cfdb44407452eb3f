import json

import pytest
import torch

from geovit.apps.hyperspectral.recipe import DEFAULT_RECIPE, Recipe, named_recipe, recipe_files, recipe_from_dict


def spelled(recipe):
    return json.dumps(recipe.to_dict())


def test_a_recipe_comes_with_each_network():
    assert {name: named_recipe(name).network for name in recipe_files()} == {
        "encoder": "encoder",
        "lola_specvit": "lola_specvit",
        "spectral_swin": "spectral_swin",
    }


def test_the_default_is_the_dense_network_s_recipe():
    assert spelled(named_recipe("spectral_swin")) == spelled(DEFAULT_RECIPE)


def test_the_dense_network_is_compact():
    with torch.device("meta"):
        network = DEFAULT_RECIPE.build(201, 16)  # 200 bands and their level
    assert sum(parameter.numel() for parameter in network.parameters()) < 3_000_000


def test_the_patch_network_is_the_published_one():
    recipe = named_recipe("lola_specvit")
    with torch.device("meta"):
        network = recipe.build(15, 6)
    assert (network.patch, network.receptive_field, recipe.transform.components, recipe.crop, recipe.jitter) == (15, 7, 15, 15, 0)


@pytest.mark.parametrize("name", ["tiny", "tiny_patches"])
def test_a_recipe_survives_its_way_through_a_file(name, request, tmp_path):
    recipe = request.getfixturevalue(name)
    text = spelled(recipe)
    assert spelled(recipe_from_dict(json.loads(text), "x")) == text
    (tmp_path / "r.yaml").write_text(text)
    assert spelled(named_recipe(str(tmp_path / "r.yaml"))) == text


def test_an_empty_file_is_the_default(tmp_path):
    (tmp_path / "r.yaml").write_text("# nothing\n")
    assert spelled(named_recipe(str(tmp_path / "r.yaml"))) == spelled(Recipe())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {speed: 9}", r"r\.yaml is no recipe: .*speed"),
        ("training: {steps: many}", r"r\.yaml is no recipe: .*steps"),
        ("network: resnet", r"r\.yaml is no recipe: .*resnet"),
        ("- a\n- b", r"r\.yaml is no recipe"),
        ("7", r"r\.yaml is no recipe"),
        ("hello", r"r\.yaml is no recipe"),
        ("training: {", r"r\.yaml is not YAML"),
    ],
)
def test_what_is_no_recipe_is_named_in_one_line(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        named_recipe(str(tmp_path / "r.yaml"))
    assert "\n" not in str(caught.value)


def test_unknown_names_are_answered_with_the_known():
    with pytest.raises(
        ValueError, match="no model or recipe 'resnet': allowed are svm, logistic, forest, encoder, lola_specvit, spectral_swin"
    ):
        named_recipe("resnet")
