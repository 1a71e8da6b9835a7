"""Models by their spec, with trained weights from files and enums."""

import pickle
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from pellucid.core.errors import ConfigError, DownloadError, ModelError, UnknownName
from pellucid.core.importing import import_optional
from pellucid.models import check_spec, load_model
from pellucid.models._load import rebuild_model
from pellucid.models._preprocessing import find_classes, find_preprocessing
from pellucid.models._torchvision import IMAGENET_CLASSES
from pellucid.models._weights import _refusal, load_weights

SQUEEZENET = "torchvision:squeezenet1_1"
"""The smallest network of torchvision."""


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(7)
    return torchvision.models.squeezenet1_1(num_classes=6).eval()


@pytest.mark.parametrize(
    "spec", ["torchvision:resnet18", "timm:resnet18", "hf:a/b", "run:save", "shop.nets:Small", "cnn"]
)
def test_specs_are_accepted(spec):
    assert check_spec(spec) == spec


@pytest.mark.parametrize("spec", ["torchvision:", "run:", "hf: "])
def test_a_spec_without_a_name_is_refused(spec):
    with pytest.raises(ConfigError, match="does not name a model; use --model"):
        check_spec(spec)


def test_unknown_names_give_close_matches():
    with pytest.raises(UnknownName, match="did you mean 'resnet18'"):
        load_model("torchvision:resnet81")
    with pytest.raises(UnknownName, match="there is no classification model of torchvision 'fcn_resnet50'"):
        load_model("torchvision:fcn_resnet50")
    with pytest.raises(UnknownName, match=r"torchvision:NAME, timm:NAME"):
        check_spec("resnet18")


def test_random_weights_depend_only_on_the_seed():
    before = torch.get_rng_state()
    first, second, third = (load_model(SQUEEZENET, classes=4, seed=seed).model for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.classifier[1].weight, second.classifier[1].weight)
    assert not torch.equal(first.classifier[1].weight, third.classifier[1].weight)
    assert not first.training
    assert load_model(SQUEEZENET).notice == "The model has random weights, since none were given; pass --weights."
    assert load_model(SQUEEZENET, classes=4, new_head=True).notice == ""
    assert load_model(SQUEEZENET).model.classifier[1].out_channels == IMAGENET_CLASSES


def state(model):
    return model.state_dict()


FORMS = {
    "plain.pt": lambda model: state(model),
    "nested.pth": lambda model: {"epoch": 3, "state_dict": state(model), "optimizer": {"lr": 0.1}},
    "model.pt": lambda model: {"model": state(model), "args": [1, 2]},
    "parallel.pt": lambda model: {"model": {f"module._orig_mod.{name}": value for name, value in state(model).items()}},
    "lightning.ckpt": lambda model: {"state_dict": {f"model.{name}": value for name, value in state(model).items()}},
}


@pytest.mark.parametrize("name", FORMS)
def test_weights_are_found_in_all_usual_forms(name, trained, tmp_path):
    torch.save(FORMS[name](trained), tmp_path / name)
    loaded = load_model(SQUEEZENET, weights=tmp_path / name)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded.model(images), trained(images))
    assert loaded.weights == str(tmp_path / name)
    assert (loaded.preprocessing, loaded.classes, loaded.notice) == (None, None, "")


def test_safetensors_and_half_precision(trained, tmp_path):
    path = tmp_path / "best.safetensors"
    safetensors.torch.save_file({name: value.half() for name, value in state(trained).items()}, path)
    model = load_model(SQUEEZENET, weights=path).model
    assert model.features[0].weight.dtype == torch.float32
    torch.testing.assert_close(model.features[0].weight, trained.features[0].weight, atol=1e-3, rtol=0)


def test_two_models_in_one_file_are_not_mixed():
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    tensors = {
        f"{part}.{name}": value for part in ("model", "module") for name, value in state(nn.Linear(2, 2)).items()
    }
    with pytest.raises(ModelError, match=r"2 missing: weight, bias; 4 unexpected: model\.weight"):
        load_weights(model, tensors, "weights.pt")
    assert torch.equal(model.weight, before)


def test_a_torchscript_archive_is_refused_like_other_code():
    error = RuntimeError("Cannot use ``weights_only=True`` with TorchScript archives passed to ``torch.load``.")
    assert "would run code from the file" in _refusal(Path("script.pt"), error)


