"""The peers do the same work as ours: same answers, same loss, same features."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.peers import PlainPatchMixStep, TransformersPredictions, published_features, transformers

from benchmarks import ours
from lungsound.audio.filter_bank import AUDIOSET_STATISTICS, normalize
from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, ObjectiveSettings, RunConfig
from lungsound.data.batches import Batch
from lungsound.data.icbhi import read_icbhi
from lungsound.errors import SettingsError
from lungsound.inference.engines import TorchEngine
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.patchmix import PatchMixDraw
from lungsound.training.objectives import PatchMixContrastive

CPU = torch.device("cpu")


@pytest.fixture
def config() -> RunConfig:
    return ours.run_config("micro", precision="fp32", is_quick=True)


def spoilt(model: LungSoundClassifier) -> LungSoundClassifier:
    """With every parameter drawn, so that one that is left out or exchanged shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def test_the_library_gives_our_probabilities(config: RunConfig) -> None:
    trained = ours.trained_model(config)
    spoilt(trained.model)
    cycles = ours.waveforms(trained.front_end, [1.0, 0.4, 1.7])
    given = torch.from_numpy(TorchEngine(trained).predict([cycle.numpy() for cycle in cycles])[0])
    peer = TransformersPredictions(trained.model, trained.front_end, mean=trained.mean, std=trained.std)
    torch.testing.assert_close(peer(cycles), given, atol=2e-5, rtol=0)
    assert (given.max(dim=0).values - given.min(dim=0).values).max() > 1e-3


def test_the_plain_step_has_our_loss_and_gradients(config: RunConfig) -> None:
    model = spoilt(ours.classifier(config)).train()
    fbank, labels = ours.batch(config, batch_size=5)
    partner = torch.tensor([3, 0, 4, 1, 2])
    replaced = torch.arange(model.patch_encoder.grid.num_patches) % 3 == 0
    lam = 1 - replaced.double().mean()
    objective = PatchMixContrastive(
        lambda *_: PatchMixDraw(partner, replaced, lam), ObjectiveSettings(temperature=0.06)
    )
    plain = PlainPatchMixStep(model, device=CPU)
    loss = plain.loss(fbank, labels, partner=partner, replaced=replaced)
    own = objective(model, Batch(fbank, labels), generator=torch.Generator()).total
    torch.testing.assert_close(loss, own, atol=1e-4, rtol=1e-4)
    torch.autograd.backward([loss, own])
    given = plain.encoder.embeddings.patch_embeddings.projection.weight.grad
    torch.testing.assert_close(given, model.patch_encoder.patch_embed.proj.weight.grad, atol=1e-4, rtol=1e-3)


def test_the_plain_step_halves_what_adam_does_and_copies_all_weights(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fbank, labels = ours.batch(config, batch_size=4)
    model = ours.classifier(config)
    steps = {share: PlainPatchMixStep(model, device=CPU, old_share=share) for share in (0.0, 0.5)}
    before = steps[0.0].classifier.dense.weight.detach().clone()
    for step in steps.values():
        step(fbank, labels, rng=np.random.default_rng(0))
    whole, half = (step.classifier.dense.weight - before for step in steps.values())
    torch.testing.assert_close(half, whole / 2)
    assert whole.abs().max() > 1e-6
    copied: list[object] = []
    monkeypatch.setattr(copy, "deepcopy", lambda value: copied.append(value) or dict(value))
    steps[0.5](fbank, labels, rng=np.random.default_rng(0))
    assert len(copied) == 3


def test_a_half_precision_plain_step_is_near_the_whole_one(config: RunConfig) -> None:
    fbank, labels = ours.batch(config, batch_size=4)
    model = ours.classifier(config)
    losses = [
        PlainPatchMixStep(model, device=CPU, amp_dtype=dtype)(fbank, labels, rng=np.random.default_rng(0))
        for dtype in (None, torch.bfloat16)
    ]
    assert 0 < abs(float(losses[0] - losses[1])) < 0.2


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SettingsError, match=r"pip install 'lungsound\[baselines\]\'"):
        transformers()


def test_the_loop_over_cycles_gives_our_features(tmp_path: Path) -> None:
    folder = ours.write_noise_corpus(tmp_path / "corpus", num_recordings=9, num_cycles=20, rate_hz=22050)
    corpus, front_end = read_icbhi(folder), FrontEnd(AudioSettings())
    assert not corpus.problems
    assert {cycle.recording.patient for cycle in corpus.cycles} == {"101", "102"}
    mean, std = AUDIOSET_STATISTICS["kaldi"]
    found = published_features(folder, front_end)
    assert len(found) == len(corpus.cycles) == 20
    for cycle, given in zip(corpus.cycles, found, strict=True):
        waveform = front_end.fit(
            front_end.cut(front_end.read(cycle.recording.path), start_s=cycle.start_s, end_s=cycle.end_s)
        )
        fbank = normalize(front_end.filter_banks(waveform.unsqueeze(0))[0], mean=mean, std=std)
        torch.testing.assert_close(given, fbank, atol=1e-3, rtol=0)


def test_the_noise_has_the_lengths_of_icbhi() -> None:
    lengths = np.array(ours.noise_durations_s(6898))
    assert abs(lengths.mean() - 2.7) < 0.05
    # ICBHI: 297 under 1 s, 15 over 8 s.
    assert 100 < (lengths < 1).sum() < 400
    assert 5 < (lengths > 8).sum() < 60
