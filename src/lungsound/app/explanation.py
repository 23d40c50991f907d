"""Why a cycle was answered as it was: the relevance of each moment and frequency of its sound."""

import torch
from torch import Tensor

from lungsound.audio.fbank import normalize
from lungsound.audio.front_end import FrontEnd
from lungsound.checkpoint import TrainedModel
from lungsound.errors import SettingsError
from lungsound.model.encoder import AudioSpectrogramTransformer
from lungsound.model.relevance import patch_relevance, spread_over_bins


def relevance(trained: TrainedModel, waveform: Tensor, *, class_index: int | None = None) -> Tensor:
    """Relevance (time, mel) of a cycle's own sound, from its waveform (samples,) as `FrontEnd.cut` gives it.

    Positive bins speak for the class (by default the one that is answered), negative ones against it, as against a
    sound that always is what this one is on average at each frequency. Frames begin one hop after the other, as those
    of its filter bank. A cycle that is repeated up to the input's length is heard several times: the relevances of a
    moment's repetitions are added up. A longer cycle has frames for what of it is heard. Raises SettingsError for a
    convolutional model, which has no patches.
    """
    check_explainable(trained)
    encoder, front_end = trained.model.patch_encoder, trained.front_end
    fbank = normalize(front_end.filter_banks_of([waveform]), mean=trained.mean, std=trained.std)
    fbank = fbank.to(encoder.pos_embed.device)
    num_frames = front_end.num_own_frames(len(waveform))
    if class_index is None:
        with torch.inference_mode():
            own = None if num_frames is None else torch.tensor([num_frames])
            class_index = int(trained.model(fbank, own).argmax())
    own_frame = own_frames(front_end, len(waveform))
    background = fbank[0, own_frame >= 0].mean(dim=0)
    found = patch_relevance(trained.model, fbank[0], background, class_index=class_index, num_frames=num_frames)
    return fold(spread_over_bins(found, encoder), own_frame)


def check_explainable(trained: TrainedModel) -> None:
    """SettingsError for a model without patches."""
    encoder = trained.model.encoder
    if not isinstance(encoder, AudioSpectrogramTransformer):
        raise SettingsError(
            f"the answers of {encoder.architecture} cannot be explained: only a model of patches "
            "(model.architecture 'ast') says which of them an answer rests on"
        )


def own_frames(front_end: FrontEnd, num_samples: int) -> Tensor:
    """For each frame (time,) of the input, the frame of the own sound of a cycle of `num_samples` that is heard there.

    -1 for frames in padding with zeros.
    """
    hop = front_end.log_mel.hop_size
    starts = hop * torch.arange(front_end.num_frames)
    if num_samples > front_end.num_samples:
        return starts // hop
    if front_end.padding == "repeat":
        return starts % num_samples // hop
    starts -= (front_end.num_samples - num_samples) // 2
    return torch.where((starts >= 0) & (starts < num_samples), starts // hop, -1)


def fold(bins: Tensor, own_frame: Tensor) -> Tensor:
    """Values of the input (time, mel) summed up by frame of the cycle's own sound (time,)."""
    is_own = own_frame >= 0
    folded = bins.new_zeros(int(own_frame.max()) + 1, bins.shape[1])
    return folded.index_add_(0, own_frame[is_own], bins[is_own])