def test_names_that_begin_like_a_prefix_are_kept(tmp_path, monkeypatch):
    (tmp_path / "nets_with_prefix.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes=3):\n"
        "        super().__init__()\n"
        "        self.model = nn.Linear(4, classes)\n"
        "    def forward(self, x): return self.model(x.flatten(1))\n"
        "finished = Net(5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    weights = {"model.weight": torch.rand(2, 4), "model.bias": torch.rand(2)}
    torch.save(weights, tmp_path / "weights.pt")
    # the number of classes is that of the weights
    model = load_model("nets_with_prefix:Net", weights=tmp_path / "weights.pt", classes=9).model
    assert torch.equal(model.model.weight, weights["model.weight"])
    assert load_model("nets_with_prefix:finished").model.model.out_features == 5


def test_every_mismatch_is_listed_once(trained, tmp_path):
    tensors = state(trained)
    first = next(iter(tensors))
    weights = {name: value for name, value in tensors.items() if name != first} | {
        "features.3.squeeze.bias": torch.zeros(2, 3),
        **{f"extra.{index}": torch.zeros(1) for index in range(8)},
    }
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(ModelError) as refused:
        load_model(SQUEEZENET, weights=tmp_path / "weights.pt")
    message = str(refused.value)
    assert f"does not fit the model ({len(tensors)} tensors)" in message
    assert f"1 missing: {first};" in message
    assert "8 unexpected: extra.0, extra.1, extra.2, extra.3, extra.4 and 3 more;" in message
    assert "1 of another shape: features.3.squeeze.bias is 2×3, expected 16." in message


def test_a_new_last_layer_for_training(trained, tmp_path):
    torch.save(state(trained), tmp_path / "weights.pt")
    loaded = load_model(SQUEEZENET, weights=tmp_path / "weights.pt", classes=4, new_head=True)
    assert loaded.model.classifier[1].out_channels == 4
    assert torch.equal(loaded.model.features[0].weight, trained.features[0].weight)
    assert loaded.notice == (
        "The weights are for 6 classes and the data has 4, so the last layer (classifier.1.weight, classifier.1.bias) "
        "starts with random weights."
    )
    # without a new head, and with equal numbers, the weights are those of the file
    for options in ({"classes": 4}, {"classes": 6, "new_head": True}):
        same = load_model(SQUEEZENET, weights=tmp_path / "weights.pt", **options)
        assert torch.equal(same.model.classifier[1].weight, trained.classifier[1].weight)


class Unsafe:
    def __reduce__(self):
        return (exec, ("raise AssertionError('this code must not run')",))


def test_pickled_code_is_refused(trained, tmp_path):
    torch.save(trained, tmp_path / "whole.pt")
    torch.save({"state_dict": state(trained), "config": Unsafe()}, tmp_path / "unsafe.pt")
    for name in ("whole.pt", "unsafe.pt"):
        with pytest.raises(ModelError, match=r"contains more than tensors .* convert it once .* torch.save\("):
            load_model(SQUEEZENET, weights=tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("text.pt", b"no weights", ModelError, "is damaged or was not written by torch.save"),
        ("empty.pth", b"", ModelError, "is damaged or was not written by torch.save"),
        ("text.safetensors", b"no weights", ConfigError, "is damaged or not a safetensors file"),
        ("list.pt", [1, 2], ModelError, "has no weights: .* got a list"),
        ("metrics.pt", {"loss": 0.5, "epoch": 2}, ModelError, "got a dict with the keys 'loss', 'epoch'"),
        ("absent.pt", None, ConfigError, "is not a file; expected a file that ends in .safetensors"),
    ],
)
def test_files_without_weights_are_refused(name, content, error, message, tmp_path):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(error, match=message):
        load_model(SQUEEZENET, weights=path)


def test_files_of_pickle_itself_are_refused(tmp_path):
    path = tmp_path / "old.pt"
    path.write_bytes(pickle.dumps({"a": Unsafe()}))
    with pytest.raises(ModelError, match="was not written by torch.save|more than tensors"):
        load_model(SQUEEZENET, weights=path)


