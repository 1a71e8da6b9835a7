"""Figure sections."""

from dataclasses import replace

import pytest

from pellucid.report import Material
from pellucid.report._pictures import pack_picture
from pellucid.report.sections.figures import figures, other_figures
from pretended_run import keep, png


def test_each_epoch_has_a_figure_and_a_caption(store):
    section = figures("saliency")(Material(store))
    (figure,) = section.data["figures"]
    assert list(figure["pictures"]) == [0, 1, 2]
    assert figure["pictures"][2]["uri"] == pack_picture(png(100)).uri
    assert figure["pictures"][2]["caption"] == "Pets, epoch 2: saliency"
    assert section.data["moment"] == ""


def test_hook_that_did_not_run_has_no_section(store):
    assert figures("jacobian_maps")(Material(store)) is None


def test_end_hook_names_its_checkpoint(store):
    assert (
        figures("prototypes")(Material(store)).data["moment"]
        == "Computed at the end of training with the best checkpoint (epoch 1)."
    )


def test_user_defined_hook_is_shown_with_all_its_figures(store):
    (section,) = other_figures(
        Material(store), ["saliency", "confusion_matrix", "hardest", "prototypes", "leaderboard"]
    )
    assert (section.name, section.title) == ("hook-my_hook", "My hook")
    assert [figure["name"] for figure in section.data["figures"]] == ["my_hook", "more"]


@pytest.mark.parametrize("hook", ["a b", 'x"y', "héé"])
def test_unusual_hook_names_have_unique_ids(hook, store):
    keep(store, hook, 1, png(1))
    keep(store, hook + "_", 1, png(1))
    keep(store, hook.replace("b", "b").replace('"', "'") + "_", 1, png(1))
    ids = [section.name for section in other_figures(Material(store), ["my_hook"])]
    assert len(ids) == len(set(ids))
    assert all(" " not in name and '"' not in name for name in ids)


def test_omitted_epochs_have_no_figures(store):
    section = figures("saliency")(replace(Material(store), left_out=frozenset({1})))
    assert list(section.data["figures"][0]["pictures"]) == [0, 2]
