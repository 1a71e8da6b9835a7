"""The network of a run: any model, trained weights, normalization, and the way back from the save folder."""

import json
import shutil

import pytest
import torch
import torchvision
from torch import nn

import pellucid
from pellucid.cli import main
from pellucid.config import DataConfig, HookConfig, ModelConfig, RunConfig, TrainingConfig
from pellucid.core.errors import ConfigError, ModelError, SaveError
from pellucid.data import Request, load_data
from pellucid.models._adapted import Adapted
from pellucid.run.network import build_network, renamed
from pellucid.storage.models import load_model

SMALL = (
    "--dataset digits --epochs 1 --limit-train 120 --limit-test 40 --batch-size 60 --threads 1 "
    "--hooks confusion_matrix --image-size 40 --crop 36 --serial".split()
)
SQUEEZENET = "torchvision:squeezenet1_1"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    request = Request(tmp_path_factory.mktemp("data"), image_size=40, crop=36)
    return load_data("digits", request, limit_train=120, limit_test=40)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a network for six classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pt"
    torch.save(torchvision.models.squeezenet1_1(num_classes=6).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, weights):
    """The save folder of a run that starts from trained weights and normalizes its images."""
    folder = tmp_path_factory.mktemp("run")
    given = ["--model", SQUEEZENET, "--weights", str(weights), "--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2"]
    assert main(["run", *SMALL, *given, "--save", str(folder)]) == 0
    return folder


def config(model, **options):
    return RunConfig(training=TrainingConfig(model=model), network=ModelConfig(**options))


def test_a_registered_model_is_built_as_before(digits):
    built = build_network(config("cnn"), digits, {}, is_restored=False)
    assert isinstance(built.model, nn.Sequential)
    assert built.record == {"name": "cnn", "weights": None, "options": None, "preprocessing": None}


def test_a_registered_model_can_normalize(digits):
    plain = build_network(config("cnn"), digits, {}, is_restored=False).model
    built = build_network(config("cnn", mean="0.1307", std="0.3081"), digits, {}, is_restored=False)
    images = digits.test.floats(slice(3))
    torch.testing.assert_close(built.model.eval()(images), plain.eval()((images - 0.1307) / 0.3081))
    assert built.record["preprocessing"] == {"mean": [0.1307], "std": [0.3081], "source": "--mean and --std"}


def test_gray_images_are_repeated_for_a_network_of_color_images(digits):
    built = build_network(config(SQUEEZENET), digits, {}, is_restored=False)
    images = digits.test.floats(slice(3))
    inside = built.model.model.eval()
    torch.testing.assert_close(built.model.eval()(images), inside(images.expand(3, 3, 36, 36)))
    assert built.notice == ""


def test_a_last_layer_for_other_classes_is_replaced_and_reported(digits, weights):
    built = build_network(config(SQUEEZENET, weights=str(weights)), digits, {}, is_restored=False)
    assert built.notice.startswith("The weights are for 6 classes and the data has 10, so the last layer (classifier.1")
    stored = torch.load(weights, weights_only=True)
    assert torch.equal(built.model.model.features[0].weight, stored["features.0.weight"])
    assert built.model.training


def test_a_crop_keeps_the_center_of_the_resized_images(tmp_path):
    whole = load_data("digits", Request(tmp_path, image_size=40), limit_train=120, limit_test=40)
    part = load_data("digits", Request(tmp_path, image_size=40, crop=36), limit_train=120, limit_test=40)
    assert torch.equal(part.test.pixels, whole.test.pixels[..., 2:38, 2:38])


def test_the_run_keeps_its_flags_and_its_network(trained, weights):
    record = json.loads((trained / "run.json").read_text())
    flags = {name: record["config"][name] for name in ("model", "weights", "class_names", "crop", "mean", "std")}
    assert flags == {
        "model": SQUEEZENET,
        "weights": str(weights),
        "class_names": None,
        "crop": 36,
        "mean": "0.5,0.4,0.3",
        "std": "0.2,0.2,0.2",
    }
    expected = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "source": "--mean and --std"}
    assert record["model"]["preprocessing"] == expected
    captions = {entry["caption"] for entry in json.loads((trained / "manifest.json").read_text())["artifacts"]}
    assert any("epoch 0 (before training)" in caption for caption in captions)
    assert not any("untrained" in caption for caption in captions)
    assert (record["model"]["name"], record["model"]["weights"]) == (SQUEEZENET, str(weights))
    assert record["dataset"]["image_shape"] == [1, 36, 36]


def test_a_saved_run_is_rebuilt_without_its_weights_file(trained, digits, monkeypatch):
    monkeypatch.setattr("pellucid.models._weights.read_weights", None)
    run = pellucid.load_run(trained)
    assert isinstance(run.model, Adapted)
    record = json.loads((trained / "run.json").read_text())
    assert record["dataset"]["sha256"] == digits.sha256
    predicted = run.model(digits.test.floats()).argmax(1)
    accuracy = (predicted == digits.test.labels).double().mean().item()
    assert accuracy == pytest.approx(record["test_accuracy"])
    explanation = pellucid.create_analyzer("lrp.epsilon_plus_flat", run.model).explain(digits.test.floats(slice(2)))
    assert explanation.relevance.shape == (2, 1, 36, 36)


def test_the_model_of_a_run_by_its_folder(trained, digits):
    loaded = load_model(f"run:{trained}")
    assert (loaded.preprocessing.mean, loaded.preprocessing.resize) == ((0.5, 0.4, 0.3), (36, 36))
    assert loaded.classes == digits.classes
    images = digits.test.floats(slice(2))
    expected = pellucid.load_run(trained).model(images)
    torch.testing.assert_close(loaded.model(loaded.preprocessing.normalized(images)), expected)
    with pytest.raises(ConfigError, match="has its own weights; omit --weights"):
        load_model(f"run:{trained}", weights="DEFAULT")
    with pytest.raises(SaveError):
        load_model(f"run:{trained / 'absent'}")


