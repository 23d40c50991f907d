"""Recipes: strict TOML in, overrides, resolved values out; one line for every mistake."""

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from lungsound import config
from lungsound.config import RunConfig, load_config, recipe_names, resolve
from lungsound.errors import SettingsError


def write(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(*overrides: str, recipe: str = "demo") -> str:
    with pytest.raises(SettingsError) as caught:
        load_config(recipe, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_defaults_are_the_papers_settings() -> None:
    """But for the choices that the published preset brings back."""
    config = RunConfig(name="x")
    assert (config.train.epochs, config.train.batch_size, config.train.learning_rate) == (50, 8, 5e-5)
    assert (config.train.optimizer, config.train.weight_decay, config.train.blend) == ("adam", 1e-6, 0.0)
    assert (config.train.schedule, config.train.decay_rate, config.train.warmup_epochs) == ("cosine", 0.1, 0)
    assert (config.audio.sample_rate_hz, config.audio.duration_s, config.audio.num_mels) == (16000, 8.0, 128)
    assert (config.objective.temperature, config.objective.alpha, config.objective.target) == (0.06, 1.0, "grad_block")
    assert (config.patchmix.beta, config.patchmix.axis) == (1.0, "patch")
    assert config.train.selection == "last"


def test_the_published_preset_comes_after_the_recipe_and_before_settings(tmp_path: Path) -> None:
    recipe = write(tmp_path, "mine", "[train]\nblend = 0.25\nepochs = 3\n")
    assert load_config(recipe).train.blend == 0.25
    published = load_config(recipe, is_as_published=True)
    assert (published.train.blend, published.train.epochs, published.augment.gate) == (0.5, 3, "published")
    assert load_config(recipe, ["train.blend=0.75"], is_as_published=True).train.blend == 0.75


def test_a_recipe_file_is_read_and_named_after_the_file(tmp_path: Path) -> None:
    recipe = write(tmp_path, "mine", "[train]\nepochs = 3\n[data]\ndevices = ['Meditron']\n")
    config = load_config(recipe)
    assert (config.name, config.train.epochs, config.data.devices) == ("mine", 3, ("Meditron",))


def test_extends_takes_everything_that_is_not_said_again(tmp_path: Path) -> None:
    base = write(tmp_path, "base", "description = 'a'\n[train]\nepochs = 3\nseed = 4\n[model]\nsize = 'tiny'\n")
    middle = write(tmp_path, "middle", f"extends = '{base}'\n[train]\nepochs = 5\n")
    top = write(tmp_path, "top", f"extends = '{middle}'\n[train]\nbatch_size = 2\n")
    config = load_config(top)
    assert (config.train.epochs, config.train.seed, config.train.batch_size) == (5, 4, 2)
    assert (config.name, config.description, config.model.size) == ("top", "a", "tiny")


def test_extends_a_recipe_of_the_package(tmp_path: Path) -> None:
    recipe = write(tmp_path, "mine", "extends = 'demo'\n[train]\nepochs = 1\n")
    ours, demo = load_config(recipe), load_config("demo")
    assert ours.train.epochs == 1
    assert ours.model == demo.model
    assert ours.audio == demo.audio


def test_a_circle_of_recipes_is_refused(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.toml"), str(tmp_path / "b.toml")
    write(tmp_path, "a", f"extends = '{second}'\n")
    write(tmp_path, "b", f"extends = '{first}'\n")
    assert "extends itself" in refused(recipe=first)


def test_overrides_are_toml_values_or_bare_words() -> None:
    for override, expected in (
        ("train.epochs=5", 5),
        ("train.epochs = 5", 5),
        ("train.learning_rate=1e-3", 1e-3),
        ("train.learning_rate=1", 1.0),
        ("train.device=cpu", "cpu"),
        ("train.device='cuda:1'", "cuda:1"),
        ("augment.is_on=false", False),
        ("data.devices=['Meditron', 'Litt3200']", ("Meditron", "Litt3200")),
        ("data.root=/a folder/with=sign", "/a folder/with=sign"),
        ("train.decay_epochs=[3, 5]", (3, 5)),
    ):
        section, key = override.partition("=")[0].strip().split(".")
        assert getattr(getattr(load_config("demo", [override]), section), key) == expected, override


def test_the_last_override_wins_and_leaves_its_neighbours() -> None:
    config = load_config("demo", ["train.epochs=5", "train.seed=1", "train.epochs=6"])
    assert (config.train.epochs, config.train.seed) == (6, 1)
    assert config.train.batch_size == load_config("demo").train.batch_size


def test_a_mapping_says_what_strings_say() -> None:
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"train.epochs": 5, "train.device": "cuda:1"}, ["train.epochs=5", "train.device=cuda:1"]),
        ({"train": {"epochs": 5, "seed": np.int64(4)}, "name": "x"}, ["train.epochs=5", "train.seed=4", "name=x"]),
        ({"train.learning_rate": np.float64(0.5)}, ["train.learning_rate=0.5"]),
        ({"data.root": Path("a", "b")}, ["data.root=a/b"]),
        ({"data.devices": ("Meditron",)}, ["data.devices=['Meditron']"]),
        ({"train.decay_epochs": np.array([3])}, ["train.decay_epochs=[3]"]),
        ({"objective.projection_dim": None, "data.root": None}, []),
        ({}, []),
    ]
    for settings, as_text in cases:
        assert load_config("demo", settings) == load_config("demo", as_text), settings


