import pytest
import torch
from torch import nn

from geovit.core.training.optimizer import OptimizerConfig


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.conv = nn.Conv2d(3, 4, 2)
        self.norm = nn.LayerNorm(4)
        self.table = nn.Embedding(5, 4)
        self.tokens = nn.Parameter(torch.ones(2, 4))
        self.frozen = nn.Linear(3, 3).requires_grad_(requires_grad=False)


def decayed(net, config):
    optimizer, _ = config.build(net, 10)
    optimizer.zero_grad()
    for p in net.parameters():
        if p.requires_grad:
            p.data.fill_(1.0)
            p.grad = torch.zeros_like(p)
    before = {name: p.clone() for name, p in net.named_parameters()}
    optimizer.step()
    return {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}


def test_all_that_is_trained_decays_or_what_multiplies_alone():
    net = Net()
    everything = {name for name, p in net.named_parameters() if p.requires_grad}
    assert decayed(net, OptimizerConfig(lr=0.1, weight_decay=0.1)) == everything
    matrices = OptimizerConfig(lr=0.1, weight_decay=0.1, decay_all=False)
    assert decayed(net, matrices) == {"linear.weight", "conv.weight"}
    with pytest.raises(TypeError, match="expected a module"):
        matrices.build(net.parameters(), 10)
