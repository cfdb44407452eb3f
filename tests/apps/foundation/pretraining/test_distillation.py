import pytest
import torch

from geovit.apps.foundation.pretraining.distillation import Distillation, DistillationConfig
from geovit.core.sensors.batch import SensorBatch
from geovit.core.sensors.encoder import EncoderConfig, build_encoder

ENCODER = EncoderConfig(dim=16, depth=1, heads=2, patch=4)


def batch(bands, sensor="a", count=3):
    values = torch.randn(count, bands, 16, 16)
    wavelengths = torch.linspace(450, 2200, bands)
    return SensorBatch(values, torch.ones_like(values, dtype=torch.bool), wavelengths, torch.full((count,), 10.0), sensor)


def generators(count=3):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_loss_is_the_cross_entropy_of_each_sensor_with_what_the_teacher_says_of_the_other():
    encoder = build_encoder(ENCODER)
    distillation = Distillation(encoder, DistillationConfig(weight=1, hidden=0, prototypes=7)).eval()
    views = batch(4), batch(3, "b")
    found = distillation(encoder, views, generators())
    logits = [distillation.head(encoder(v.values, v.wavelengths, v.gsd).places().mean((1, 2))) for v in views]
    terms = []
    for told, said in ((0, 1), (1, 0)):
        target = (logits[told] / 0.04).softmax(-1)
        terms.append(-(target * (logits[said] / 0.1).log_softmax(-1)).sum(-1).mean())
    torch.testing.assert_close(found, torch.stack(terms).mean())


def test_what_is_told_most_is_taken_off_in_training_alone():
    encoder = build_encoder(ENCODER)
    distillation = Distillation(encoder, DistillationConfig(weight=1, prototypes=7, centre=0.75))
    distillation.eval()(encoder, (batch(4),), generators())
    assert not distillation.centre.any()
    one = batch(4)
    distillation.train()(encoder, (one,), generators())
    told = distillation.head(encoder(one.values, one.wavelengths, one.gsd).places().mean((1, 2))).mean(0)
    torch.testing.assert_close(distillation.centre, 0.25 * told)


def test_student_learns_and_the_teacher_follows_it():
    encoder = build_encoder(ENCODER)
    distillation = Distillation(encoder, DistillationConfig(weight=1, prototypes=7, momentum=0.9))
    before = [p.clone() for p in distillation.teacher.parameters()]
    distillation(encoder, (batch(4), batch(2, "b")), generators()).backward()
    assert all(p.grad is None for p in distillation.teacher.parameters())
    assert all(p.grad is not None for p in encoder.blocks.parameters())
    with torch.no_grad():
        for p in [*encoder.parameters(), *distillation.head.parameters()]:
            p.add_(1)
    distillation.follow(encoder, 0.0)
    for old, new in zip(before, distillation.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    distillation.follow(encoder, 1.0)
    for old, new in zip(before, distillation.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)


def test_what_the_student_does_not_see_does_not_matter():
    encoder = build_encoder(ENCODER)
    distillation = Distillation(encoder, DistillationConfig(weight=1, hidden=0.5, prototypes=7)).eval()
    first = distillation(encoder, (batch(4),), generators())
    assert torch.isfinite(first)
    views = batch(4), batch(4, "b")
    one, same, other = (distillation(encoder, views, g) for g in (generators(), generators(), generators()[::-1]))
    assert one == same != other


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"hidden": 1.0}, {"teacher": 0}, {"prototypes": 1}, {"alone": True}])
def test_settings_that_cannot_train_are_refused(wrong):
    with pytest.raises(ValueError, match="allowed are"):
        DistillationConfig(**wrong)
