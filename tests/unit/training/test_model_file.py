"""Tensors and facts in one file, and models that come back from it as they were."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, ModelSettings
from lungsound.errors import WeightsError
from lungsound.evaluation.calibration import fit_calibration
from lungsound.evaluation.evidence import Evidence, Measured, Trained
from lungsound.evaluation.out_of_domain import Domain, Gate, fit_domain, fit_gate
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import LungSoundClassifier, make_classifier
from lungsound.training.checkpoint import CHECKPOINT_FORMAT
from lungsound.training.model_file import (
    MODEL_FORMAT,
    add_to_model,
    load_model,
    read_arrays,
    read_facts,
    save_model,
    write_arrays,
    write_rounded,
)
from tests.unit.evaluation.calibrated import drawn_predictions

AUDIO = AudioSettings(duration_s=0.5, num_mels=32, padding="zero")
ARCHITECTURE = ModelSettings(size="micro", stride=16, norm_eps=1e-5)


def make_model(
    *, architecture: ModelSettings = ARCHITECTURE, audio: AudioSettings = AUDIO, label_set: str = "sound2"
) -> LungSoundClassifier:
    model = make_classifier(architecture, FrontEnd(audio), LABEL_SETS[label_set], projection_dim=7)
    model.initialize(torch.Generator().manual_seed(0))
    return model.eval()


def save(path: Path, model: LungSoundClassifier, *, architecture: ModelSettings = ARCHITECTURE) -> Path:
    save_model(
        path,
        model,
        audio=AUDIO,
        architecture=architecture,
        mean=-4.0,
        std=3.5,
        label_set=LABEL_SETS["sound2"],
    )
    return path


# ---- files ----


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    tensors = {"b": np.random.default_rng(0).normal(size=(2, 3)), "a": np.arange(4), "scalar": np.array(2.5)}
    facts = {"format": "x", "progress": {"losses": [0.1, 1e-30, 3.0]}}
    write_arrays(tmp_path / "file", tensors, facts)
    found, found_facts = read_arrays(tmp_path / "file", expected_format="x")
    assert found_facts == facts
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], value) for name, value in tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_files_are_those_that_torch_would_write(tmp_path: Path) -> None:
    """Also of a checkpoint, whose tensors are of other kinds."""
    arrays = {"b": np.ones((2, 3), np.float32), "a": np.arange(4), "half": np.ones(5, np.float16), "is": np.ones(2) > 0}
    write_arrays(tmp_path / "ours", arrays, {"format": "x"})
    with safe_open(tmp_path / "ours", framework="pt") as file:
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        save_file(tensors, tmp_path / "theirs", metadata=file.metadata())
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = np.ones((2, 3)), np.arange(4)
    write_arrays(tmp_path / "one", {"a": first, "b": second}, {"format": "x", "z": 1})
    write_arrays(tmp_path / "two", {"b": second, "a": first}, {"format": "x", "z": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_views_of_one_tensor_are_written_whole(tmp_path: Path) -> None:
    square = np.arange(6.0).reshape(2, 3)
    write_arrays(tmp_path / "file", {"turned": square.T}, {"format": "x"})
    assert np.array_equal(read_arrays(tmp_path / "file", expected_format="x")[0]["turned"], square.T)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_arrays(tmp_path / "file", {"a": np.ones(2)}, {"format": "x"})
    before = (tmp_path / "file").read_bytes()
    with pytest.raises(TypeError):
        write_arrays(tmp_path / "file", {"a": np.zeros(2)}, {"format": object()})
    assert (tmp_path / "file").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not weights\n", b"\x10\0\0\0\0\0\0\0{broken", b"\xff" * 64])
def test_what_is_no_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged or no safetensors file") as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model.safetensors", make_model())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        load_model(path)


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_arrays(path, {"a": np.arange(5.0), "b": np.ones(2, np.float16)}, {"format": "x", "n": 1.5})
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(WeightsError):
            read_arrays(path, expected_format="x")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no file"):
        load_model(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="damaged or no safetensors file"):
        load_model(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path / "file", {"a": np.ones(2)}, {"format": CHECKPOINT_FORMAT})
    with pytest.raises(WeightsError, match=f"'{CHECKPOINT_FORMAT}', expected '{MODEL_FORMAT}'"):
        load_model(tmp_path / "file")
    save_file({"a": torch.ones(2)}, tmp_path / "foreign")
    with pytest.raises(WeightsError, match="is of format None"):
        load_model(tmp_path / "foreign")
    save_file({"a": torch.ones(2)}, tmp_path / "list", metadata={"lungsound": "[]"})
    with pytest.raises(WeightsError, match="is of format None"):
        load_model(tmp_path / "list")


# ---- models ----


def test_a_model_comes_back_with_all_that_gives_it_meaning(tmp_path: Path) -> None:
    model = make_model()
    path = save(tmp_path / "model.safetensors", model)
    found = load_model(path)
    assert found.front_end == FrontEnd(AUDIO)
    assert (found.mean, found.std) == (-4.0, 3.5)
    assert found.label_set is LABEL_SETS["sound2"]
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not found.model.training
    assert found.model.encoder.norm.eps == 1e-5
    fbank = torch.randn(2, found.front_end.num_frames, 32)
    assert torch.equal(found.model(fbank), model(fbank))


@pytest.mark.parametrize("architecture", ["cnn6", "mn04", "resnet10", "efficientnet_b0"])
def test_a_convolutional_model_comes_back(architecture: str, tmp_path: Path) -> None:
    settings = ModelSettings.model_validate({"architecture": architecture, "first_kernel": "new"})
    model = make_model(architecture=settings)
    fbank = torch.randn(3, FrontEnd(AUDIO).num_frames, 32)
    model.train()(fbank)  # so that the batch norms have statistics and a count
    path = save(tmp_path / "model.safetensors", model.eval(), architecture=settings)
    found = load_model(path)
    assert torch.equal(found.model(fbank), model(fbank))
    _, facts = read_arrays(path, expected_format=MODEL_FORMAT)
    assert "patch_grid" not in facts
    assert facts["model"]["architecture"] == architecture
    assert not {"pretrained", "first_kernel", "position_grid", "is_head_pretrained"} & facts["model"].keys()


def test_a_network_that_is_first_asked_for_in_inference_mode_has_gradients(tmp_path: Path) -> None:
    found = load_model(save(tmp_path / "model.safetensors", make_model()))
    with torch.inference_mode():
        _ = found.model
    assert not any(value.is_inference() for value in found.model.parameters())


def test_the_pooling_of_a_transformer_comes_back(tmp_path: Path) -> None:
    settings = ARCHITECTURE.model_copy(update={"pooling": "average_token"})
    model = make_model(architecture=settings)
    found = load_model(save(tmp_path / "model.safetensors", model, architecture=settings))
    fbank = torch.randn(2, found.front_end.num_frames, 32)
    assert torch.equal(found.model(fbank), model(fbank))


def test_a_file_written_before_there_were_other_architectures_is_read(tmp_path: Path) -> None:
    model = make_model()
    path = save(tmp_path / "m", model)
    tensors, facts = read_arrays(path, expected_format=MODEL_FORMAT)
    assert facts["patch_grid"] == [model.patch_encoder.grid.freq, model.patch_encoder.grid.time]
    old_audio = {
        name: facts["audio"][name] for name in ("sample_rate_hz", "duration_s", "padding", "num_mels", "fade_s")
    }
    old_model = {name: facts["model"][name] for name in ("size", "stride", "norm_eps")}
    write_arrays(path, tensors, facts | {"audio": old_audio, "model": old_model})
    found = load_model(path)
    fbank = torch.randn(2, found.front_end.num_frames, 32)
    assert torch.equal(found.model(fbank), model(fbank))


def test_the_projector_is_left_out(tmp_path: Path) -> None:
    tensors, _ = read_arrays(save(tmp_path / "m", make_model()), expected_format=MODEL_FORMAT)
    assert tensors.keys() == {n for n in make_model().state_dict() if not n.startswith("projector.")}


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("audio", {"sample_rate": 5}),
        ("label_set", "sound9"),
        ("label_set", []),
        ("model", None),
        ("mean", "x"),
        ("mean", None),
        ("mean", float("nan")),
        ("std", 0.0),
    ],
)
def test_facts_that_make_no_sense_are_refused(fact: str, value: object, tmp_path: Path) -> None:
    path = save(tmp_path / "m", make_model())
    tensors, facts = read_arrays(path, expected_format=MODEL_FORMAT)
    write_arrays(path, tensors, facts | {fact: value})
    with pytest.raises(WeightsError, match="is not as expected") as caught:
        load_model(path)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    write_arrays(path, tensors, {name: value for name, value in facts.items() if name != fact})
    with pytest.raises(WeightsError, match="is not as expected"):
        load_model(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    """Their answers would be NaN, and the first class."""
    model = make_model()
    with torch.no_grad():
        model.head[-1].weight[0, 0] = value
    with pytest.raises(
        WeightsError, match=r"m: head\.1\.weight holds values that are no finite numbers; copy or train"
    ):
        load_model(save(tmp_path / "m", model))


def test_facts_of_another_shape_than_the_weights_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m", make_model(audio=AUDIO.model_copy(update={"duration_s": 1.0})))
    with pytest.raises(WeightsError, match=r"does not fit this model: encoder\.pos_embed is \(1, \d+, 96\), expected"):
        _ = load_model(path).model


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    tensors, facts = read_arrays(save(tmp_path / "m", make_model()), expected_format=MODEL_FORMAT)
    for change, message in (
        ({"head.1.bias": None}, r"head\.1\.bias is missing, expected \(\d,\)"),
        ({"head.9.bias": np.ones(3)}, r"head\.9\.bias is \(3,\), expected no such weight"),
        ({"head.1.bias": np.ones(9)}, r"head\.1\.bias is \(9,\), expected \(\d,\)"),
    ):
        merged = {name: value for name, value in (tensors | change).items() if value is not None}
        write_arrays(tmp_path / "m", merged, facts)
        with pytest.raises(WeightsError, match=f"m does not fit this model: {message}; "):
            _ = load_model(tmp_path / "m").model


def test_facts_are_readable_without_this_package(tmp_path: Path) -> None:
    content = save(tmp_path / "m", make_model()).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    facts = json.loads(header["__metadata__"]["lungsound"])
    assert facts["audio"]["num_mels"] == 32
    assert facts["model"]["size"] == "micro"
    assert "medical" in facts["note"]


# ---- what is kept of the training set ----


def drawn_domain() -> Domain:
    features = np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32)
    domain = fit_domain(features, [f"p{row % 6}" for row in range(60)], generator=np.random.default_rng(0))
    assert domain is not None
    return domain


def drawn_gate(seed: int = 0) -> Gate:
    lungs, others = np.random.default_rng(seed).normal([[[0.0]], [[2.0]]], size=(2, 30, 4)).astype(np.float32)
    return fit_gate(lungs, others, [lungs])


def test_gates_come_back_beside_the_domain(tmp_path: Path) -> None:
    path, domain, gate, doubted = save(tmp_path / "model", make_model()), drawn_domain(), drawn_gate(), drawn_gate(1)
    add_to_model(path, gate=gate)
    add_to_model(path, domain=domain, doubted=doubted)
    found = load_model(path)
    assert found.domain is not None
    assert found.domain.id == domain.id
    for kept, given in ((found.gate, gate), (found.doubted, doubted)):
        assert kept is not None
        for name in ("mean", "std", "weights", "threshold"):
            assert getattr(kept, name).tolist() == getattr(given, name).tolist()


def test_the_domain_comes_back_and_the_calibration_stays(tmp_path: Path) -> None:
    path, domain, calibration = (
        save(tmp_path / "model", make_model()),
        drawn_domain(),
        fit_calibration(drawn_predictions(0)),
    )
    assert load_model(path).domain is None
    add_to_model(path, calibration=calibration, domain=None)
    add_to_model(path, calibration=None, domain=domain)
    add_to_model(path, calibration=calibration, domain=None)
    found = load_model(path)
    assert found.domain is not None
    assert found.domain.id == domain.id
    assert found.calibration == calibration
    fbank = torch.randn(2, 48, 32)
    assert torch.equal(found.model(fbank), make_model()(fbank))


def drawn_evidence() -> Evidence:
    group = Measured.of(drawn_predictions(1), name="x", ages_years=[3.0, 0.1])
    trained = (Trained(name="x", num_patients=2, ages_years=((0.1, 3.0), (30.0, 30.0)), devices=("A",)),)
    return Evidence(trained=trained, is_synthetic=False, held_out=group, measured=(group,))


def test_the_evidence_comes_back_and_all_else_stays(tmp_path: Path) -> None:
    path, evidence = save(tmp_path / "model.safetensors", make_model()), drawn_evidence()
    assert load_model(path).evidence is None
    assert read_facts(path).evidence is None
    add_to_model(path, calibration=fit_calibration(drawn_predictions(2)))
    add_to_model(path, evidence=evidence)
    found = load_model(path)
    assert found.evidence == read_facts(path).evidence == evidence
    assert found.calibration is not None
    before = path.read_bytes()
    add_to_model(path, evidence=evidence)
    assert path.read_bytes() == before


def test_damaged_evidence_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model.safetensors", make_model())
    tensors, facts = read_arrays(path, expected_format=MODEL_FORMAT)
    write_arrays(path, tensors, facts | {"evidence": {"trained_on": 3}})
    for read in (load_model, read_facts):
        with pytest.raises(WeightsError, match="is not as expected: evidence"):
            read(path)


@pytest.mark.parametrize("damage", [{"mean": None}, {"std": np.zeros(64)}, {"more": np.zeros(1)}])
def test_a_damaged_domain_is_refused(damage: dict[str, NDArray[Any] | None], tmp_path: Path) -> None:
    path = save(tmp_path / "model", make_model())
    add_to_model(path, calibration=None, domain=drawn_domain())
    tensors, facts = read_arrays(path, expected_format=MODEL_FORMAT)
    changed = tensors | {f"domain.{name}": value for name, value in damage.items()}
    write_arrays(path, {name: value for name, value in changed.items() if value is not None}, facts)
    with pytest.raises(WeightsError, match="what it keeps of its training set is damaged") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_devices_come_back_and_an_older_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save_model(
        path,
        make_model(),
        audio=AUDIO,
        architecture=ARCHITECTURE,
        mean=-4.0,
        std=3.5,
        label_set=LABEL_SETS["sound2"],
        devices=["Litt3200", "Meditron"],
    )
    assert load_model(path).devices == ("Litt3200", "Meditron")
    tensors, facts = read_arrays(path, expected_format=MODEL_FORMAT)
    del facts["devices"]
    write_arrays(path, tensors, facts)
    assert load_model(path).devices == ()


# ---- rounded to float16 ----


@pytest.mark.parametrize("architecture", ["ast", "mn04"])
def test_a_rounded_model_is_half_the_size_and_computes_in_float32(architecture: str, tmp_path: Path) -> None:
    settings = ModelSettings.model_validate({"architecture": architecture, "size": "micro", "stride": 16})
    model = make_model(architecture=settings)
    path = save(tmp_path / "model", model, architecture=settings)
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    domain = fit_domain(features, [str(row % 10) for row in range(40)], generator=np.random.default_rng(0))
    add_to_model(path, calibration=fit_calibration(drawn_predictions(0)), domain=domain)
    add_to_model(path, gate=drawn_gate(), doubted=drawn_gate(1))
    write_rounded(path, tmp_path / "half")
    write_rounded(path, tmp_path / "again")
    assert (tmp_path / "half").read_bytes() == (tmp_path / "again").read_bytes()
    found, before = load_model(tmp_path / "half"), load_model(path)
    weights = before.model.state_dict().values()
    num_weights = sum(value.numel() for value in weights if value.is_floating_point())
    saved = path.stat().st_size - (tmp_path / "half").stat().st_size
    assert 0 < saved - 2 * num_weights < 10_000  # the calibration, the gates
    for name, value in before.model.state_dict().items():
        other = found.model.state_dict()[name]
        assert other.dtype == value.dtype
        assert torch.equal(other, value.half().float() if value.is_floating_point() else value), name
    assert found.domain is not None
    assert domain is not None
    assert found.domain.id == domain.id
    assert before.calibration is not None
    assert (found.calibration, found.gate, found.doubted) == (None, None, None)
    assert (found.mean, found.std, found.front_end) == (before.mean, before.std, before.front_end)


def test_a_weight_that_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.encoder.norm.weight[0] = 70000.0
    path = save(tmp_path / "model", model)
    with pytest.raises(WeightsError, match=r"encoder\.norm\.weight holds 7e\+04, more than float16 can"):
        write_rounded(path, tmp_path / "half")
    assert not (tmp_path / "half").exists()
