import numpy as np
import pytest
import torch

from lungsound.audio.augment import Mask, SpecAugmentDraw, apply_specaugment, draw_specaugment
from lungsound.errors import SettingsError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestDraw:
    def test_the_same_seed_draws_the_same_masks(self) -> None:
        first, again, other = (draw_specaugment(798, 128, generator=generator(seed)) for seed in (1, 1, 2))
        assert first == again != other

    @pytest.mark.parametrize(("num_frames", "num_mels"), [(798, 128), (100, 20), (1, 1)])
    def test_masks_fit_their_axis(self, num_frames: int, num_mels: int) -> None:
        random = generator()
        for _ in range(300):
            draw = draw_specaugment(num_frames, num_mels, generator=random, num_time_masks=3)
            assert draw.is_applied
            assert (len(draw.frequency), len(draw.time)) == (2, 3)
            for masks, size, max_width in ((draw.frequency, num_mels, 48), (draw.time, num_frames, 160)):
                for mask in masks:
                    assert 0 <= mask.width < max_width
                    assert 0 <= mask.start <= size - mask.width

    def test_every_width_below_the_maximum_and_every_start_up_to_the_last(self) -> None:
        random = generator()
        draws = [draw_specaugment(5, 5, generator=random, max_frequency_width=3, max_time_width=3) for _ in range(1500)]
        masks = [mask for draw in draws for mask in draw.frequency + draw.time]
        expected = {(start, width) for width in range(3) for start in range(5 - width + 1)}
        assert {(mask.start, mask.width) for mask in masks} == expected
        counts = np.bincount([mask.width for mask in masks])
        assert np.abs(counts / len(masks) - 1 / 3).max() < 0.03

    @pytest.mark.parametrize(("probability", "share"), [(0.0, 0), (0.3, 0.3), (1.0, 1)])
    def test_probability(self, probability: float, share: float) -> None:
        random = generator()
        draws = [draw_specaugment(9, 9, generator=random, probability=probability) for _ in range(2000)]
        assert np.mean([draw.is_applied for draw in draws]) == pytest.approx(share, abs=0.03 * (0 < share < 1))
        assert all(draw == SpecAugmentDraw((), (), is_applied=False) for draw in draws if not draw.is_applied)

    def test_published_gate_follows_the_normal_number(self) -> None:
        random, same = generator(), generator()
        share = 0.0
        for _ in range(2000):
            same.set_state(random.get_state())
            draw = draw_specaugment(9, 9, generator=random, gate="published", probability=0)
            assert draw.is_applied == bool(torch.randn((), generator=same) <= 1)
            share += draw.is_applied / 2000
        assert share == pytest.approx(0.8413, abs=0.03)

    def test_unknown_gate(self) -> None:
        with pytest.raises(SettingsError, match="'always'"):
            draw_specaugment(9, 9, generator=generator(), gate="always")  # type: ignore[arg-type]


def naive_apply(fbank: np.ndarray, draw: SpecAugmentDraw, *, is_mean: bool) -> np.ndarray:
    """The rule bin by bin: mean of the input, frequency masks, mean of that, time masks."""
    masked = [list(row) for row in fbank]
    value = sum(sum(row) for row in masked) / fbank.size if is_mean else 0.0
    for mask in draw.frequency:
        for row in masked:
            for mel in range(mask.start, mask.start + mask.width):
                row[mel] = value
    value = sum(sum(row) for row in masked) / fbank.size if is_mean else 0.0
    for mask in draw.time:
        for frame in range(mask.start, mask.start + mask.width):
            masked[frame] = [value] * fbank.shape[1]
    return np.array(masked)


class TestApply:
    fbank = torch.arange(54, dtype=torch.float64).reshape(9, 6).sqrt()
    draw = SpecAugmentDraw(
        frequency=(Mask(1, 2), Mask(5, 1)), time=(Mask(0, 1), Mask(4, 0), Mask(6, 3)), is_applied=True
    )

    @pytest.mark.parametrize("fill", ["mean", "zero"])
    def test_against_loops(self, fill: str) -> None:
        before = self.fbank.clone()
        masked = apply_specaugment(self.fbank, self.draw, fill=fill)  # type: ignore[arg-type]
        np.testing.assert_allclose(masked.numpy(), naive_apply(self.fbank.numpy(), self.draw, is_mean=fill == "mean"))
        assert torch.equal(self.fbank, before)

    def test_nothing_drawn_is_an_equal_copy(self) -> None:
        masked = apply_specaugment(self.fbank, SpecAugmentDraw((), (), is_applied=False))
        assert torch.equal(masked, self.fbank)
        assert masked.data_ptr() != self.fbank.data_ptr()

    def test_a_draw_for_another_size(self) -> None:
        with pytest.raises(ValueError, match="beyond an axis of 5"):
            apply_specaugment(self.fbank[:5], self.draw)

    def test_unknown_fill(self) -> None:
        with pytest.raises(SettingsError, match="'noise'"):
            apply_specaugment(self.fbank, self.draw, fill="noise")  # type: ignore[arg-type]
