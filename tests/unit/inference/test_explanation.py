"""The relevance of a cycle's own sound: its frames, its repetitions."""

from pathlib import Path

import pytest
import torch

from lungsound.audio.filter_bank import normalize
from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings
from lungsound.errors import SettingsError
from lungsound.inference.explain import fold, own_frames, patch_relevance, relevance, spread_over_bins
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
    waveform = torch.randn(6000, generator=torch.Generator().manual_seed(1))
    found = relevance(trained, waveform, class_index=2)
    assert found.shape == (38, 32)  # 6000 samples, 160 a frame
    fbank = normalize(trained.front_end.filter_banks_of([waveform]), mean=trained.mean, std=trained.std)[0]
    num_frames = None if is_padding_encoded else 38
    mean = fbank.mean(dim=0)
    patches = patch_relevance(trained.model, fbank, mean, class_index=2, num_frames=num_frames)
    bins = spread_over_bins(patches, trained.model.patch_encoder)
    assert float(found.sum()) == pytest.approx(float(bins.sum()), rel=1e-4)
    # 98 frames, so the input begins again at 37.5 and 75 frames: frame 5 is heard in 5, 43 and 80.
    torch.testing.assert_close(found[5], bins[5] + bins[43] + bins[80])
    assert is_padding_encoded == bool(bins[80].abs().max() > 0)


def test_relevance_is_for_the_answer_unless_another_class_is_asked_for(tmp_path: Path) -> None:
    trained = saved_model(tmp_path)
    waveform = torch.randn(9000, generator=torch.Generator().manual_seed(2))
    fbank = normalize(trained.front_end.filter_banks_of([waveform]), mean=trained.mean, std=trained.std)
    answered = int(trained.model(fbank).argmax())
    by_class = [relevance(trained, waveform, class_index=index) for index in range(4)]
    assert torch.equal(relevance(trained, waveform), by_class[answered])
    assert not torch.equal(by_class[answered], by_class[(answered + 1) % 4])


def test_a_convolutional_model_is_refused_in_one_line(tmp_path: Path) -> None:
    trained = saved_model(tmp_path, audio=EFFICIENTAT_AUDIO, architecture=MOBILENET)
    with pytest.raises(SettingsError, match=r"mn04 .* a model of patches"):
        relevance(trained, torch.randn(9000, generator=torch.Generator().manual_seed(3)))
