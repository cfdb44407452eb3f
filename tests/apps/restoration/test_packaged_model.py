from pathlib import Path

import numpy as np
import pytest
import torch

from geovit.apps.restoration.evaluation import evaluate
from geovit.apps.restoration.metrics import psnr, to_uint8
from geovit.apps.restoration.resize import matlab_resize
from geovit.apps.restoration.weights import load_restorer

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "apps" / "restoration" / "pretrained"
FILES = sorted(FOLDER.glob("*.safetensors"))
each_model = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)


@each_model
def test_model_is_small_and_says_what_it_is(file):
    restorer = load_restorer(file)
    told = restorer.metadata
    assert told["scale"] == str(restorer.network.scale)
    assert told["architecture"] == restorer.architecture.name
    assert told["licence"] == "Apache-2.0"
    assert "CC BY" in told["training_images"]
    assert (ROOT / told["recipe"]).is_file()
    assert sum(path.stat().st_size for path in FILES) < 3 * 2**20


def test_default_model_beats_bicubic_on_set5(data_dir):
    report = evaluate(str(data_dir / "restoration/Set5/HR"), scale=2, weights=FOLDER / "compact_x2.safetensors").report
    mean = {method: figures["psnr"] for method, figures in report["mean"].items()}
    assert mean["bicubic"] == pytest.approx(33.67, abs=0.01)
    assert mean["compact_x2"] >= mean["bicubic"] + 1.5


@each_model
def test_model_restores_edges_without_any_data(file):
    """Lines at all angles, which bicubic leaves jagged: so that the model is tested where there are no photographs."""
    network = load_restorer(file).network
    y, x = np.mgrid[:96, :96] - 48.0
    angle = np.arctan2(y, x) * 12 + np.hypot(x, y) / 16
    target = np.repeat(((np.sin(angle) > 0) * 200 + 20).astype(np.uint8)[..., None], 3, 2)
    low = matlab_resize(target, 1 / network.scale)
    with torch.inference_mode():
        restored = network(torch.from_numpy(low).movedim(-1, 0)[None] / 255)[0].movedim(0, -1).numpy()
    plain = matlab_resize(low, network.scale)
    scores = [psnr(image, target, crop=4, luma=True) for image in (to_uint8(restored), plain)]
    assert scores[0] > scores[1] + 1.0
