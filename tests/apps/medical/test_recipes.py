"""The configurations that come with the package, and what one of them reaches on real data in a minute."""

from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from geovit.apps.cli import main
from geovit.apps.medical.augmentation import AugmentationConfig
from geovit.apps.medical.networks import build_network
from geovit.apps.medical.training import fit

FOLDER = Path(__file__).parents[3] / "configs" / "medical"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_understood_and_tell_command_and_what_to_expect(recipe):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(fit, as_positional=False, sub_configs=True, skip={"progress"})
    options = parser.instantiate(parser.parse_args(["--config", str(recipe), "--data", "nowhere"]))
    with torch.device("meta"):
        build_network(options.network, in_channels=1, out_channels=3)
    assert all(size % 32 == 0 for size in options.plan.roi or ())
    assert isinstance(options.augmentation or AugmentationConfig(), AugmentationConfig)
    head = recipe.read_text().partition("\nnetwork:")[0]
    assert f"--config medical/{recipe.name}" in head
    assert "Dice" in head or "Not trained here" in head


@pytest.mark.slow
def test_a_short_training_finds_the_hippocampus(data_dir, tmp_path, capsys):
    """As hippocampus.yaml, but narrow and short, on 36 of the cases."""
    source, data = data_dir / "medical" / "hippocampus", tmp_path / "cases"
    for kind in ("images", "labels"):
        (data / kind).mkdir(parents=True)
        for path in sorted((source / kind).iterdir())[:36]:
            (data / kind / path.name).symlink_to(path)
    (data / "labels.csv").write_text("1,anterior\n2,posterior\n")
    recipe = yaml.safe_load((FOLDER / "hippocampus.yaml").read_text())
    short = {
        "network": {"name": "swin_unetr", "arguments": {"feature_size": 12}},
        "optimizer": {**recipe["optimizer"], "average": 0.95, "warmup": 10},
        "folds": 6,
        "steps": 90,
        "check_every": 90,
        "minutes": None,
    }
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({**recipe, **short}))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert main(["fit", "medical", str(data), "--config", str(tmp_path / "short.yaml"), "--out", str(tmp_path / "run")]) == 0
    finally:
        torch.set_num_threads(threads)
    told = capsys.readouterr().out
    score = float(told.partition("Dice ")[2].split()[0])
    assert score >= 0.6, told
