"""Settings become objects: every setting arrives, and what does not fit together is refused in one line."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from lungsound.audio.front_end import FrontEnd
from lungsound.config import (
    AugmentSettings,
    DataSettings,
    ModelSettings,
    ObjectiveSettings,
    PatchMixSettings,
    RunConfig,
    TrainSettings,
    load_config,
)
from lungsound.data.batches import Inputs, TrainingBatches, specaugment, training_batches
from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.splits import Parts, divide, load_corpus
from lungsound.errors import CorpusError, SettingsError
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import (
    LungSoundClassifier,
    find_device,
    initial_classifier,
    make_classifier,
)
from lungsound.models.cnn import ConvolutionalEncoder
from lungsound.models.weights import LoadReport
from lungsound.training.model_file import save_model
from lungsound.training.objectives import (
    CrossEntropy,
    PatchMixContrastive,
    PatchMixCrossEntropy,
    make_objective,
    patch_mix_draw,
)
from lungsound.training.trainer import Schedule, TrainStep
from tests.unit.data.trees import NORMAL, write_icbhi
from tests.unit.models.published_networks import random_state, resnet_shapes

CPU = torch.device("cpu")
NAMES = ["101_1b1_Al_sc_Meditron", "102_1b1_Ar_mc_Litt3200", "103_1b1_Ar_sc_AKGC417L"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_icbhi(tmp_path, dict.fromkeys(NAMES, NORMAL))
    split = "".join(f"{name}\t{part}\n" for name, part in zip(NAMES, ["train", "train", "test"], strict=True))
    (tmp_path / "official_split.txt").write_text(split)
    return tmp_path


def make_corpus(parts: dict[str, str], *, num_cycles: int = 4) -> Corpus:
    """A corpus of one recording for each patient; nothing lies on disk."""
    recordings = tuple(
        Recording(
            name=f"r{patient}", patient=patient, path=Path(f"r{patient}.wav"), duration_s=9.0, sample_rate_hz=4000
        )
        for patient in parts
    )
    cycles = tuple(
        Cycle(recording, float(i), i + 1.0, has_crackle=i % 2 == 1, has_wheeze=i % 4 > 1)
        for recording in recordings
        for i in range(num_cycles)
    )
    split = {f"r{patient}": part for patient, part in parts.items() if part}
    return Corpus("icbhi", Path("somewhere"), recordings, cycles, split)


# ---- device and precision ----


def test_device() -> None:
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert find_device("auto").type == kind
    assert find_device("cpu") == CPU
    for name in ("abacus", "cuda:99", "", "cpu cpu"):
        with pytest.raises(SettingsError, match=f"^device '{name}' (cannot be used here|is not known)[^\n]*$"):
            find_device(name)


# ---- corpus and parts ----


def test_a_corpus_is_filtered_by_device_and_mode(tree: Path) -> None:
    for settings, kept in (
        ({}, NAMES),
        ({"devices": ("Litt3200", "Meditron")}, NAMES[:2]),
        ({"modes": ("sc",)}, [NAMES[0], NAMES[2]]),
        ({"devices": ("AKGC417L",), "modes": ("sc",)}, NAMES[2:]),
        ({"left_out_recordings": (NAMES[1],)}, [NAMES[0], NAMES[2]]),
    ):
        corpus = load_corpus(DataSettings.model_validate({"root": str(tree), **settings}))
        assert [recording.name for recording in corpus.recordings] == kept
        assert [cycle.recording.name for cycle in corpus.cycles] == kept
    with pytest.raises(SettingsError, match="no corpus given: name its folder with --data DIR"):
        load_corpus(DataSettings())
    with pytest.raises(CorpusError, match=r"no cycles in .* from devices \['LittC2SE'\]"):
        load_corpus(DataSettings(root=str(tree), devices=("LittC2SE",)))
    with pytest.raises(SettingsError, match=r"left_out_recordings: .* has no recording 'x'"):
        load_corpus(DataSettings(root=str(tree), left_out_recordings=("x", NAMES[0])))


def test_only_recordings_of_some_parts_are_kept(tree: Path) -> None:
    every = load_corpus(DataSettings(root=str(tree)))
    for part in every.parts:
        corpus = load_corpus(DataSettings(root=str(tree), parts=(part,)))
        assert corpus.parts == (part,)
        assert corpus.cycles == every.part(part)
    with pytest.raises(CorpusError, match=r"and parts \['inter'\]"):
        load_corpus(DataSettings(root=str(tree), parts=("inter",)))


def parts_of(config: RunConfig, corpus: Corpus, *, is_tested: bool = True) -> Parts:
    return divide(corpus, config.data, config.train, is_tested=is_tested)


def config(**train: object) -> RunConfig:
    return RunConfig(name="x", train=TrainSettings.model_validate(train))


def test_a_training_that_is_not_tested_needs_no_test_part() -> None:
    alone = make_corpus({"1": "train", "2": "train", "3": "train", "4": ""}, num_cycles=2)
    parts = parts_of(config(), alone, is_tested=False)
    assert parts.test == ()
    assert sorted(parts.train + parts.validation) == [0, 1, 2, 3, 4, 5]
    patients = [{alone.cycles[row].recording.patient for row in rows} for rows in (parts.train, parts.validation)]
    assert min(map(len, patients)) > 0
    assert not patients[0] & patients[1]
    tested = make_corpus({"1": "train", "2": "train", "3": "test", "4": "train"}, num_cycles=2)
    assert parts_of(config(), tested, is_tested=False) == parts_of(config(), tested)
    for settings, is_tested in ((DataSettings(), True), (DataSettings(protocol="published"), False)):
        with pytest.raises(CorpusError, match=r"0 cycles in the test parts \[\]; its parts are \['train'\]"):
            parts_of(RunConfig(name="x", data=settings), alone, is_tested=is_tested)


def test_parts_are_rows_of_the_corpus_and_what_is_in_no_part_is_in_none() -> None:
    corpus = make_corpus({"1": "train", "2": "inter", "3": "train", "4": "", "5": "intra"}, num_cycles=2)
    published = DataSettings(protocol="published")
    parts = parts_of(RunConfig(name="x", data=published), corpus)
    assert (parts.train, parts.validation, parts.test) == ((0, 1, 4, 5), (), (2, 3, 8, 9))
    only = RunConfig(name="x", data=DataSettings(test_parts=("intra",), protocol="published"))
    assert divide(corpus, only.data, only.train).test == (8, 9)


def test_validation_takes_whole_patients_out_of_the_training_part() -> None:
    corpus = make_corpus({str(i): "train" for i in range(10)} | {"t": "test"})
    parts = parts_of(config(validation_share=0.3), corpus)
    patients = [{corpus.cycles[row].recording.patient for row in rows} for rows in (parts.train, parts.validation)]
    assert len(patients[1]) == 3
    assert not patients[0] & patients[1]
    assert patients[0] | patients[1] == {str(i) for i in range(10)}
    assert sorted(parts.train + parts.validation) == list(range(40))
    assert parts.test == tuple(range(40, 44))
    assert parts_of(config(selection="validation", validation_share=0.3), corpus) == parts
    other = parts_of(config(validation_share=0.3, seed=1), corpus)
    assert other.validation != parts.validation


def test_an_epoch_chosen_on_validation_needs_held_out_patients() -> None:
    corpus = make_corpus({str(i): "train" for i in range(10)} | {"t": "test"})
    chosen = RunConfig(name="x", data=DataSettings(protocol="published"), train=TrainSettings(selection="validation"))
    with pytest.raises(SettingsError, match=r"needs held-out patients.*set data\.protocol=strict"):
        divide(corpus, chosen.data, chosen.train)


def test_a_threshold_needs_validation_patients_a_normal_class_and_cycles_of_both_sides() -> None:
    corpus = make_corpus({str(i): "train" for i in range(10)} | {"t": "test"})
    settings = TrainSettings(is_threshold_chosen=True)
    assert divide(corpus, DataSettings(), settings) == divide(corpus, DataSettings(), TrainSettings())
    corpus = make_corpus({str(i): "train" for i in range(10)} | {"t": "test"}, num_cycles=1)
    for data, message in (
        (DataSettings(protocol="published"), r"needs held-out patients.*set data\.protocol=strict"),
        (DataSettings(label_set="diagnosis3"), "needs a label set with a class 'normal'; diagnosis3 has healthy"),
        (DataSettings(), "needs normal and other cycles of validation patients; there are"),
    ):
        with pytest.raises(SettingsError, match=message) as caught:
            divide(corpus, data, settings)
        assert "\n" not in str(caught.value)


def test_parts_that_are_not_there_are_refused() -> None:
    for split in ({"1": "train"}, {"1": "test", "2": "test"}):
        with pytest.raises(CorpusError, match=r"(its parts are|the parts there are)"):
            parts_of(config(), make_corpus(split))
    unknown = RunConfig(name="x", data=DataSettings(test_parts=("inter", "intar")))
    with pytest.raises(CorpusError, match="intar"):
        parts_of(unknown, make_corpus({"1": "train", "2": "inter", "3": "intra"}))


# ---- filter banks ----


def test_augmentation_follows_its_settings() -> None:
    assert specaugment(AugmentSettings(is_on=False)) is None
    never = specaugment(AugmentSettings(probability=0.0))
    masks = specaugment(AugmentSettings(num_frequency_masks=0, num_time_masks=1, max_time_width=10, fill="zero"))
    assert never is not None
    assert masks is not None
    fbank = torch.ones(40, 20)
    assert torch.equal(never(fbank, torch.Generator().manual_seed(0), None), fbank)
    masked = masks(fbank, torch.Generator().manual_seed(1), None)
    columns = (masked == 0).all(1)
    assert 0 < int(columns.sum()) < 10
    assert (masked[~columns] == 1).all()
    assert (fbank == 1).all()


def test_time_masks_keep_to_the_frames_that_are_heard_and_shrink_with_them() -> None:
    masks = specaugment(AugmentSettings(num_frequency_masks=0, num_time_masks=1, max_time_width=160, fill="zero"))
    assert masks is not None
    widths = {}
    for num_frames in (200, 800):
        masked = [masks(torch.ones(800, 4), torch.Generator().manual_seed(seed), num_frames) for seed in range(200)]
        is_masked = torch.stack([(fbank == 0).all(1) for fbank in masked])
        assert not is_masked[:, num_frames:].any()
        assert is_masked[:, num_frames - 20 : num_frames].any()
        widths[num_frames] = is_masked.sum(1)
    assert widths[200].max() == 39  # less than 40, as 160 to 800
    assert abs(widths[800] - 4 * widths[200]).max() < 4  # the same draws


def batches_of_zeros(settings: RunConfig, rows: Sequence[int]) -> TrainingBatches:
    inputs = Inputs(np.zeros((9, 5, 4), dtype=np.float32), torch.zeros(9, dtype=torch.int64), None, 4, 0.0, 1.0)
    corpus, parts = make_corpus({"1": "train"}, num_cycles=9), Parts(train=tuple(rows), validation=(), test=())
    return training_batches(settings, corpus, parts, inputs, console=Console(quiet=True))


def test_training_batches_follow_their_settings() -> None:
    for is_dropped, num_steps in ((True, 2), (False, 3)):
        settings = config(batch_size=3, is_last_batch_dropped=is_dropped, seed=4)
        assert batches_of_zeros(settings, range(1, 9)).num_steps == num_steps
    with pytest.raises(SettingsError, match="3 training cycles fill no batch of 8"):
        batches_of_zeros(config(), [0, 1, 2])
    for batch_size in (1, 3):
        with pytest.raises(SettingsError, match="one cycle"):
            batches_of_zeros(config(batch_size=batch_size, is_last_batch_dropped=False), range(4))


# ---- model ----

MICRO = ["model.size=micro", "model.pretrained=none", "audio.duration_s=0.5", "audio.num_mels=32"]


def test_weights_are_determined_by_the_seed() -> None:
    states = []
    for seed in (0, 0, 1):
        run = load_config("demo", [*MICRO, f"train.seed={seed}"])
        states.append(initial_classifier(run, FrontEnd(run.audio))[0].state_dict())
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert not torch.equal(states[0]["head.1.weight"], states[2]["head.1.weight"])


def build(overrides: list[str]) -> tuple[LungSoundClassifier, LoadReport | None]:
    run = load_config("demo", overrides)
    return initial_classifier(run, FrontEnd(run.audio))


def test_only_the_contrastive_objective_has_a_projector() -> None:
    for overrides, dim in (
        (["objective.name=ce"], None),
        (["objective.name=patchmix_ce"], None),
        (["objective.name=patchmix_cl"], 96),
        (["objective.target=project_flow", "objective.projection_dim=24"], 24),
    ):
        model, report = build([*MICRO, *overrides])
        assert report is None
        assert (None if model.projector is None else model.projector.linear2.out_features) == dim, overrides


# ---- convolutional networks, and weights of earlier runs ----

MN04 = [*MICRO, "model.architecture=mn04", "objective.name=ce"]


def save_run(path: Path, overrides: list[str], *, seed: int = 5) -> LungSoundClassifier:
    """A trained model of these settings, as a run keeps it."""
    run = load_config("demo", [*overrides, f"train.seed={seed}"])
    made, _ = initial_classifier(run, FrontEnd(run.audio))
    label_set = LABEL_SETS[run.data.label_set]
    save_model(path, made, audio=run.audio, architecture=run.model, mean=0.0, std=1.0, label_set=label_set)
    return made


def test_a_convolutional_network_has_a_linear_head_and_weights_of_the_seed() -> None:
    made, report = build([*MN04, "train.seed=1"])
    assert report is None
    assert isinstance(made.encoder, ConvolutionalEncoder)
    assert made.encoder.architecture == "mn04"
    assert [type(layer) for layer in made.head] == [torch.nn.Linear]
    assert made.projector is None
    again, other = build([*MN04, "train.seed=1"])[0].state_dict(), build([*MN04, "train.seed=2"])[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in made.state_dict().items())
    assert not torch.equal(made.state_dict()["head.0.weight"], other["head.0.weight"])


def test_settings_that_do_not_fit_the_model_are_refused_in_a_line() -> None:
    for overrides, message in (
        ([*MICRO, "audio.duration_s=0.1"], "audio and model settings do not fit: a filter bank of 8 frames x 32 mels"),
        ([*MICRO, "objective.target=grad_block", "objective.projection_dim=24"], "projection_dim is 24, but target"),
        ([*MICRO, "objective.target=grad_flow", "objective.projection_dim=24"], "projection_dim is 24, but target"),
        ([*MICRO, "model.pretrained=nowhere"], "'nowhere': no such file, and no known name"),
        ([*MN04, "objective.name=patchmix_ce"], "'patchmix_ce' mixes patches, which mn04 does not have"),
        ([*MN04, "objective.name=patchmix_cl"], "'patchmix_cl' mixes patches, which mn04 does not have"),
        ([*MN04, "model.architecture=cnn6", "audio.duration_s=0.1"], "is too small for cnn6, which needs 16 of each"),
        ([*MN04, "model.pooling=average_token"], "'average_token' is of patches, which mn04 does not have"),
        ([*MN04, "model.is_head_pretrained=true"], r"is_head_pretrained needs model\.pretrained"),
    ):
        with pytest.raises(SettingsError, match=message) as caught:
            build(overrides)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("network", [MICRO, MN04])
def test_another_filter_bank_than_that_of_an_earlier_run_is_said(network: list[str], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_run(path, network)
    pretrained = f'model.pretrained="{path}"'
    _, same = build([*network, pretrained])
    _, other = build([*network, pretrained, "audio.sample_rate_hz=32000", "audio.filter_bank=efficientat"])
    assert same is not None
    assert other is not None
    assert not any(line.startswith("audio.") for line in same.differences)
    assert [line for line in other.differences if line.startswith("audio.")] == [
        "audio.filter_bank was kaldi where the weights were trained and is efficientat here",
        "audio.sample_rate_hz was 4000 where the weights were trained and is 32000 here",
    ]


def test_mn04_on_another_filter_bank_than_its_own_is_said(mn04_path: Path) -> None:
    own = ["audio.filter_bank=efficientat", "audio.sample_rate_hz=32000"]
    _, report = build([*MN04, f'model.pretrained="{mn04_path}"', *own])
    assert report is not None
    assert report.differences == ()
    _, report = build([*MN04, f'model.pretrained="{mn04_path}"'])
    assert report is not None
    assert "differs: audio.filter_bank was efficientat where the weights were trained and is kaldi" in report.summary()


def test_pooling_arrives() -> None:
    made, _ = build([*MICRO, "model.pooling=average_token"])
    assert made.patch_encoder.pooling == "average_token"


@pytest.mark.parametrize("network", [MICRO, MN04])
def test_an_earlier_run_gives_its_encoder_and_if_so_set_its_head(network: list[str], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    earlier = save_run(path, network).state_dict()
    heads = {name for name in earlier if name.startswith("head.")}
    for is_head_pretrained in (False, True):
        setting = f"model.is_head_pretrained={str(is_head_pretrained).lower()}"
        made, report = build([*network, f'model.pretrained="{path}"', setting])
        assert report is not None
        same = {name for name, value in made.state_dict().items() if torch.equal(value, earlier[name])}
        assert {name for name in earlier if name.startswith("encoder.")} <= same
        assert (heads <= same) == is_head_pretrained
        random = {name for name in report.new if not name.startswith("projector.")}
        assert random == (set() if is_head_pretrained else heads)


def test_a_head_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_run(path, [*MN04, "data.label_set=sound2"])
    wanted = [*MN04, f'model.pretrained="{path}"', "model.is_head_pretrained=true", "data.label_set=diagnosis2"]
    with pytest.raises(SettingsError, match=r"tells the classes of sound2 apart, but data\.label_set is 'diagnosis2'"):
        build(wanted)


def test_the_first_kernel_setting_arrives(tmp_path: Path) -> None:
    overrides = [*MICRO, "model.architecture=resnet10", "objective.name=ce"]
    state = random_state(resnet_shapes("resnet10"))
    torch.save(state, tmp_path / "resnet10.pth")
    overrides.append(f'model.pretrained="{tmp_path / "resnet10.pth"}"')
    name = "network.embedder.embedder.convolution.weight"
    summed, report = build(overrides)
    assert report is not None
    assert dict(report.adapted).keys() == {name}
    assert report.new == ("head.0.weight", "head.0.bias")
    drawn, report = build([*overrides, "model.first_kernel=new"])
    assert report is not None
    assert report.new == (name, "head.0.weight", "head.0.bias")
    kernels = [made.encoder.state_dict()[name] for made in (summed, drawn)]
    assert torch.allclose(kernels[0], state["conv1.weight"].sum(1, keepdim=True))
    random, _ = build([*overrides, "model.pretrained=none"])
    assert torch.equal(kernels[1], random.encoder.state_dict()[name])


# ---- objective and step ----


def test_an_objective_gets_its_settings() -> None:
    settings = ObjectiveSettings(
        temperature=0.2, alpha=0.3, target="project_flow", negatives="diff_label", is_class_weighted=True
    )
    made = make_objective(settings, PatchMixSettings(), class_counts=[4, 2, 1, 1], device=CPU)
    assert isinstance(made, PatchMixContrastive)
    assert made.settings == settings
    assert made.class_weights is not None
    assert made.class_weights.tolist() == pytest.approx([1 / 11, 2 / 11, 4 / 11, 4 / 11])
    for name, kind in {"ce": CrossEntropy, "patchmix_ce": PatchMixCrossEntropy}.items():
        plain = make_objective(
            ObjectiveSettings(name=name, is_class_weighted=name == "ce"),
            PatchMixSettings(),
            class_counts=[4, 2, 1, 1],
            device=CPU,
        )
        assert type(plain) is kind
        assert (plain.class_weights is not None) == (name == "ce")


def test_class_weights_need_cycles_of_every_class() -> None:
    settings = ObjectiveSettings(is_class_weighted=True)
    with pytest.raises(SettingsError, match=r"training cycles of every class; there are \[4, 0, 1, 1\]"):
        make_objective(settings, PatchMixSettings(), class_counts=[4, 0, 1, 1], device=CPU)
    settings = ObjectiveSettings()
    make_objective(settings, PatchMixSettings(), class_counts=[4, 0, 1, 1], device=CPU)


def test_the_draw_gets_its_settings() -> None:
    grid = make_classifier(
        ModelSettings(size="micro"), FrontEnd(load_config("demo", MICRO).audio), LABEL_SETS["sound4"]
    ).encoder.grid
    generator = torch.Generator().manual_seed(0)
    none = patch_mix_draw(PatchMixSettings(beta=0.0, is_lam_per_sample=False))(4, grid, generator)
    assert none.lam == 1
    each = patch_mix_draw(PatchMixSettings(is_lam_per_sample=True, axis="time"))(4, grid, generator)
    assert each.lam.shape == (4,)
    assert (each.lam * grid.time).tolist() == pytest.approx((each.lam * grid.time).round().tolist())
    for _ in range(20):
        partner = patch_mix_draw(PatchMixSettings(is_self_partner_allowed=False))(3, grid, generator).partner
        assert not (partner == torch.arange(3)).any()


def test_schedule_and_step_get_their_settings() -> None:
    settings = TrainSettings(
        epochs=7,
        learning_rate=0.5,
        schedule="step",
        decay_rate=0.2,
        decay_epochs=(3,),
        warmup_epochs=2,
        blend=0.25,
        optimizer="adamw",
        weight_decay=0.125,
        precision="bf16",
    )
    schedule = Schedule(settings)
    assert [schedule.at(epoch) for epoch in (3, 4)] == pytest.approx([0.5, 0.1])
    run = load_config("demo", MICRO)
    model, _ = initial_classifier(run, FrontEnd(run.audio))
    step = TrainStep(model, CrossEntropy(ObjectiveSettings()), settings, device=CPU)
    assert (step.blend, step.autocast_dtype) == (0.25, torch.bfloat16)
    assert isinstance(step.optimizer, torch.optim.AdamW)
    assert step.optimizer.param_groups[0]["weight_decay"] == 0.125
    assert not model.patch_encoder.is_checkpointed


def test_activation_checkpointing_reaches_the_ast_and_is_refused_for_others() -> None:
    settings = TrainSettings(is_activation_checkpointed=True)
    run = load_config("demo", MICRO)
    model, _ = initial_classifier(run, FrontEnd(run.audio))
    TrainStep(model, CrossEntropy(ObjectiveSettings()), settings, device=CPU)
    assert model.patch_encoder.is_checkpointed
    run = load_config("cnn6", ["model.pretrained=none"])
    model, _ = initial_classifier(run, FrontEnd(run.audio))
    with pytest.raises(SettingsError, match=r"is_activation_checkpointed is for the AST, not for cnn6: .*batch_size"):
        TrainStep(model, CrossEntropy(ObjectiveSettings()), settings, device=CPU)
