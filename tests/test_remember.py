"""What is made once for equal settings, and what is not."""

import numpy as np
import pytest

from oeft_jax._checks import InputError
from oeft_jax.models.backbone import backbone, generator
from oeft_jax.remember import KEPT, remember, remember_described


@pytest.fixture
def made():
    return []


def counted(made, *arguments):
    made.append(arguments)
    return object()


def test_equal_arguments_give_the_same_object_and_few_are_kept(made):
    make = remember(lambda *arguments: counted(made, *arguments))
    assert make(1, "a") is make(1, "a")
    assert make(1, "b") is not make(1, "a")
    assert len(made) == 2
    for number in range(KEPT):
        make(number)
    make(1, "a")
    assert len(made) == 2 + KEPT + 1


def test_what_has_no_hash_is_made_anew(made):
    make = remember(lambda *arguments: counted(made, *arguments))
    assert make([1]) is not make([1])


def test_descriptions_are_the_same_if_their_json_is(made):
    make = remember_described(lambda *arguments: counted(made, *arguments))
    first = make("net", {"widths": [1, 2], "psi": 1.0})
    assert make("net", {"psi": 1.0, "widths": (1, 2)}) is first
    assert made == [("net", {"widths": [1, 2], "psi": 1.0})]
    for other in (
        {"widths": [1, 2], "psi": 1},
        {"widths": [1, 2], "psi": True},
        {"widths": [1, 2]},
    ):
        assert make("net", other) is not first
    assert make("other", {"widths": [1, 2], "psi": 1.0}) is not first
    assert make("net", {"widths": [1, 2], "psi": 1.0}, ("tap",)) is not first
    assert make("net", {"w": np.ones(2)}) is not make("net", {"w": np.ones(2)})


def test_networks_of_one_description_are_one_and_errors_are_not_kept():
    config = {"depths": [1, 1], "widths": [2, 3]}
    assert backbone("vgg", config) is backbone("vgg", dict(reversed(config.items())))
    assert backbone("vgg", config) is not backbone("vgg", {**config, "padding": "reflect"})
    small = {"resolution": 8, "z_dim": 4, "fmap_max": 8}
    assert generator("pggan", small) is generator("pggan", dict(small))
    for _ in range(2):
        with pytest.raises(InputError, match="does not describe"):
            backbone("vgg", {"depth": 3})