def test_mistakes_in_a_mapping_are_named() -> None:
    for settings, told in (
        ({"train.epcohs": 5}, "unknown key 'train.epcohs'"),
        ({"train": {"epcohs": 5}}, "unknown key 'train.epcohs'"),
        ({"train.epochs": "5"}, "train.epochs is '5'"),
        ({5: 5}, "unknown key '5'"),
    ):
        with pytest.raises(SettingsError, match=told):
            load_config("demo", settings)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r'settings \'train.epochs=5\': give a mapping, as in {"train.epochs": 5}'):
        load_config("demo", "train.epochs=5")


def test_a_recipe_file_may_be_a_path(tmp_path: Path) -> None:
    recipe = write(tmp_path, "mine", "[train]\nepochs = 3\n")
    assert load_config(Path(recipe)) == load_config(recipe)


def test_a_bad_override_is_named() -> None:
    for override in ("train.epochs", "=5", "  =5"):
        assert "is not of the form section.key=value" in refused(override)
    for override, key, keys in (
        ("train.epcohs=5", "'train.epcohs'", "epochs, batch_size"),
        ("trian.epochs=5", "'trian'", "data, audio"),
        ("epochs=5", "'epochs'", "data, audio"),
        ("extends=ce", "'extends'", ""),
    ):
        assert f"unknown key {key}" in refused(override)
        assert keys in refused(override)


def test_a_value_out_of_range_or_of_another_type_is_named() -> None:
    for override in (
        "train.epochs=0",
        "train.epochs=many",
        "train.epochs=2.5",
        "train.epochs=true",
        "train.epochs='5'",
        "train.epochs=2.0",
        "train.epochs.foo=1",
        "train.learning_rate=0",
        "train.learning_rate=nan",
        "train.learning_rate=inf",
        "train.blend=1.0",
        "train.validation_share=0",
        "train.selection=best",
        "model.size=huge",
        "model.stride=17",
        "audio.num_mels=15",
        "augment.is_on='yes'",
        "augment.probability=1.1",
        "objective.temperature=-1",
        "objective.projection_dim=0",
        "patchmix.beta=-0.5",
        "data.devices=Meditron",
    ):
        key = ".".join(override.partition("=")[0].split(".")[:2])
        message = refused(override)
        assert f"{key} is " in message, override
        assert "recipe 'demo'" in message


def test_several_mistakes_are_counted() -> None:
    assert "(and 1 more)" in refused("train.epochs=0", "train.batch_size=0")


def test_a_section_must_be_a_section() -> None:
    assert "data is 5" in refused("data=5")


def test_unknown_recipes_list_the_known_ones(tmp_path: Path) -> None:
    assert ", ".join(recipe_names()) in refused(recipe="patchmixcl")
    assert "no recipe '" in refused(recipe=str(tmp_path / "none.toml"))
    assert "no valid TOML" in refused(recipe=write(tmp_path, "broken", "[train\n"))


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    refused(recipe=str(tmp_path / "binary.toml"))


def test_extends_finds_a_file_beside_the_recipe(tmp_path: Path) -> None:
    write(tmp_path, "base", "[train]\nepochs = 3\n")
    assert load_config(write(tmp_path, "top", "extends = 'base.toml'\n")).train.epochs == 3


