"""The relevance of a cycle's own sound: its frames, its repetitions."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lungsound.audio.filter_bank import normalize
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.config import AudioSettings
from lungsound.errors import SettingsError
from lungsound.inference.explain import fold, own_frames, patch_relevance, relevance, spread_over_bins
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.cnn import convolutional_encoder
from tests.networks import make_ast
from tests.unit.inference.models import EFFICIENTAT_AUDIO, MOBILENET, saved_model


@pytest.mark.parametrize("padding", ["repeat", "zero"])
@pytest.mark.parametrize("num_samples", [3001, 5000, 15999, 16000, 16001, 40000])
def test_own_frames_are_those_that_are_heard(padding: str, num_samples: int) -> None:
    front_end = FrontEnd(AudioSettings(duration_s=1.0, padding=padding, fade_s=0.0))  # type: ignore[arg-type]
    heard = front_end.fit(1.0 + torch.arange(num_samples))  # each sample says where it is from; 0 is padding
    starts = heard[:: front_end.log_mel.hop_size][: front_end.num_frames]
    expected = [(int(value) - 1) // front_end.log_mel.hop_size if value else -1 for value in starts]
    assert own_frames(front_end, num_samples).tolist() == expected


def test_fold_adds_repetitions_and_leaves_padding_out() -> None:
    bins = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0]])
    assert fold(bins, torch.tensor([-1, 0, 1, 0])).tolist() == [[10.0, 100.0], [4.0, 40.0]]


@pytest.mark.parametrize("is_padding_encoded", [True, False])
def test_relevance_of_a_cycle_has_all_that_its_patches_have(tmp_path: Path, is_padding_encoded: bool) -> None:
    audio = AudioSettings(duration_s=1.0, num_mels=32, is_padding_encoded=is_padding_encoded)
    trained = saved_model(tmp_path, audio=audio)
    cycle = Sound(np.random.default_rng(1).standard_normal(6000, np.float32))
    found = relevance(trained, cycle, class_index=2)
    assert found.shape == (38, 32)  # 6000 samples, 160 a frame
    given = normalize(trained.front_end.filter_banks_of([cycle]), mean=trained.mean, std=trained.std)
    fbank = torch.from_numpy(given)[0]
    num_frames = None if is_padding_encoded else 38
    mean = fbank.mean(dim=0)
    patches = patch_relevance(trained.model, fbank, mean, class_index=2, num_frames=num_frames)
    bins = spread_over_bins(patches, trained.model.patch_encoder)
    assert float(found.sum()) == pytest.approx(float(bins.sum()), rel=1e-4)
    # 98 frames, so the input begins again at 37.5 and 75 frames: frame 5 is heard in 5, 43 and 80.
    torch.testing.assert_close(found[5], bins[5] + bins[43] + bins[80])
    assert is_padding_encoded == bool(bins[80].abs().max() > 0)


def test_a_convolutional_model_is_refused_in_one_line(tmp_path: Path) -> None:
    trained = saved_model(tmp_path, audio=EFFICIENTAT_AUDIO, architecture=MOBILENET)
    with pytest.raises(SettingsError, match=r"mn04 .* a model of patches"):
        relevance(trained, Sound(np.random.default_rng(3).standard_normal(9000, np.float32)), class_index=0)


DIM, HEADS = 8, 2
CLASSES = ("normal", "crackle", "wheeze")


def small_model(
    *, depth: int = 2, pooling: str = "class_token", stride: int = 16, num_mels: int = 32
) -> LungSoundClassifier:
    """Random weights in float64; a grid of 2 x 4 patches unless stride or mels are others."""
    encoder = make_ast(
        num_mels=num_mels, num_frames=64, dim=DIM, depth=depth, num_heads=HEADS, stride=stride, pooling=pooling
    )
    model = LungSoundClassifier(encoder, CLASSES)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return model.double().eval()


def small_fbank(num_mels: int = 32) -> Tensor:
    return torch.randn(64, num_mels, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("pooling", ["class_token", "average_token"])
@torch.no_grad()
def test_relevance_is_that_of_differences_along_the_way(pooling: str) -> None:
    model, fbank = small_model(pooling=pooling), small_fbank()
    encoder = model.patch_encoder
    background, num_steps, change = fbank.mean(dim=0), 3, 1e-5
    found = patch_relevance(model, fbank, background, class_index=1, num_steps=num_steps)
    start, end = (encoder.embed_patches(each[None])[0] for each in (background.repeat(64, 1), fbank))

    def log_probability(patches: Tensor) -> float:
        logits = model.head(encoder.encode(patches[None]))[0].tolist()
        return logits[1] - math.log(sum(math.exp(logit) for logit in logits))

    for place in range(len(start)):
        slopes = []
        for step in range(num_steps):
            here = start + (end - start) * (step + 0.5) / num_steps
            aside = torch.zeros_like(here)
            aside[place] = change * (end - start)[place]
            slopes.append((log_probability(here + aside) - log_probability(here - aside)) / (2 * change))
        assert float(found[place]) == pytest.approx(sum(slopes) / num_steps, rel=1e-6, abs=1e-9)


@torch.no_grad()
def test_relevances_sum_up_to_what_the_cycle_adds() -> None:
    model, fbank, background = small_model(), small_fbank(), torch.full((32,), 0.3, dtype=torch.float64)
    found = patch_relevance(model, fbank, background, class_index=2, num_steps=400)
    both = model(torch.stack([fbank, background.expand(64, 32)])).log_softmax(dim=1)[:, 2]
    assert float(found.sum()) == pytest.approx(float(both[0] - both[1]), rel=1e-3)
    assert abs(float(found.sum())) > 0.01
    nothing = patch_relevance(model, fbank, fbank, class_index=2)
    assert nothing.abs().max() == 0


@torch.no_grad()
def test_of_a_linear_model_each_patch_has_what_it_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fbank = small_model(), small_fbank()
    weight = torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0], dtype=torch.float64)

    def logits(patches: Tensor, columns: Tensor | None) -> Tensor:
        del columns
        odds = (patches.sum(dim=2) * weight).sum(dim=1)  # of two classes: their log-probability is made linear
        return torch.stack([odds, odds.exp().neg().log1p()], dim=1)

    monkeypatch.setattr(model.patch_encoder, "encode", logits)
    monkeypatch.setattr(model, "head", torch.nn.Identity())
    fbank = -fbank.abs()  # keeps the linear log-probability below 0
    model.patch_encoder.patch_embed.proj.weight.fill_(0.01)
    model.patch_encoder.patch_embed.proj.bias.zero_()
    found = patch_relevance(model, fbank, torch.full((32,), -0.001, dtype=torch.float64), class_index=0)
    tiles = fbank.view(4, 16, 2, 16).sum(dim=(1, 3)).T.flatten()  # frequency-major
    torch.testing.assert_close(found, weight * DIM * 0.01 * (tiles + 256 * 0.001))
    assert found.nonzero().flatten().tolist() == [1, 6]


@torch.no_grad()
def test_a_model_that_sees_one_patch_has_all_relevance_there() -> None:
    model, fbank = small_model(depth=1), small_fbank()
    encoder = model.patch_encoder
    encoder.pos_embed.zero_()
    encoder.pos_embed[0, 2 + 5, 0] = 100.0  # patch 5 stands out in feature 0, which all heads look for
    qkv = encoder.blocks[0].attn.qkv
    qkv.weight[: 2 * DIM] = 0.0
    qkv.bias[: 2 * DIM] = 0.0
    qkv.bias[0 : DIM : DIM // HEADS] = 1000.0
    qkv.weight[DIM : 2 * DIM : DIM // HEADS, 0] = 1.0 / encoder.blocks[0].norm1.weight[0]
    found = patch_relevance(model, fbank, fbank.mean(dim=0), class_index=0)
    assert found[5] != 0
    assert found[[0, 1, 2, 3, 4, 6, 7]].abs().max() < 1e-100  # what a softmax leaves


@torch.no_grad()
def test_patches_that_change_places_take_their_relevance_along() -> None:
    model, fbank = small_model(), small_fbank()
    model.patch_encoder.pos_embed.zero_()
    order = torch.tensor([2, 0, 3, 1])  # of the time columns
    moved = fbank.view(4, 16, 32)[order].reshape(64, 32)
    background = fbank.mean(dim=0)
    found, found_moved = (patch_relevance(model, each, background, class_index=1).view(2, 4) for each in (fbank, moved))
    torch.testing.assert_close(found_moved, found[:, order])
    assert not torch.allclose(found_moved, found)


def test_patches_that_are_not_encoded_have_none() -> None:
    model, fbank = small_model(), small_fbank()
    background = fbank.mean(dim=0)
    found = patch_relevance(model, fbank, background, class_index=1, num_frames=20).view(2, 4)
    assert found[:, 2:].abs().max() == 0
    assert found[:, :2].abs().min() > 0
    torch.testing.assert_close(found[:, :2].flatten(), patch_relevance(model, fbank[:32], background, class_index=1))


def test_the_parameters_get_no_gradients() -> None:
    model, fbank = small_model(), small_fbank()
    with torch.no_grad():
        patch_relevance(model, fbank.detach(), fbank.detach().mean(dim=0), class_index=1)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("stride", "num_mels"), [(16, 40), (10, 48)])
def test_a_bin_has_the_mean_of_the_patches_over_it(stride: int, num_mels: int) -> None:
    encoder = small_model(stride=stride, num_mels=num_mels).patch_encoder
    relevance = torch.randn(encoder.grid.num_patches, generator=torch.Generator().manual_seed(5))
    bins = spread_over_bins(relevance, encoder)
    assert bins.shape == (64, num_mels)
    for time in range(64):
        for mel in range(num_mels):
            over = [
                float(relevance[encoder.grid.index(f, t)])
                for f in range(encoder.grid.freq)
                for t in range(encoder.grid.time)
                if f * stride <= mel < f * stride + 16 and t * stride <= time < t * stride + 16
            ]
            assert float(bins[time, mel]) == pytest.approx(sum(over) / max(1, len(over)), abs=1e-6)


def test_a_model_without_patches_is_refused() -> None:
    model = LungSoundClassifier(convolutional_encoder("cnn6"), CLASSES)
    with pytest.raises(ValueError, match="cnn6"):
        patch_relevance(model, torch.zeros(64, 32), torch.zeros(32), class_index=0)
