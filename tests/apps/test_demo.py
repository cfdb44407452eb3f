import re
from functools import partial

import pytest

from geovit.apps import demo as module
from geovit.apps.demo import demo
from geovit.apps.hyperspectral.recipe import Recipe, TrainingConfig
from geovit.apps.hyperspectral.spectral_swin import SpectralSwinConfig


@pytest.fixture
def small(monkeypatch):
    """The demo with less to do."""
    recipe = Recipe(
        spectral_swin=SpectralSwinConfig(dim=16, heads=2, channels=(4, 8)),
        training=TrainingConfig(members=1, steps=60, batch=8, crop=8, lr=5e-3, check_every=20),
    )
    make = partial(module.synthesize_scene, height=50, width=70, bands=32, classes=3)
    monkeypatch.setattr(module, "synthesize_scene", make)
    monkeypatch.setattr(module, "classify", partial(module.classify, recipe=recipe, device="cpu"))


def test_the_demo_ends_with_accuracy_files_and_time(small, tmp_path, capsys):
    out = tmp_path / "new" / "demo"
    assert demo(out) == 0
    shown = capsys.readouterr().out
    assert f"geovit classify {out}/scene.tif --labels {out}/labels.tif --out {out} --quicklook --overwrite" in shown
    accuracy, seconds = re.search(r"not labelled: (\d\.\d+), everything in (\d+) seconds\n$", shown).groups()
    assert 0.5 < float(accuracy) <= 1
    assert int(seconds) < 60
    written = [line.split(": ")[1] for line in shown.splitlines() if re.match(r"(map|model|quicklook|report): ", line)]
    assert sorted(written) == sorted(str(out / f"scene_{name}") for name in (
        "classes.tif", "model.safetensors", "quicklook.png", "report.json"
    ))  # fmt: skip
    assert all((out / name).is_file() for name in written)

    assert demo(out) == 0, "a second demo replaces the first"
    again = capsys.readouterr().out
    assert re.search(r"not labelled: (\d\.\d+)", again)[1] == accuracy
