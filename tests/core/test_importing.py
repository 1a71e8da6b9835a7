"""User functions named MODULE:FUNCTION."""

import pytest

from pellucid.core.errors import ConfigError, UnknownName
from pellucid.core.importing import is_function_name, load_function


@pytest.mark.parametrize("text", ["a:b", "a.b.c:d_2"])
def test_valid_function_names_are_recognized(text):
    assert is_function_name(text)


@pytest.mark.parametrize("text", ["a", "a:", ":b", "a b:c", "C:/path", "a.:b", "1a:b", "a:b:c", "../x:y"])
def test_invalid_function_names_are_not_recognized(text):
    assert not is_function_name(text)


def test_errors_state_the_reason(tmp_path, monkeypatch):
    (tmp_path / "module_of_test.py").write_text("def shoes(): return 1\n")
    (tmp_path / "failing_module_of_test.py").write_text("raise OSError('no sensor')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_function("--dataset", "module_of_test:shoes")() == 1
    with pytest.raises(UnknownName, match="did you mean 'shoes'"):
        load_function("--dataset", "module_of_test:shoe")
    with pytest.raises(ConfigError, match=r"--model failing_module_of_test:f: .* OSError: no sensor"):
        load_function("--model", "failing_module_of_test:f")
    (tmp_path / "vision_of_test.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    with pytest.raises(ConfigError, match="are incompatible; reinstall both: pip install --force-reinstall"):
        load_function("--dataset", "vision_of_test:f")
    with pytest.raises(ConfigError, match="No module named 'absent_module_of_test'"):
        load_function("--model", "absent_module_of_test:f")
