import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

from geovit import __version__
from geovit.apps.hyperspectral.model import Classifier, load_classifier, match_bands
from geovit.core.weights import load_state, save_module


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.safetensors"
    model.save(path)
    return path


@pytest.fixture
def x(labelled):
    return labelled.tiles[0].values[None, :, 12:36, 20:52]


@torch.inference_mode()
def check_round_trip(model, x, path):
    model.save(path)
    loaded = load_classifier(path)
    assert not loaded.training
    assert json.dumps(dataclasses.asdict(loaded.info)) == json.dumps(dataclasses.asdict(model.info))
    expected = model(x)
    assert torch.equal(loaded(x), expected)
    assert expected.std() > 1e-3
    assert (loaded.window, loaded.receptive_field, loaded.halo) == (model.window, model.receptive_field, model.halo)


def test_a_dense_model_comes_back_the_same(model, x, tmp_path):
    check_round_trip(model, x, tmp_path / "m.safetensors")


def test_a_patch_model_comes_back_the_same(patch_model, x, tmp_path):
    check_round_trip(patch_model, x, tmp_path / "m.safetensors")


def test_probabilities_sum_to_one(model, x):
    with torch.inference_mode():
        total = model(x).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_a_member_averages_the_probabilities_of_network_discriminant_and_kernel_classifier(model, x):
    member = model.members[0]
    with torch.inference_mode():
        logits = member.network(member.transform(x)), member.discriminant(x), member.kernel(x)
        apart = [found.softmax(1) for found in logits]
        torch.testing.assert_close(member(x).softmax(1), sum(apart) / 3)
    chosen = [probabilities.argmax(1) for probabilities in apart]
    assert not any(torch.equal(chosen[i], chosen[i - 1]) for i in range(3))


@pytest.mark.parametrize("gone", [("kernel",), ("discriminant", "kernel")])
def test_files_from_before_there_was_a_classifier_beside_the_network_are_read(saved, x, tmp_path, gone):
    tensors, metadata = load_state(saved)
    info = json.loads(metadata["info"])
    for part in gone:
        del info["recipe"][part]
    old = {name: tensor for name, tensor in tensors.items() if not any(f".{part}." in name for part in gone)}
    assert len(old) < len(tensors)
    save_module(tmp_path / "old.safetensors", old, {**metadata, "info": json.dumps(info)})
    member = load_classifier(tmp_path / "old.safetensors").members[0]
    with torch.inference_mode():
        left = [member.network(member.transform(x)), *([] if "discriminant" in gone else [member.discriminant(x)])]
        expected = torch.stack([found.softmax(1) for found in left]).mean(0)
        torch.testing.assert_close(member(x).softmax(1), expected)
    assert member.kernel is None


def test_the_file_says_what_it_was_fitted_on(saved, scene, labelled):
    tensors, metadata = load_state(saved)
    info = json.loads(metadata["info"])
    assert info["version"] == __version__
    assert info["bands"] == scene.num_bands
    assert info["wavelengths"] == scene.wavelengths.tolist()
    assert [(c["value"], c["name"]) for c in info["classes"]] == [(c.value, c.name) for c in labelled.classes]
    assert info["recipe"]["network"] == "spectral_swin"
    statistics = next(tensor for name, tensor in tensors.items() if name.endswith("band_mean"))
    np.testing.assert_allclose(statistics, labelled.spectra().mean(0), rtol=0.2)


