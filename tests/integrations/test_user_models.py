"""Models of timm and transformers by their spec: weights, class names, and the same pixels as their own transforms."""

import json
import shutil
import sys
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import pellucid
from pellucid import create_analyzer, jacobian
from pellucid.attribution import AmplificationWarning
from pellucid.cli import main
from pellucid.core.errors import ConfigError, ModelError, UnknownName
from pellucid.engine.tap import find_embedding
from pellucid.models import load_model
from pellucid.models._adapted import adapted
from pellucid.models._load import rebuild_model
from pellucid.models._preprocessing import choose_preprocessing, find_classes, find_preprocessing

pytestmark = pytest.mark.integrations

SIZES = [(97, 131), (131, 97), (301, 299), (64, 64), (33, 500), (9, 7)]


def picture(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def inputs(steps, image):
    pixels = torch.from_numpy(np.array(steps.picture(image))).permute(2, 0, 1)
    return steps.normalized(pixels.float() / 255)


class TestTimm:
    timm = pytest.importorskip("timm")

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize(
        "config",
        [
            {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear"},
            {"input_size": (3, 288, 288), "crop_pct": 0.95, "interpolation": "bicubic"},
            {"input_size": (3, 96, 96), "crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "squash"},
            {"input_size": (3, 80, 96), "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "squash"},
            {"input_size": (3, 64, 96), "crop_pct": 0.9, "interpolation": "bilinear"},
            {"input_size": (3, 96, 96), "crop_pct": 0.8, "interpolation": "bicubic", "crop_mode": "border"},
        ],
    )
    def test_every_crop_mode_gives_the_same_input(self, config, size):
        model = self.timm.create_model("test_vit", pretrained_cfg_overlay={**config, "mean": (0.3, 0.4, 0.5)})
        resolved = self.timm.data.resolve_data_config({}, model=model)
        expected = self.timm.data.create_transform(**resolved, is_training=False)(picture(size))
        steps = find_preprocessing(model)
        assert steps.mean == (0.3, 0.4, 0.5)
        torch.testing.assert_close(inputs(steps, picture(size)), expected, atol=2e-6, rtol=0)

    def test_weights_classes_and_rebuilding(self, tmp_path):
        model = self.timm.create_model("test_convnext", num_classes=5).eval()
        safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
        loaded = load_model("timm:test_convnext", weights=tmp_path / "weights.safetensors", classes=9)
        images = torch.rand(2, 3, 96, 96)
        assert torch.equal(loaded.model(images), model(images))
        assert loaded.classes is None
        tuned = load_model("timm:test_convnext", weights=tmp_path / "weights.safetensors", classes=9, new_head=True)
        assert tuned.model(images).shape == (2, 9)
        assert torch.equal(tuned.model.stem[0].weight, model.stem[0].weight)
        assert tuned.notice.startswith("The weights are for 5 classes and the data has 9")
        rebuilt = rebuild_model(tuned.name, (3, 96, 96), 9, tuned.options)
        assert rebuilt.load_state_dict(tuned.model.state_dict())

    def test_random_weights_for_the_images_at_hand(self):
        loaded = load_model("timm:test_vit", classes=4, image_shape=(1, 32, 48))
        assert loaded.model(torch.rand(2, 1, 32, 48)).shape == (2, 4)
        assert loaded.options == {"in_chans": 1, "img_size": [32, 48]}
        assert loaded.weights is None
        rebuilt = rebuild_model(loaded.name, (1, 32, 48), 4, {**loaded.options, "checkpoint_path": "/etc/passwd"})
        assert rebuilt.load_state_dict(loaded.model.state_dict())

    def test_class_names_of_imagenet(self):
        model = self.timm.create_model("resnet10t")
        names = find_classes(model)
        assert len(names) == 1000
        assert names[0].startswith("tench")
        assert find_classes(self.timm.create_model("resnet10t", num_classes=7)) is None
        overlay = {"label_names": ["a", "b"], "label_descriptions": {"a": "apple"}}
        model = self.timm.create_model("resnet10t", num_classes=2, pretrained_cfg_overlay=overlay)
        assert find_classes(model) == ("apple", "b")

    def test_unknown_names_give_close_matches(self):
        with pytest.raises(UnknownName, match="did you mean 'convnext_atto'"):
            load_model("timm:convnext_ato")
        with pytest.raises(
            UnknownName, match=r"no tag of pretrained weights of resnet18 'a1_in2k'; did you mean 'a1_in1k'"
        ):
            load_model("timm:resnet18", weights="a1_in2k")

    def test_pretrained_weights_are_named(self, monkeypatch):
        calls = []

        def create(name, **options):
            calls.append((name, options["pretrained"], options["num_classes"]))
            return original(name, **{**options, "pretrained": False})

        original = self.timm.create_model
        monkeypatch.setattr(self.timm, "create_model", create)
        loaded = load_model("timm:test_resnet", weights="DEFAULT")
        assert (loaded.weights, len(loaded.classes)) == ("test_resnet", 1000)
        tag = load_model("timm:test_resnet", weights="r160_in1k", classes=3, new_head=True)
        assert tag.weights == "test_resnet.r160_in1k"
        assert tag.notice.startswith("The weights are for 1000 classes and the data has 3, ")
        assert "so the last layer (fc.weight, fc.bias) starts with random weights" in tag.notice
        assert [call for call in calls if call[1]] == [("test_resnet", True, None), ("test_resnet.r160_in1k", True, 3)]

    def test_without_timm_the_error_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(ConfigError, match=r"timm:resnet18 needs the package timm.*pellucid\[integrations\]"):
            load_model("timm:resnet18")


NAMES = ("tabby, tabby cat", "a\ttab", "<script>")
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


class TestTransformers:
    transformers = pytest.importorskip("transformers")

    def config(self, **options):
        labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}
        return self.transformers.ViTConfig(**{**TINY, **labels, **options})

    @pytest.fixture
    def folder(self, tmp_path):
        torch.manual_seed(0)
        self.transformers.ViTForImageClassification(self.config()).save_pretrained(tmp_path / "vit")
        self.transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
        return tmp_path / "vit"

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("ViTImageProcessor", {}),
            ("ViTImageProcessor", {"size": {"height": 40, "width": 56}, "resample": 3, "do_normalize": False}),
            ("ViTImageProcessor", {"do_rescale": False, "size": {"height": 32, "width": 32}}),
            ("CLIPImageProcessor", {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 61}}),
            ("ConvNextImageProcessor", {"size": {"shortest_edge": 96}}),
            ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
            ("BitImageProcessor", {"size": {"shortest_edge": 50}, "do_center_crop": False}),
            ("EfficientNetImageProcessor", {"size": {"height": 60, "width": 60}, "rescale_factor": 1 / 127.5}),
            ("MobileNetV2ImageProcessor", {}),
            ("BeitImageProcessor", {"do_center_crop": True, "crop_size": {"height": 200, "width": 200}}),
            ("LevitImageProcessor", {}),
            ("PoolFormerImageProcessor", {}),
            ("DeiTImageProcessor", {}),
        ],
    )
    def test_every_processor_gives_the_same_input(self, kind, options, size):
        processor = getattr(self.transformers, kind)(**options)
        image = picture(size)
        try:
            expected = processor(image, return_tensors="pt")["pixel_values"][0]
        except ValueError:
            pytest.skip("the processor itself refuses this size")
        steps = choose_preprocessing(torch.nn.Identity(), preprocess=processor)
        scale = max(expected.abs().max().item(), 1)
        torch.testing.assert_close(inputs(steps, image), expected.float(), atol=4e-6 * scale, rtol=0)

    def test_the_pillow_processor_too(self, folder):
        processor = self.transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        steps = choose_preprocessing(torch.nn.Identity(), preprocess=processor)
        image = picture((301, 299))
        expected = torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"][0])
        torch.testing.assert_close(inputs(steps, image), expected, atol=4e-6, rtol=0)

    def test_sizes_given_by_the_user_replace_those_of_the_processor(self):
        processor = self.transformers.CLIPImageProcessor()
        steps = choose_preprocessing(torch.nn.Identity(), preprocess=processor, image_size=112)
        assert (steps.resize, steps.crop, steps.interpolation, steps.function) == (112, (112, 112), "bicubic", None)

    @pytest.mark.parametrize(
        "change", [lambda x: x - x.mean((2, 3), keepdim=True), lambda x: x[:, None].expand(-1, 4, -1, -1, -1)]
    )
    def test_a_processor_that_does_more_is_refused(self, change):
        class Other(self.transformers.ViTImageProcessor):
            def __call__(self, image, **options):
                return {"pixel_values": change(super().__call__(image, **options)["pixel_values"])}

        with pytest.raises(ConfigError, match=r"the image processor of Other \(Other\) cannot be used"):
            choose_preprocessing(torch.nn.Identity(), preprocess=Other())

    def test_a_local_folder(self, folder, monkeypatch, capfd):
        monkeypatch.chdir(folder.parent)
        loaded = load_model("hf:vit")
        model = self.transformers.ViTForImageClassification.from_pretrained(folder).eval()
        images = torch.rand(2, 3, 32, 32)
        assert torch.equal(loaded.model(images).logits, model(images).logits)
        assert loaded.name == loaded.weights == f"hf:{folder}"
        assert loaded.classes == NAMES == find_classes(model)
        assert (loaded.preprocessing.mean, loaded.preprocessing.resize) == ((0.5, 0.5, 0.5), (32, 32))
        assert not loaded.model.training

    def test_a_model_in_memory_knows_the_folder_it_was_loaded_from(self, folder):
        model = self.transformers.ViTForImageClassification.from_pretrained(folder)
        steps = find_preprocessing(model)
        assert (steps.mean, steps.resize) == ((0.5, 0.5, 0.5), (32, 32))
        assert find_preprocessing(self.transformers.ViTForImageClassification(self.config())) is None
        assert choose_preprocessing(model, mean=0.1, std=0.2).mean == (0.1,)
        (folder / "preprocessor_config.json").unlink()
        assert find_preprocessing(model) is None
        assert choose_preprocessing(model).mean is None

    def test_a_new_last_layer_and_rebuilding_without_the_folder(self, folder):
        loaded = load_model(f"hf:{folder}", classes=7, new_head=True)
        assert loaded.model(torch.rand(2, 3, 32, 32)).logits.shape == (2, 7)
        assert loaded.classes is None
        assert (
            "for 3 classes and the data has 7, so the last layer (classifier.weight, classifier.bias)" in loaded.notice
        )
        stored = safetensors.torch.load_file(folder / "model.safetensors")
        name = "vit.embeddings.cls_token"
        assert torch.equal(loaded.model.state_dict()[name], stored[name])
        options = json.loads(json.dumps(loaded.options))
        (folder / "config.json").unlink()
        rebuilt = rebuild_model(f"hf:{folder}", (3, 32, 32), 7, options)
        assert rebuilt.load_state_dict(loaded.model.state_dict())

    def test_weights_of_a_file(self, folder, tmp_path):
        torch.manual_seed(1)
        other = self.transformers.ViTForImageClassification(self.config()).eval()
        torch.save({"model": other.state_dict()}, tmp_path / "other.pt")
        loaded = load_model(f"hf:{folder}", weights=tmp_path / "other.pt")
        images = torch.rand(2, 3, 32, 32)
        assert torch.equal(loaded.model(images).logits, other(images).logits)
        assert loaded.classes == NAMES

    def test_half_precision_is_converted(self, folder):
        model = self.transformers.ViTForImageClassification(self.config()).to(torch.bfloat16)
        model.save_pretrained(folder)
        assert load_model(f"hf:{folder}").model.dtype == torch.float32

    def test_a_backbone_without_a_classifier_is_refused(self, folder):
        self.transformers.ViTModel(self.config(), add_pooling_layer=False).save_pretrained(folder)
        with pytest.raises(ModelError, match="2 tensors would stay random: classifier.bias, classifier.weight"):
            load_model(f"hf:{folder}")
        assert load_model(f"hf:{folder}", classes=3, new_head=True).model.num_labels == 3

    def test_pickled_weights_are_refused(self, folder):
        torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(ConfigError, match="no file named model.safetensors"):
            load_model(f"hf:{folder}")

    def test_code_of_a_folder_is_never_run(self, folder):
        path = folder / "config.json"
        config = json.loads(path.read_text()) | {
            "model_type": "evil",
            "auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"},
        }
        path.write_text(json.dumps(config))
        (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
        with pytest.raises(ModelError, match=r"--model hf:.* failed: ValueError"):
            load_model(f"hf:{folder}")
        assert not (folder / "ran").exists()

    @pytest.mark.parametrize(
        ("content", "error", "message"),
        [
            ({"config.json": None}, ConfigError, "the folder has no config.json"),
            ({"config.json": "{"}, ConfigError, "cannot be loaded: "),
            ({"model.safetensors": "no weights"}, ModelError, "failed: SafetensorError"),
            ({"preprocessor_config.json": "{"}, ConfigError, "the image processor of hf:.* cannot be loaded"),
        ],
    )
    def test_damaged_folders_are_refused(self, content, error, message, folder):
        for name, text in content.items():
            (folder / name).unlink() if text is None else (folder / name).write_text(text)
        with pytest.raises(error, match=message):
            load_model(f"hf:{folder}")

    def test_places_that_cannot_be_repositories_are_refused(self, tmp_path):
        for place in (tmp_path / "absent", "./absent", "a/b/c"):
            with pytest.raises(ConfigError, match="there is no such folder, and it is not the name of a repository"):
                load_model(f"hf:{place}")

    def test_a_folder_without_a_processor(self, folder):
        (folder / "preprocessor_config.json").unlink()
        assert load_model(f"hf:{folder}").preprocessing is None


class TestExplanations:
    """Adapted networks of both libraries with the whole of pellucid, against autograd and sums computed by hand."""

    def networks(self):
        timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")
        torch.manual_seed(0)
        convnext = timm.create_model("convnext_atto", num_classes=5, pretrained_cfg_overlay={"mean": (0.4, 0.5, 0.6)})
        steps = find_preprocessing(convnext)
        yield convnext, steps, "head.fc", "stages.2"
        vit = transformers.ViTForImageClassification(transformers.ViTConfig(**{**TINY, "image_size": 64}, num_labels=5))
        torch.nn.init.normal_(vit.classifier.weight)
        yield vit, choose_preprocessing(vit, mean=[0.5] * 3, std=[0.25] * 3), "classifier", "vit.layers.1"

    def test_derivatives_relevance_and_layers(self):
        images = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        for network, steps, embedding, layer in self.networks():
            network = network.eval().double()
            model = adapted(network, steps)
            mean, std = (torch.tensor(value, dtype=torch.float64).view(3, 1, 1) for value in (steps.mean, steps.std))
            leaf = images.clone().requires_grad_()
            outputs = network((leaf - mean) / std)
            logits = getattr(outputs, "logits", outputs)
            expected = torch.autograd.grad(logits[:, 3].sum(), leaf)[0]
            gradient = create_analyzer("gradient", model).analyze(images, 3)
            torch.testing.assert_close(gradient, expected, atol=1e-10, rtol=1e-6)
            rows = jacobian(model, images[:1], outputs=[3])
            torch.testing.assert_close(rows[0, 0], expected[0], atol=1e-10, rtol=1e-6)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AmplificationWarning)
                explanation = create_analyzer("lrp.epsilon_plus_flat", model).explain(images, 3, strict=True)
            torch.testing.assert_close(explanation.logits, logits.detach())
            sums = explanation.relevance.flatten(1).sum(1)
            torch.testing.assert_close(sums, explanation.expected, atol=1e-10, rtol=0)
            assert find_embedding(model, images).layer == embedding
            short, full = (
                create_analyzer("grad_cam", model, layer=name).analyze(images, 3) for name in (layer, f"model.{layer}")
            )
            torch.testing.assert_close(short, full)


