"""Head, projector, initialisation, and probabilities for many batches."""

import numpy as np
import pytest
import torch
from torch import nn

from lungsound.models.classifier import LungSoundClassifier, Projector, predict_cycles
from lungsound.models.cnn import convolutional_encoder
from tests.networks import make_ast


def classifier(*, seed: int = 0, projection_dim: int | None = 5) -> LungSoundClassifier:
    encoder = make_ast(num_mels=32, num_frames=48, dim=12, depth=1, num_heads=3)
    model = LungSoundClassifier(encoder, ("a", "b", "c"), projection_dim=projection_dim)
    model.initialize(torch.Generator().manual_seed(seed))
    return model


def fbanks(num: int = 7) -> torch.Tensor:
    return torch.randn(num, 48, 32, generator=torch.Generator().manual_seed(1))


def test_logits_are_layer_norm_and_a_linear_map_of_the_feature() -> None:
    model = classifier().double().eval()
    fbank = fbanks().double()
    feature = model.encoder(fbank)
    normed = (feature - feature.mean(1, keepdim=True)) / (feature.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    linear = model.head[1]
    assert isinstance(linear, nn.Linear)
    assert torch.allclose(model(fbank), normed @ linear.weight.T + linear.bias, atol=1e-12)
    assert model(fbank).shape == (7, 3)


def convolutional_classifier(*, seed: int = 0) -> LungSoundClassifier:
    model = LungSoundClassifier(convolutional_encoder("mn04"), ("a", "b", "c"))
    model.initialize(torch.Generator().manual_seed(seed))
    return model


def test_a_head_without_norm_is_one_linear_map_of_the_feature() -> None:
    model = convolutional_classifier().eval()
    (linear,) = model.head
    assert isinstance(linear, nn.Linear)
    expected = model.encoder(fbanks()) @ linear.weight.T + linear.bias
    assert torch.allclose(model(fbanks()), expected, atol=1e-6)
    assert model(fbanks()).shape == (7, 3)


def test_initialisation_of_a_convolutional_model_is_determined_by_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = convolutional_classifier().state_dict()
    torch.manual_seed(2)
    second, other = convolutional_classifier().state_dict(), convolutional_classifier(seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.0.weight"], other["head.0.weight"])
    assert not torch.equal(first["encoder.network.features.0.0.weight"], other["encoder.network.features.0.0.weight"])


def test_only_an_encoder_of_patches_can_mix_them() -> None:
    model = classifier()
    assert model.patch_encoder is model.encoder
    with pytest.raises(ValueError, match="Patch-Mix needs an encoder of patches, not mn04"):
        _ = convolutional_classifier().patch_encoder


def test_the_projector_is_linear_batch_norm_relu_linear() -> None:
    torch.manual_seed(0)
    projector = Projector(6, 4).double()
    features = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    hidden = projector.linear1(features)
    normed = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(projector(features), projector.linear2(normed.clamp(min=0)), atol=1e-12)


def test_the_projector_takes_no_part_in_an_answer() -> None:
    model = classifier().eval()
    before = model(fbanks())
    assert model.projector is not None
    for parameter in model.projector.parameters():
        parameter.data.fill_(float("nan"))
    assert torch.equal(model(fbanks()), before)
    assert classifier(projection_dim=None).projector is None


def test_initialisation_is_determined_by_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = classifier().state_dict()
    torch.manual_seed(2)
    second, other = classifier().state_dict(), classifier(seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    drawn = [name for name in first if name.startswith(("head.1", "projector.linear"))]
    assert len(drawn) == 6
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_initialisation_has_the_bounds_of_torchs_linear() -> None:
    state = classifier(projection_dim=200).state_dict()
    for name in ("head.1.weight", "head.1.bias", "projector.linear2.weight", "projector.linear2.bias"):
        assert state[name].abs().max() <= 12**-0.5
    assert state["projector.linear2.weight"].std() == pytest.approx(12**-0.5 / 3**0.5, rel=0.05)


def test_encoder_and_head_do_not_depend_on_whether_there_is_a_projector() -> None:
    with_one, without = classifier().state_dict(), classifier(projection_dim=None).state_dict()
    assert all(torch.equal(with_one[name], value) for name, value in without.items())


def test_probabilities_of_many_batches_equal_those_of_one() -> None:
    model = classifier()
    seen: list[int] = []
    batches = [(part, None) for part in fbanks().split(3)]
    probabilities, features = predict_cycles(model, batches, device=torch.device("cpu"), on_progress=seen.append)
    with torch.no_grad():
        expected = torch.exp(model(fbanks())) / torch.exp(model(fbanks())).sum(1, keepdim=True)
        np.testing.assert_allclose(probabilities, expected, atol=1e-6)
        np.testing.assert_allclose(features, model.encoder(fbanks()), atol=1e-6)
    assert seen == [3, 6, 7]
    assert not model.training


def test_bfloat16_predicts_float32_numbers_near_the_exact_ones() -> None:
    model = classifier()
    exact, rounded = (
        predict_cycles(model, [(fbanks(), None)], device=torch.device("cpu"), is_bf16=is_bf16)[0]
        for is_bf16 in (False, True)
    )
    assert rounded.dtype == np.float32
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.05)


def test_no_batches_give_no_probabilities() -> None:
    probabilities, features = predict_cycles(classifier(), [], device=torch.device("cpu"))
    assert (probabilities.shape, features.shape) == ((0, 3), (0, classifier().encoder.dim))