def test_a_run_can_start_from_another(trained, digits):
    built = build_network(config(f"run:{trained}"), digits, {}, is_restored=False)
    images = digits.test.floats(slice(2))
    torch.testing.assert_close(built.model.eval()(images), pellucid.load_run(trained).model(images))
    assert built.record["name"] == SQUEEZENET  # so that the first run is not needed any more
    assert built.record["weights"] == f"run:{trained}"
    assert built.record["preprocessing"]["mean"] == [0.5, 0.4, 0.3]
    three = load_model(f"run:{trained}", classes=3, new_head=True)
    assert three.classes is None
    assert three.model.classifier[1].out_channels == 3
    assert torch.equal(three.model.features[0].weight, pellucid.load_run(trained).model.model.features[0].weight)
    assert "The weights are for 10 classes and the data has 3" in three.notice


def test_a_run_can_start_from_a_registered_model(tmp_path, digits):
    assert main(["run", *SMALL, "--model", "cnn", "--hooks", "none", "--save", str(tmp_path)]) == 0
    built = build_network(config(f"run:{tmp_path}"), digits, {}, is_restored=False)
    images = digits.test.floats(slice(2))
    torch.testing.assert_close(built.model.eval()(images), pellucid.load_run(tmp_path).model(images))
    assert built.record == {"name": "cnn", "weights": f"run:{tmp_path}", "options": {}, "preprocessing": None}
    loaded = load_model(f"run:{tmp_path}")
    assert torch.equal(loaded.model(images), pellucid.load_run(tmp_path).model(images))
    assert (loaded.preprocessing.mean, loaded.preprocessing.resize) == (None, (36, 36))


def test_a_resumed_run_needs_only_the_architecture(trained, digits, monkeypatch):
    earlier = json.loads((trained / "run.json").read_text())
    settings = config(SQUEEZENET, weights="/gone/weights.pt", mean="0.5,0.4,0.3", std="0.2,0.2,0.2")
    built = build_network(settings, digits, earlier, is_restored=True)
    state = pellucid.load_run(trained).model.state_dict()
    assert built.model.state_dict().keys() == state.keys()
    assert built.record["weights"] == earlier["model"]["weights"]


def test_class_names_replace_those_of_the_data(digits, tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(["<script>", "a\ttab", *"cdefghij"]))
    assert renamed(digits, str(path)).classes[:3] == ("<script>", "a\ttab", "c")
    assert renamed(digits, None) is digits
    path.write_text("one\ntwo")
    with pytest.raises(ConfigError, match="names.txt has 2 names, but digits has 10 classes"):
        renamed(digits, str(path))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"options": {"image_size": 10**9}, "name": "torchvision:vit_b_32"}, ModelError, "failed|differ|fit"),
        ({"name": "torchvision:alexnet"}, ModelError, "do not fit the model torchvision:alexnet"),
        ({"name": "run:elsewhere"}, ModelError, "is not an architecture"),
        ({"preprocessing": {"mean": [0.5]}}, SaveError, "the preprocessing in run.json is damaged"),
        ({"preprocessing": {"mean": [0.5], "std": [0]}}, ConfigError, "must be positive"),
    ],
)
def test_a_damaged_record_is_refused(change, error, message, trained, tmp_path):
    (tmp_path / "models").mkdir()
    record = json.loads((trained / "run.json").read_text())
    record["model"] |= change
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "models/best.safetensors").write_bytes((trained / "models/best.safetensors").read_bytes())
    with pytest.raises(error, match=message):
        pellucid.load_run(tmp_path)


def test_flags_cannot_change_on_resuming(trained, capsys):
    assert main(["run", "--resume", "--save", str(trained), "--mean", "0.5", "--std", "0.5"]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "--mean was 0.5,0.4,0.3, now 0.5" in text


def test_a_finished_run_is_trained_further(trained, tmp_path, monkeypatch):
    folder = tmp_path / "save"
    shutil.copytree(trained, folder)
    assert main(["run", "--resume", "--save", str(folder), "--epochs", "2", "--serial"]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert json.loads((folder / "run.json").read_text())["model"]["name"] == SQUEEZENET


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "torchvision:resnet81"], "did you mean 'resnet18'"),
        (["--model", "torchvision:resnet18", "--weights", "IMAGENET1K_V9"], "no member of ResNet18_Weights"),
        (["--model", "torchvision:resnet18", "--weights", "absent.pt"], "absent.pt is not a file"),
        (["--model", "cnn", "--weights", "DEFAULT"], "cnn has no weights with a name"),
        (["--class-names", "absent.txt"], "absent.txt cannot be read"),
        (["--model", "hf:./absent"], "no such folder"),
        (["--model", "run:absent"], "absent"),
    ],
)
def test_mistakes_are_found_before_the_data_is_loaded(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pellucid.run.session.load_data", None)
    if "hf:" in arguments[-1]:
        pytest.importorskip("transformers")
    assert main(["run", *arguments, "--save", str(tmp_path / "save")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "save").exists()


def test_defaults_describe_a_run_without_a_model_of_the_user():
    settings = RunConfig(data=DataConfig(), show=HookConfig())
    assert settings.network == ModelConfig()
    assert {settings.flat()[name] for name in ("weights", "class_names", "crop", "mean", "std")} == {None}
