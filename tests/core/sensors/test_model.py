from importlib.resources import files

import pytest
import yaml

from geovit.core.sensors.model import load_model, model_file


def test_the_encoder_of_the_package_is_small_and_of_its_recipe():
    assert model_file(None) == model_file("default")
    assert model_file(None).stat().st_size < 10e6
    recipe = yaml.safe_load((files("geovit.configs") / "foundation" / "default.yaml").read_text(encoding="utf-8"))
    model = load_model("default")
    trained = model.facts["training"]
    assert {"encoder", "autoencoder", "crops", "steps"} <= recipe.keys()
    for name, settings in recipe.items():
        if isinstance(settings, dict):
            assert settings.items() <= trained[name].items()
        else:
            assert settings == trained[name]
    assert model.facts["size"] == recipe["crops"]["size"]
    assert model.facts["places"] == sorted(f"place{seed}" for seed in range(200))


def test_a_folder_stands_for_the_weights_at_its_end(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no last\.safetensors"):
        model_file(tmp_path)
    (tmp_path / "last.safetensors").touch()
    assert model_file(str(tmp_path)) == tmp_path / "last.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file: none"):
        model_file("none.safetensors")
