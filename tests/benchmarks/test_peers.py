"""The peers do the same work as ours: same probabilities, same loss, same features."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.peers import PlainPatchMixStep, TransformersPredictions, published_features

from benchmarks import ours
from lungsound.audio.filter_bank import AUDIOSET_STATISTICS, normalize
from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, ObjectiveSettings
from lungsound.data.icbhi import read_icbhi
from lungsound.inference.engines import make
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.patchmix import PatchMixDraw
from lungsound.training.objectives import PatchMixContrastive

CPU = torch.device("cpu")
CONFIG = ours.run_config("micro", precision="fp32", is_quick=True)


def with_drawn_weights(model: LungSoundClassifier) -> LungSoundClassifier:
    """With every parameter drawn, so that one that is left out or exchanged shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.slow
def test_the_library_gives_our_probabilities() -> None:
    trained = ours.trained_model(CONFIG)
    with_drawn_weights(trained.model)
    cycles = ours.sounds(trained.front_end, [1.0, 0.4, 1.7])
    own = torch.from_numpy(make("torch", trained).predict(cycles)[0])
    torch.testing.assert_close(TransformersPredictions(trained)(cycles), own, atol=2e-5, rtol=0)
    assert (own.max(dim=0).values - own.min(dim=0).values).max() > 1e-3


def test_the_plain_step_has_our_loss_and_gradients() -> None:
    model = with_drawn_weights(ours.classifier(CONFIG)).train()
    batch = ours.batch(CONFIG, batch_size=5)
    partner = torch.tensor([3, 0, 4, 1, 2])
    replaced = torch.arange(model.patch_encoder.grid.num_patches) % 3 == 0
    lam = 1 - replaced.double().mean()
    objective = PatchMixContrastive(
        lambda *_: PatchMixDraw(partner, replaced, lam), ObjectiveSettings(temperature=0.06)
    )
    plain = PlainPatchMixStep(model, device=CPU)
    loss = plain.loss(batch.fbank, batch.labels, partner=partner, replaced=replaced)
    own = objective(model, batch, generator=torch.Generator()).total
    torch.testing.assert_close(loss, own, atol=1e-4, rtol=1e-4)
    torch.autograd.backward([loss, own])
    gradient = plain.encoder.embeddings.patch_embeddings.projection.weight.grad
    torch.testing.assert_close(gradient, model.patch_encoder.patch_embed.proj.weight.grad, atol=1e-4, rtol=1e-3)


def test_the_plain_step_halves_what_adam_does_and_copies_all_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, model = ours.batch(CONFIG, batch_size=4), ours.classifier(CONFIG)
    steps = {share: PlainPatchMixStep(model, device=CPU, old_share=share) for share in (0.0, 0.5)}
    before = steps[0.0].classifier.dense.weight.detach().clone()
    losses = [step(batch.fbank, batch.labels, rng=np.random.default_rng(0)) for step in steps.values()]
    full, half = (step.classifier.dense.weight - before for step in steps.values())
    torch.testing.assert_close(half, full / 2)
    assert full.abs().max() > 1e-6
    in_bf16 = PlainPatchMixStep(model, device=CPU, amp_dtype=torch.bfloat16)
    assert 0 < abs(float(in_bf16(batch.fbank, batch.labels, rng=np.random.default_rng(0)) - losses[0])) < 0.2
    copied: list[object] = []
    monkeypatch.setattr(copy, "deepcopy", lambda value: copied.append(value) or dict(value))
    steps[0.5](batch.fbank, batch.labels, rng=np.random.default_rng(0))
    assert len(copied) == 3


def test_the_loop_over_cycles_gives_our_features(tmp_path: Path) -> None:
    folder = ours.write_noise_corpus(tmp_path / "corpus", 9, 20, rate_hz=22050)
    corpus, front_end = read_icbhi(folder), FrontEnd(AudioSettings())
    assert not corpus.problems
    assert {cycle.recording.patient for cycle in corpus.cycles} == {"101", "102"}
    mean, std = AUDIOSET_STATISTICS["kaldi"]
    for cycle, published in zip(corpus.cycles, published_features(folder, front_end), strict=True):
        sound = front_end.cut(front_end.read(cycle.recording.path), start_s=cycle.start_s, end_s=cycle.end_s)
        fbank = torch.from_numpy(normalize(front_end.filter_banks_of([sound])[0], mean=mean, std=std))
        torch.testing.assert_close(published, fbank, atol=1e-3, rtol=0)


def test_the_noise_has_the_lengths_of_icbhi() -> None:
    lengths = np.array(ours.noise_durations_s())
    assert abs(lengths.mean() - 2.7) < 0.05
    # ICBHI: 297 under 1 s, 15 over 8 s.
    assert 100 < (lengths < 1).sum() < 400
    assert 5 < (lengths > 8).sum() < 60