class TestRuns:
    """Both libraries in a run, and the way back from the save folder."""

    SMALL = (
        "--dataset digits --limit-train 120 --limit-test 40 --batch-size 60 --threads 1 --image-size 32 --serial "
        "--hooks confusion_matrix".split()
    )

    def test_a_run_of_transformers_is_loaded_and_resumed_without_its_folder(self, tmp_path, capsys):
        transformers = pytest.importorskip("transformers")
        folder, save = tmp_path / "vit", tmp_path / "save"
        transformers.ViTForImageClassification(transformers.ViTConfig(**TINY, num_labels=3)).save_pretrained(folder)
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
        assert main(["run", *self.SMALL, "--model", f"hf:{folder}", "--epochs", "1", "--save", str(save)]) == 0
        assert "The weights are for 3 classes and the data has 10" in " ".join(capsys.readouterr().out.split())
        shutil.rmtree(folder)
        images = torch.rand(2, 1, 32, 32)
        first = pellucid.load_run(save).model(images)
        assert first.shape == (2, 10)
        record = json.loads((save / "run.json").read_text())["model"]
        assert record["preprocessing"] == {"mean": [0.5] * 3, "std": [0.5] * 3, "source": f"hf:{folder}"}
        assert main(["run", "--resume", "--save", str(save), "--epochs", "2", "--serial"]) == 0
        lines = (save / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]

    def test_a_run_of_timm_is_loaded(self, tmp_path):
        pytest.importorskip("timm")
        save = tmp_path / "save"
        assert main(["run", *self.SMALL, "--model", "timm:test_vit", "--epochs", "1", "--save", str(save)]) == 0
        record = json.loads((save / "run.json").read_text())["model"]
        assert record["options"] == {"in_chans": 1, "img_size": [32, 32]}
        assert pellucid.load_run(save).model(torch.rand(2, 1, 32, 32)).shape == (2, 10)