def test_resolved_values_give_the_same_run_again() -> None:
    config = load_config("demo", ["data.devices=['Meditron']", "train.decay_epochs=[1]", "data.root=/x"])
    plain = json.loads(json.dumps(config.model_dump(mode="json")))
    assert resolve(plain, source="config.json") == config


def test_settings_cannot_be_changed_afterwards() -> None:
    config = load_config("demo")
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 3  # type: ignore[misc]


# ---- one place for each default ----

# What the settings reach: sections are passed whole, pure functions take plain keywords.
REACHED = (
    "audio/front_end.py",
    "audio/augment.py",
    "data/batches.py",
    "data/splits.py",
    "models/*.py",
    "training/*.py",
)
# The same word for something else: strides within a CNN, the devices that a training set was recorded with.
OTHER_MEANINGS = {("cnn.py", "stride"), ("model_file.py", "devices"), ("run.py", "teachers")}


def defaults_beside_settings(source: str) -> list[str]:
    """Parameters and fields that are named as a setting and have a default of their own; None is no value."""
    sections = [field.annotation for field in RunConfig.model_fields.values()]
    settings = {name for section in sections for name in getattr(section, "model_fields", {})}
    given: list[tuple[str, ast.expr | None]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            positional = [*node.args.posonlyargs, *node.args.args]
            given += zip((arg.arg for arg in reversed(positional)), reversed(node.args.defaults), strict=False)
            given += zip((arg.arg for arg in node.args.kwonlyargs), node.args.kw_defaults, strict=True)
        elif isinstance(node, ast.ClassDef):
            given += [(ast.unparse(item.target), item.value) for item in node.body if isinstance(item, ast.AnnAssign)]
    return [
        name
        for name, value in given
        if name in settings and value is not None and not (isinstance(value, ast.Constant) and value.value is None)
    ]


def test_defaults_stand_in_the_settings_alone() -> None:
    package = Path(config.__file__).parent
    paths = [path for pattern in REACHED for path in sorted(package.glob(pattern))]
    assert len(paths) > 20
    found = [(path.name, name) for path in paths for name in defaults_beside_settings(path.read_text("utf-8"))]
    assert set(found) <= OTHER_MEANINGS


def test_a_default_beside_the_settings_is_found() -> None:
    planted = """
class Draw:
    axis: str = "patch"
    lam: float = 0.5

def draw(size, beta=1.0, *, is_lam_per_sample: bool = False, gate: str | None = None, fill): ...
"""
    assert sorted(defaults_beside_settings(planted)) == ["axis", "beta", "is_lam_per_sample"]


def test_a_byte_order_mark_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbfextends = 'demo'\n[train]\nepochs = 1\n")
    assert load_config(tmp_path / "mine.toml").train.epochs == 1


def test_recipes_extend_each_other_a_few_times_only(tmp_path: Path) -> None:
    write(tmp_path, "r0", "extends = 'demo'")
    for place in range(1, 1_500):
        write(tmp_path, f"r{place}", f"extends = 'r{place - 1}.toml'")
    assert load_config(tmp_path / "r10.toml").name == "r10"
    assert "extends more than" in refused(recipe=str(tmp_path / "r1499.toml"))


@pytest.mark.parametrize(
    "text",
    [
        f"{'.'.join('a' * 10_000)} = 1",
        "[train]\nepochs = " + "[" * 3_000,
        "[train]\nepochs = " + "9" * 5_000,
        f"{'a' * 5_000} = 1",
        "extends = " + "[" * 20 + "]" * 20,
        f"extends = '{'a' * 5_000}.toml'",
    ],
)
def test_what_no_recipe_holds_is_one_line(text: str, tmp_path: Path) -> None:
    assert len(refused(recipe=write(tmp_path, "given", text))) < 1500


@pytest.mark.parametrize("key", [".".join("a" * 10_000), "train.epochs", "data.devices", "data.corpora"])
@pytest.mark.parametrize("value", ["[" * 3_000, "9" * 5_000, f"{{{'.'.join('a' * 10_000)} = 1}}"])
def test_what_no_setting_holds_is_one_line(key: str, value: str) -> None:
    assert len(refused(f"{key}={value}")) < 500
