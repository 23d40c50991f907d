"""Every recipe of the package loads and builds; an unknown key anywhere is refused by name."""

from importlib import resources
from pathlib import Path

import pytest
import torch

from lungsound.audio.front_end import FrontEnd
from lungsound.config import RunConfig, Settings, load_config, recipe_names
from lungsound.data.batches import specaugment
from lungsound.errors import SettingsError
from lungsound.labels import LABEL_SETS
from lungsound.models.ast import ENCODER_SIZES
from lungsound.models.classifier import make_classifier
from lungsound.training.objectives import CrossEntropy, PatchMixContrastive, PatchMixCrossEntropy, make_objective
from lungsound.training.trainer import Schedule, TrainStep

OBJECTIVES = {"ce": CrossEntropy, "patchmix_ce": PatchMixCrossEntropy, "patchmix_cl": PatchMixContrastive}
CNNS = ["cnn6", "mn04"]
CNNS += [f"resnet{n}" for n in (10, 18, 34, 50, 101)] + [f"efficientnet_b{n}" for n in range(3)]
SECTIONS = [name for name, field in RunConfig.model_fields.items() if issubclass(type(field.default), Settings)]


def test_the_recipes_of_the_papers_tables_are_shipped() -> None:
    methods = ["ce", "patchmix_ce", "patchmix_cl"]
    transformers = [f"{prefix}{method}" for prefix in ("", "tiny_", "ssast_") for method in methods]
    assert recipe_names() == sorted([*transformers, *CNNS, "box", "demo", "laptop", "laptop_sprsound"])


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_builds_its_model_and_objective(recipe: str) -> None:
    """Without weights on no device, so that the largest cost nothing; they are trained in test_rows."""
    config = load_config(recipe)
    is_cnn = recipe in CNNS
    front_end = FrontEnd(config.audio)
    assert front_end.num_frames > 0  # its filter bank is made here, with values
    with torch.device("meta"):
        model = make_classifier(config.model, front_end, LABEL_SETS[config.data.label_set], projection_dim=8)
    assert config.model.architecture == (recipe if is_cnn else "ast")
    assert is_cnn or model.patch_encoder.dim == ENCODER_SIZES[config.model.size].dim
    objective = make_objective(config.objective, config.patchmix, class_counts=[5, 4, 3, 2], device=torch.device("cpu"))
    assert type(objective) is OBJECTIVES[config.objective.name]
    assert Schedule(config.train).at(1) > 0
    assert (specaugment(config.augment) is not None) == config.augment.is_on
    step = TrainStep(model, objective, config.train, device=torch.device("meta"))
    assert (step.blend, step.average) == (config.train.blend, None)
    assert config.description
    assert config.name == recipe


def test_the_published_recipes_differ_from_each_other_in_the_method_only() -> None:
    for prefix in ("", "tiny_", "ssast_"):
        runs = [load_config(f"{prefix}{method}") for method in OBJECTIVES]
        assert [run.objective.name for run in runs] == list(OBJECTIVES)
        assert [run.objective.is_class_weighted for run in runs] == [True, False, False]
        for section in ("data", "audio", "augment", "model", "patchmix", "train"):
            assert len({getattr(run, section) for run in runs}) == 1, section


@pytest.mark.parametrize("recipe", recipe_names())
def test_an_unknown_key_in_a_recipe_is_named(recipe: str, tmp_path: Path) -> None:
    assert SECTIONS == ["data", "audio", "augment", "model", "objective", "patchmix", "train"]
    shipped = (resources.files("lungsound") / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8")
    for section in ("", *SECTIONS):
        lines, head = shipped.splitlines(), f"[{section}]"
        if section and head not in lines:
            lines.append(head)
        lines.insert(lines.index(head) + 1 if section else 0, "colour = 1")
        path = tmp_path / "changed.toml"
        path.write_text("\n".join(lines), encoding="utf-8")
        key = f"{section}.colour" if section else "colour"
        with pytest.raises(SettingsError, match=f"unknown key '{key}'; the keys there are: "):
            load_config(str(path))
