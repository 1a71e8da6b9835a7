"""Settings: flags, config files and their precedence."""

import inspect
import json
from dataclasses import fields

import pytest

from pellucid.cli.run import parse_run
from pellucid.config import FLAGS, ONE_TIME_FLAGS, DataConfig, ModelConfig, RunConfig, TrainingConfig, read_config
from pellucid.core.errors import ConfigError, UnknownName

FLAG_NAMES = [
    *("epochs", "batch-size", "learning-rate", "seed", "dataset", "data-dir", "mirror", "model", "image-size", "save"),
    *("device", "precision", "threads", "hooks", "methods", "classes", "embedding-layer", "limit-train", "limit-test"),
    "keep-checkpoints",
    *("max-megapixels", "resume", "serial", "trust", "open", "config", "budget", "log-to", "metadata"),
    *("weights", "class-names", "crop", "mean", "std"),
]


def test_documented_flags_exist_and_no_others():
    assert {name.replace("_", "-") for name in (*FLAGS, *ONE_TIME_FLAGS)} == set(FLAG_NAMES)
    assert set(RunConfig().flat()) == {name.replace("-", "_") for name in FLAG_NAMES}


def test_help_lists_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_run(["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert leaving.value.code == 0
    for name in FLAG_NAMES:
        assert f"--{name}" in text
    for part in ("(default: 128)", "(default: 2 for mnist", "(default: SAVE/data)", "INT≥1", "0<FLOAT≤10"):
        assert part in text
    assert text.count("(default: None)") == 0


def test_every_field_has_a_docstring():
    for group in (DataConfig, TrainingConfig, ModelConfig):
        source = inspect.getsource(group)
        for field in fields(group):
            assert f"    {field.name}: " in source
            after = source.split(f"    {field.name}: ", 1)[1].split("\n", 1)[1]
            assert after.lstrip().startswith('"""'), field.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--epochs", "x"], "--epochs must be a whole number, at least 1, got 'x'"),
        (["--epochs=2.5"], "--epochs must be a whole number, at least 1, got '2.5'"),
        (["--batch_size=64x"], "--batch-size must be a whole number, at least 1, got '64x'"),
        (["--learning-rate", "fast"], "--learning-rate must be a number, more than 0 and at most 10, got 'fast'"),
        (["--batch-size", "-3"], "--batch-size must be at least 1, got -3"),
        (["--learning-rate", "nan"], "--learning-rate must be more than 0 and at most 10, got nan"),
        (["--learning-rate", "11"], "at most 10"),
        (["--seed", "-1"], "--seed must be between 0 and .*, got -1"),
        (["--image-size", "3"], "--image-size must be between 4 and 4096, got 3"),
        (["--device", "gpu"], "invalid --device 'gpu': expected auto, cpu, cuda"),
        (["--crop", "0"], "--crop must be between 1 and 4096, got 0"),
        (["--mean", "0.5"], "--mean is given without --std"),
        (["--std=0.5"], "--std is given without --mean"),
        (["--mean", "0.5,x", "--std", "1"], "--mean is '0.5,x'; expected numbers separated by commas"),
        (["--mean", "0.5", "--std", "nan"], "--std is 'nan'; expected numbers"),
        (["--mean", "0.5,0.5", "--std", "1,1,1"], "--mean has 2 values and --std has 3"),
        (["--mean", "0.5", "--std", "0"], "--std is 0; every value must be positive"),
        (["--config", "absent.toml"], "--config absent.toml cannot be read: No such file"),
        (["--resume", "--save", "nowhere"], "cannot resume a run in nowhere"),
    ],
)
def test_invalid_values_are_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        parse_run(arguments)


@pytest.mark.parametrize("arguments", [["--epochs"], ["--precision", "fp8"], ["--nonsense"], ["extra"]])
def test_unparsable_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_run(arguments)
    assert leaving.value.code == 2


def test_mistyped_flag_gets_a_suggestion(capsys):
    with pytest.raises(SystemExit):
        parse_run(["--epoch", "3"])
    output = capsys.readouterr()
    assert "--epochs" in output.err + output.out


def test_mirror_is_repeatable():
    assert parse_run(["--mirror", "a", "--mirror", "b c"]).data.mirror == ("a", "b c")


def test_command_line_takes_precedence_over_toml(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('batch-size = 64\nepochs = 7\nmirror = ["x", "y"]\ndataset = "digits"\nseed = 3\n')
    config = parse_run(["--config", str(file), "--epochs=2", "--seed", "0", "--mirror", "z"])
    assert (config.training.batch_size, config.training.epochs, config.training.seed) == (64, 2, 0)
    assert config.data.mirror == ("z",)
    assert config.data.dataset == "digits"


def test_run_json_restores_the_settings(tmp_path):
    config = parse_run(
        ["--batch-size", "32", "--mirror", "m", "--classes", "1,2", "--save", "out", "--learning-rate", "1e-4"]
    )
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"config": config.flat(), "status": "finished"}))
    again = parse_run(["--config", str(file)])
    assert again.flat() == config.flat() | {"config": str(file)}


def test_folder_named_like_a_flag_drops_no_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.toml").write_text('seed = 5\nhooks = ["tsne", "saliency"]\nclasses = [3, 8]\n')
    config = parse_run(["--config", "settings.toml", "--save", "seed", "--embedding-layer", "hooks"])
    assert (config.training.seed, config.show.hooks, config.show.classes) == (5, "tsne,saliency", "3,8")


def test_tilde_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_run(["--save=~/out"]).save == tmp_path / "out"


def test_help_takes_precedence_over_other_flags(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_run(["--resume", "--save", "nowhere", "--help"])
    assert leaving.value.code == 0


def test_resume_uses_the_settings_of_the_run(tmp_path):
    config = parse_run(["--batch-size", "32", "--save", "elsewhere"])
    (tmp_path / "run.json").write_text(json.dumps({"config": config.flat()}))
    resumed = parse_run(["--resume", "--save", str(tmp_path), "--hooks", "none"])
    assert resumed.resume
    assert resumed.training.batch_size == 32
    assert resumed.save == tmp_path
    assert resumed.show.hooks == "none"


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("a.toml", "batchsize = 3", UnknownName, "did you mean 'batch_size'"),
        ("a.toml", "batch-size = ", ConfigError, "neither valid TOML nor a run.json"),
        ("a.json", "[]", ConfigError, "contains no settings"),
        ("a.json", "{", ConfigError, "neither valid TOML nor a run.json"),
        ("a.json", "{}", ConfigError, "contains no settings"),
    ],
)
def test_invalid_files_are_refused(name, text, error, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        read_config(tmp_path / name)


def test_invalid_value_in_a_file_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text('epochs = "many"')
    with pytest.raises(ConfigError, match="--epochs must be a whole number, at least 1, got 'many'"):
        parse_run(["--config", str(tmp_path / "a.toml")])
