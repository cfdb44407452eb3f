import itertools
import json
from typing import get_args

import pytest
import torch

from geovit.core.backbones.grid_encoder import GridEncoder
from geovit.core.backbones.less_encoder import LessEncoder
from geovit.core.backbones.token_encoder import TokenEncoder
from geovit.core.sensors.encoder import EncoderConfig, TokenizerName, build_encoder

SMALL = {"dim": 32, "depth": 2, "heads": 2, "patch": 4}
BANDS = torch.linspace(450.0, 2300.0, 120)
SENTINEL2 = torch.tensor([490.0, 560.0, 665.0, 842.0, 1610.0, 2190.0])
SPECTRAL = {"group": 2, "cube": 2, "channel": 6, "perceptron": 6}


def config(tokenizer="wavelength", mixer="joint", **options):
    groups = ((490.0, 560.0, 665.0), (842.0, 1610.0, 2190.0)) if tokenizer == "group" else ()
    return EncoderConfig(**(SMALL | {"tokenizer": tokenizer, "mixer": mixer, "groups": groups} | options))


@pytest.mark.parametrize(
    ("tokenizer", "mixer"),
    [
        *itertools.product(get_args(TokenizerName), ["joint", "window,shifted_window"]),
        ("channel", "less"),
        ("perceptron", "less"),
    ],
)
def test_every_tokeniser_goes_with_every_mixer(tokenizer, mixer):
    encoder = build_encoder(config(tokenizer, mixer))
    wanted = {"joint": TokenEncoder, "less": LessEncoder}.get(mixer, GridEncoder)
    assert isinstance(encoder, wanted)
    bands = BANDS if tokenizer == "adapter" else SENTINEL2
    x = torch.randn(2, len(bands), 8, 12)
    encoded = encoder(x, bands, 10.0)
    assert encoded.tokens.shape == (2, SPECTRAL.get(tokenizer, 1), 2, 3, 32)
    hidden = torch.zeros(encoded.tokens.shape[:4], dtype=torch.bool)
    hidden[:, :, 0, 1] = True
    assert encoder.encode(encoder.embed(x, bands, 10.0), hidden).tokens.isfinite().all()


def test_rotary_less_sees_what_is_near():
    encoder = build_encoder(config("channel", "less", dim=64, rotary=True, radius=60.0))
    assert encoder(torch.randn(1, 6, 8, 8), SENTINEL2, 10.0).tokens.isfinite().all()
    assert encoder.context(encoder.embed(torch.randn(1, 6, 8, 8), SENTINEL2, 10.0)).near is not None


def test_registers_are_in_the_prefix():
    encoder = build_encoder(config(registers=3))
    assert encoder(torch.randn(1, 6, 8, 8), SENTINEL2, 10.0).prefix.shape == (1, 4, 32)


def test_settings_come_back_from_a_file():
    given = config("group", "joint", registers=1)
    again = EncoderConfig(**json.loads(json.dumps(given.to_dict())))
    assert again == given
    build_encoder(again).load_state_dict(build_encoder(given).state_dict())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tokenizer": "pixels"}, "tokenizer is 'pixels', allowed are wavelength, "),
        ({"mixer": "windows"}, "unknown mixer 'windows', allowed are joint, less, window"),
        ({"mixer": "less"}, "mixer 'less' with tokenizer 'wavelength', allowed are those of each band"),
        ({"mixer": "window", "registers": 1}, "registers: 1 with mixer 'window'"),
        ({"rotary": True}, "rotary and radius belong to mixer 'less'"),
        ({"radius": 100.0}, "rotary and radius belong to mixer 'less'"),
        ({"tokenizer": "group", "groups": ()}, "only 'group' has some, and needs them"),
        ({"groups": ((490.0,),)}, "only 'group' has some, and needs them"),
        ({"tokenizer": "channel", "mixer": "less", "dim": 48, "rotary": True}, "for rotary one of 16 for each head"),
    ],
)
def test_what_does_not_go_together_is_told(options, told):
    with pytest.raises(ValueError, match=told):
        build_encoder(config(**options))