def test_weights_of_the_enum(monkeypatch):
    """Names, class names, preprocessing and options follow the enum; only the download is replaced."""
    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    model = torchvision.models.squeezenet1_1()
    calls = []

    def downloaded(self, **options):
        calls.append((self, options))
        return model.state_dict()

    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", downloaded)
    for name in ("DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1"):
        loaded = load_model(SQUEEZENET, weights=name)
        assert loaded.weights == "SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert calls[0] == (weights, {"progress": False, "check_hash": True, "weights_only": True})
    assert loaded.classes == tuple(weights.meta["categories"]) == find_classes(loaded.model)
    assert loaded.preprocessing == find_preprocessing(loaded.model)
    assert (loaded.preprocessing.resize, loaded.preprocessing.crop) == (256, (224, 224))
    assert torch.equal(loaded.model.features[0].weight, model.features[0].weight)
    tuned = load_model(SQUEEZENET, weights="DEFAULT", classes=3, new_head=True)
    assert tuned.classes is None
    assert tuned.preprocessing == loaded.preprocessing
    with pytest.raises(
        UnknownName, match="no member of SqueezeNet1_1_Weights 'IMAGENET1K_V9'; did you mean 'IMAGENET1K_V1'"
    ):
        load_model(SQUEEZENET, weights="IMAGENET1K_V9")


def test_a_failed_download_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.value, "url", "http://127.0.0.1:9/a-1234abcd.pth"
    )
    with pytest.raises(DownloadError, match=r"could not be downloaded from http://127.0.0.1:9/.*pass its path with"):
        load_model(SQUEEZENET, weights="DEFAULT")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_names_of_weights_need_a_library():
    with pytest.raises(ConfigError, match="DEFAULT is not a file, and cnn has no weights with a name"):
        load_model("cnn", weights="DEFAULT", image_shape=(1, 28, 28), classes=10)


def test_registered_models_take_weights(tmp_path):
    model = load_model("cnn", image_shape=(1, 28, 28), classes=5, seed=3).model
    torch.save(model.state_dict(), tmp_path / "cnn.pt")
    loaded = load_model("cnn", weights=tmp_path / "cnn.pt", image_shape=(1, 28, 28)).model
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(loaded(images), model(images))
    with pytest.raises(ConfigError, match="takes classes, which is unknown here"):
        load_model("cnn", image_shape=(1, 28, 28))
    with pytest.raises(ConfigError, match="takes channels, which is unknown here"):
        load_model("cnn", classes=4)


def test_a_missing_library_names_the_extra():
    with pytest.raises(ConfigError, match=re.escape("pip install 'pellucid[integrations]'")):
        import_optional("no_such_library", "--model no_such_library:x")


def test_extra_outputs_in_training_are_removed(tmp_path):
    assert load_model("torchvision:googlenet", classes=4).model.train()(torch.rand(2, 3, 64, 64)).shape == (2, 4)
    torch.save(torchvision.models.googlenet(num_classes=3, init_weights=False).state_dict(), tmp_path / "all.pt")
    model = load_model("torchvision:googlenet", weights=tmp_path / "all.pt").model
    assert model.train()(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    assert not any("aux" in name for name in model.state_dict())


@pytest.mark.slow
def test_networks_with_positions_follow_the_image_size(tmp_path):
    loaded = load_model("torchvision:vit_b_32", classes=4, image_shape=(3, 64, 64))
    assert loaded.options == {"image_size": 64}
    assert (
        rebuild_model(loaded.name, (3, 64, 64), 4, loaded.options).state_dict().keys()
        == loaded.model.state_dict().keys()
    )
    with pytest.raises(ModelError, match=r"--model torchvision:vit_b_32 failed: AssertionError"):
        load_model("torchvision:vit_b_32", classes=4, image_shape=(3, 50, 50))
    model = torchvision.models.vit_b_32(image_size=64, num_classes=2)
    torch.save(model.state_dict(), tmp_path / "small.pt")
    loaded = load_model("torchvision:vit_b_32", weights=tmp_path / "small.pt")
    assert loaded.model.image_size == 64
    assert loaded.model.heads.head.out_features == 2


@pytest.mark.slow
def test_formats_of_old_weights(tmp_path):
    """MNASNet converts weights without a version, and DenseNets of 2017 have other names."""
    model = torchvision.models.mnasnet0_5(num_classes=3).eval()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "mnasnet.safetensors")
    loaded = load_model("torchvision:mnasnet0_5", weights=tmp_path / "mnasnet.safetensors").model
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(images), model(images))
    model = torchvision.models.densenet121(num_classes=3).eval()
    old = OrderedDict(
        (re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", name), value)
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet.pt")
    loaded = load_model("torchvision:densenet121", weights=tmp_path / "densenet.pt").model
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("options", [{"weights": "DEFAULT"}, {"progress": True, "checkpoint": "x"}])
def test_only_known_options_rebuild_a_network(options):
    model = rebuild_model("torchvision:squeezenet1_1", (3, 64, 64), 3, options)
    assert isinstance(model, nn.Module)