def test_reading_a_model_runs_nothing_of_it(saved, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model file could run code")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)
    assert load_classifier(saved).info.bands == 23


def test_other_files_are_refused_in_one_line(saved, tmp_path):
    whole = saved.read_bytes()
    cases = {"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b""}
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a whole safetensors file") as caught:
            load_classifier(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_classifier(tmp_path / "none")


def test_weights_of_something_else_are_refused(saved, tmp_path, model):
    path = tmp_path / "other.safetensors"
    save_module(path, {"a": torch.ones(2)}, {})
    with pytest.raises(ValueError, match="not a model of `geovit classify`: its format is None"):
        load_classifier(path)
    tensors, metadata = load_state(saved)
    for info in ("{}", "no json", json.dumps(json.loads(metadata["info"]) | {"classes": [{"value": 1}]})):
        save_module(path, tensors, {**metadata, "info": info})
        with pytest.raises(ValueError, match="its description cannot be read"):
            load_classifier(path)
    unknown = json.loads(metadata["info"])
    unknown["recipe"]["network"] = "later_one"
    save_module(path, tensors, {**metadata, "info": json.dumps(unknown)})
    with pytest.raises(ValueError, match="other.safetensors is no recipe"):
        load_classifier(path)
    tensors.pop("temperature")
    save_module(path, tensors, metadata)
    with pytest.raises(ValueError, match="weights do not fit: 1 missing \\(temperature\\)"):
        load_classifier(path)


class TestMatchBands:
    WANTED = (400.0, 410.0, 420.0, 430.0, 500.0)

    @pytest.fixture
    def info(self, model):
        return dataclasses.replace(model.info, bands=5, wavelengths=list(self.WANTED))

    def match(self, info, wavelengths):
        return match_bands(info, np.array(wavelengths), len(wavelengths), "scene.tif")

    def test_the_same_bands(self, info):
        assert self.match(info, self.WANTED) == [0, 1, 2, 3, 4]

    def test_more_bands_than_needed(self, info):
        assert self.match(info, [390, 400, 405, 410, 415, 420, 430, 450, 500, 510]) == [1, 3, 5, 6, 8]

    def test_bands_a_little_aside(self, info):
        assert self.match(info, [402, 412, 422, 432, 497]) == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
    def test_another_order(self, info, order):
        found = self.match(info, [self.WANTED[i] for i in order])
        assert [order[i] for i in found] == [0, 1, 2, 3, 4]

    def test_missing_bands_are_named(self, info):
        with pytest.raises(ValueError, match=r"scene.tif lacks 2 of the model's 5 bands, such as 410.0, 420.0 nm"):
            self.match(info, [400, 430, 500, 600])

    def test_coarser_bands_do_not_serve_twice(self, info):
        with pytest.raises(ValueError, match="lacks 2 of the model's 5 bands"):
            self.match(info, [405, 425, 500])

    def test_a_scene_without_wavelengths(self, info):
        with pytest.raises(ValueError, match=r"scene.tif has no wavelengths, the model needs 5 bands at 400..500 nm"):
            match_bands(info, None, 5, "scene.tif")

    def test_a_model_without_wavelengths_counts(self, info):
        without = dataclasses.replace(info, wavelengths=None)
        assert match_bands(without, None, 5, "scene.tif") == [0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match="scene.tif has 6 bands, the model was fitted on 5"):
            match_bands(without, np.arange(6.0), 6, "scene.tif")

    def test_overlapping_detectors_keep_their_order(self, info):
        crowded = [900.0, 906.5, 906.7, 913.0, 913.0, 920.0]
        info = dataclasses.replace(info, bands=6, wavelengths=crowded)
        assert self.match(info, crowded) == [0, 1, 2, 3, 4, 5]
        assert self.match(info, np.round(crowded)) == [0, 1, 2, 3, 4, 5]

    def test_a_real_scene_matches_itself(self, info, data_dir):
        from geovit.datasets import open_scene

        wavelengths = open_scene(data_dir / "hyperspectral/enmap_potsdam/scene.tif").wavelengths
        info = dataclasses.replace(info, bands=len(wavelengths), wavelengths=wavelengths.tolist())
        assert self.match(info, wavelengths) == list(range(len(wavelengths)))
        assert self.match(info, wavelengths + 0.3) == list(range(len(wavelengths)))
        assert self.match(info, wavelengths[::-1]) == list(range(len(wavelengths)))[::-1]


def test_a_model_is_built_of_what_its_file_says(model):
    again = Classifier(model.info)
    again.load_state_dict(model.state_dict())
    assert len(again.members) == model.info.recipe.training.members
