"""The layout of megvii-research/NAFNet, of NAFNetLocal as well: it has the same weights."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.weights.arguments import read_arguments
from ....core.weights.layout import Layout
from ..nafnet import NAFNet

LAYOUT = Layout(
    rules=[
        (r"^middle\.", "middle_blks."),
        (r"^(ups\.\d+)\.", r"\1.0."),
        (r"\.mixer\.fc\.", ".conv1."),
        (r"\.mixer\.conv\.", ".conv2."),
        (r"\.mixer\.attention\.proj\.", ".sca.1."),
        (r"\.mixer\.proj\.", ".conv3."),
        (r"\.channel_mixer\.fc1\.", ".conv4."),
        (r"\.channel_mixer\.fc2\.", ".conv5."),
        (r"\.scale1$", ".beta"),
        (r"\.scale2$", ".gamma"),
    ],
    pointwise=r"(\.(fc|fc1|fc2|proj)|^ups\.\d+)\.weight$",
    channels=r"\.scale\d$",
)
_SIZE = r"^{}\.(\d+)\."


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official NAFNet from a state dict; None if it is another network's."""
    intro = state.get("intro.weight")
    if intro is None or not {"ending.weight", "downs.0.weight", "ups.0.0.weight"} <= state.keys():
        return None
    if not any(key.endswith(".sca.1.weight") for key in state):
        return None

    def count(prefix: str) -> int:
        return len({match[1] for key in state if (match := re.match(_SIZE.format(prefix), key))})

    return {
        "img_channel": intro.shape[1],
        "width": len(intro),
        "middle_blk_num": count("middle_blks"),
        "enc_blk_nums": [count(rf"encoders\.{level}") for level in range(count("downs"))],
        "dec_blk_nums": [count(rf"decoders\.{level}") for level in range(count("ups"))],
    }


def build(arguments: Mapping[str, Any]) -> NAFNet:
    """Make a NAFNet of arguments of the official constructor, of NAFNetLocal if the size of training images is among them.

    Raises:
        ValueError: for an unknown argument, or images of training that the network would have filled up.
    """
    args = read_arguments(
        arguments,
        of="NAFNet",
        defaults={
            "img_channel": 3,
            "width": 16,
            "middle_blk_num": 1,
            "enc_blk_nums": (),
            "dec_blk_nums": (),
            "train_size": None,
            "fast_imp": False,
        },
    )
    window = None
    if args["train_size"] is not None:
        height, width = args["train_size"][-2:]
        multiple = 2 ** len(args["enc_blk_nums"])
        if height % multiple or width % multiple:
            raise ValueError(
                f"NAFNetLocal: train_size is {args['train_size']}, expected multiples of {multiple} in height and width"
            )
        window = (int(1.5 * height), int(1.5 * width))
    return NAFNet(
        args["width"],
        args["enc_blk_nums"],
        middle=args["middle_blk_num"],
        decoder=args["dec_blk_nums"],
        in_channels=args["img_channel"],
        local_window=window,
        fast_local=args["fast_imp"],
    )
