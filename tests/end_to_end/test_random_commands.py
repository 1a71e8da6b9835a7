"""Random command lines end well: with an exit code, a message for every refusal, and no traceback."""

import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from programs import Program

from pellucid.cli import main

SMALL = ["--dataset=digits", "--limit-train=60", "--limit-test=30", "--epochs=1", "--hooks=none", "--threads=1"]
ODD = (
    *("", " ", "0", "-1", "1.5", "nan", "inf", "1e400", "0x10", "1_0", "None", "true", "[]", "{}", "[bold]", "%s"),
    *(
        "a,b",
        ",",
        ",,a",
        "a,,b",
        "default,none",
        "all,all",
        "ünïcödé",
        "日本",
        "caf\udce9",
        "a\nb",
        "\x1b[31m",
        "x" * 3000,
    ),
    *(
        "/",
        "/dev/null",
        "/dev/zero",
        "/proc/self/mem",
        "..",
        "~",
        "~nobody/x",
        "save/run.json",
        "CON",
        "x" * 3000,
        "a\0b",
    ),
    *(
        "os:getpid",
        "sys:exit",
        "builtins:print",
        "torch.nn:Linear",
        "nowhere:none",
        ":",
        "a:",
        ":b",
        "folder:",
        "mnist:",
    ),
)
"""Values that no flag takes, or few."""
SENSIBLE = {
    "run": {
        "dataset": ("digits", "planted_patch:digits", "folder:photos", "own:data", "confound:digits", "two_digits:x"),
        "data-dir": ("data", "save", "file"),
        "mirror": ("http://127.0.0.1:9", "file:///nowhere", "nowhere", "ftp://127.0.0.1/"),
        "image-size": ("8", "4", "28", "3"),
        "max-megapixels": ("1", "50"),
        "limit-train": ("24", "40", "60"),
        "limit-test": ("20", "1"),
        "model": ("small_cnn", "cnn", "mlp", "basic", "resnet", "own:network", "own:broken"),
        "epochs": ("1", "2"),
        "batch-size": ("7", "64", "100000000000"),
        "learning-rate": ("0.01", "10", "11", "1e-300"),
        "seed": ("0", "7", "9223372036854775807", "9223372036854775808"),
        "device": ("cpu", "auto", "cuda", "cuda:99", "mps", "tpu"),
        "precision": ("float32", "bf16", "float64"),
        "threads": ("1", "2", "1000000"),
        "hooks": ("none", "confusion_matrix", "saliency,none", "saliencies", "tsne,saliency"),
        "methods": ("gradient", "lrp.epsilon,random", "pattern.net", "gradients", "default"),
        "classes": ("0,1", "10", "3,3"),
        "embedding-layer": ("1", "0", "head"),
        "save": ("save", "file", "other/deep/save", "photos", "."),
        "config": ("settings.toml", "broken.toml", "save/run.json", "file", "photos"),
        "resume": (None,),
        "serial": (None,),
        "trust": (None,),
        "help": (None,),
    },
    "evaluate": {
        "images": ("3", "5"),
        "methods": ("gradient", "default,gradient", "random", "gradients", "pattern.net"),
        "metrics": ("sparseness", "completeness,sparseness", "relevance_mass", "roars"),
        "split": ("auto", "validation", "train"),
        "seed": ("0", "-1"),
        "data-dir": ("data", "file"),
        "threads": ("1", "1000000"),
        "trust": (None,),
    },
    "ground-truth": {
        "datasets": ("planted_patch:nothing", "digits", "nothing", "mnist:x"),
        "images": ("0",),
        "methods": ("gradients",),
        "save": ("file/x", "photos"),
    },
    "report": {"run": ("save",), "help": (None,)},
    "methods": {"help": (None,), "family": ("gradient",)},
    "help": {"run": (None,)},
    "nothing": {},
}
"""Values by command and flag; None for flags without one."""
MODULE = """
import torch
from torch import nn

def network(classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

def broken(classes):
    raise RuntimeError("no network today")

def data():
    whole = torch.utils.data.TensorDataset(torch.rand(40, 1, 6, 6), torch.arange(40) % 2)
    return whole, whole, ["even", "odd"]
"""


def command_lines(count: int) -> Iterator[list[str]]:
    draw = random.Random(15)
    for _ in range(count):
        command = draw.choices(list(SENSIBLE), weights=[12, 4, 2, 2, 1, 1, 1])[0]
        flags = SENSIBLE[command]
        line = [command, *(SMALL if command == "run" else ())]
        if command in ("evaluate", "report") and draw.random() < 0.9:
            line.append(draw.choice(("save", "save", "save", "photos", "file", "nowhere", draw.choice(ODD))))
        if command == "evaluate":
            line += ["--images=3", "--methods=gradient", "--metrics=sparseness"]
        for name in draw.sample(list(flags), min(len(flags), draw.randint(0, 3))):
            value = draw.choice(flags[name]) if draw.random() < 0.6 else draw.choice(ODD)
            name = name.replace("-", "_") if draw.random() < 0.1 else name
            line += [f"--{name}"] if value is None else [f"--{name}={value}"]
            if value is not None and draw.random() < 0.5:
                line[-1:] = [f"--{name}", value]
        if draw.random() < 0.1:
            line.insert(draw.randint(0, len(line)), draw.choice((*ODD, "--", "-", "--nothing", "-x")))
        yield line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished run, a user's module and files of all kinds."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        patch.setattr("pellucid.data.mnist.PUBLIC_MIRRORS", ("http://127.0.0.1:9/",))
        assert main(["run", *SMALL]) == 0
        (folder / "own.py").write_text(MODULE)
        (folder / "file").write_text("a file")
        (folder / "photos").mkdir()
        (folder / "photos" / "note.txt").write_text("not a picture")
        (folder / "settings.toml").write_text("batch_size = 16\n")
        (folder / "broken.toml").write_text("batch_size = [")
        yield folder
    sys.modules.pop("own", None)


def ends_well(line: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line; return what is wrong with how it ends, or an empty string."""
    try:
        code = main(line)
    except SystemExit as error:  # the parser's way to end
        code = error.code
    except BaseException as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    out, err = capsys.readouterr()
    if code not in (0, 1, 2):
        return f"exit code {code!r}"
    if code and not (out + err).strip():
        return "no message"
    if "unexpected " in err or "Traceback" in err:
        return err
    return ""


@pytest.mark.slow
def test_150_random_command_lines_end_well(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for line in command_lines(150):
        if problem := ends_well(line, capsys):
            wrong.append(f"{line}: {problem[:400]}")
        for name, content in (("file", "a file"), ("photos/note.txt", "not a picture")):
            assert (place / name).read_text() == content, line
    assert not wrong, "\n".join(wrong)
    assert torch.get_num_threads() < 1000
    assert threading.active_count() < 100


@pytest.mark.slow
def test_five_random_processes_end_well(place: Path) -> None:
    wrong = []
    for line in list(command_lines(400))[-5:]:
        if any("\0" in word for word in line):  # no process can get such an argument
            continue
        done = Program(*line).finish()
        said = done.out + done.err
        if done.code not in (0, 1, 2) or "Traceback" in said or "unexpected " in said or not said.strip():
            wrong.append(f"{line}: {done.code}: {said[-400:]}")
    assert not wrong, "\n".join(wrong)
