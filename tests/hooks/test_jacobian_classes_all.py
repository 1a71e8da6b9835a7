from collections.abc import Callable

import numpy as np

from pellucid.hooks import Scene
from pellucid.hooks.jacobian_classes import JacobianClasses
from pellucid.hooks.jacobian_classes_all import JacobianClassesAll


def test_all_images_at_the_end(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(count=1100)
    (some,), (every,) = JacobianClasses().run(scene), JacobianClassesAll().run(scene)
    assert (JacobianClasses.when, JacobianClassesAll.when) == ("epoch", "end")
    assert (some.numbers["images"], every.numbers["images"]) == (1000, 1100)
    assert every.numbers["counts"] == scene.test.labels.bincount(minlength=4).tolist()
    assert every.caption.startswith(f"{scene.title}: ")
    (again,) = JacobianClasses(images=None).run(scene)
    np.testing.assert_array_equal(every.arrays["mean_absolute_jacobian"], again.arrays["mean_absolute_jacobian"])
