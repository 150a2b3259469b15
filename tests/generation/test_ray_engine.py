"""The engine in replicas, as far as it needs no cluster; tests/cluster has it on one."""

import sys
from functools import partial

import pytest

from llm_expo.errors import EngineError, MissingExtraError
from llm_expo.generation import Sampling, TransformersEngine
from llm_expo.generation.ray_engine import _made, dealt, ray_engine_from
from llm_expo.weights import Direction


@pytest.mark.parametrize(
    ("batches", "hands", "most", "chunks"),
    [
        ("", 2, 4, []),
        ("a", 2, 4, ["a"]),
        ("abc", 2, 4, ["ab", "c"]),
        ("abcdefgh", 2, 4, ["abcd", "efgh"]),
        ("abcdefghij", 2, 4, ["abcd", "efgh", "i", "j"]),
        ("abc", 2, 1, ["a", "b", "c"]),
    ],
)
def test_batches_are_dealt(batches, hands, most, chunks):
    assert ["".join(chunk) for chunk in dealt(batches, hands, most)] == chunks


def test_a_node_has_to_see_what_the_driver_sees(pair, tmp_path):
    direction = Direction.open(*pair)
    driver = TransformersEngine(direction, Sampling(), device="cpu")
    files = [shard.path for shard in (*direction.initial.shards, *direction.aligned.shards)]
    make = partial(TransformersEngine, direction, Sampling(), device="cpu")
    assert _made(make, files, driver.settings, 1).settings == driver.settings
    with pytest.raises(EngineError, match="cannot read .*/absent; both checkpoints have to lie on storage that every"):
        _made(make, [*files, tmp_path / "absent"], driver.settings, 1)
    weights = pair[0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9] + b"different")
    stale = driver.settings["theta0"]
    with pytest.raises(EngineError, match=rf"sees another theta0, \w+ where the driver has {stale}; both checkpoints"):
        _made(make, files, driver.settings, 1)


def test_no_replicas_and_no_ray(pair, monkeypatch):
    direction = Direction.open(*pair)
    with pytest.raises(EngineError, match="--replicas 0: there has to be at least one"):
        with ray_engine_from(direction, Sampling(), replicas=0):
            pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llm-expo\[ray\]'"):
        with ray_engine_from(direction, Sampling(), replicas=2):
            pass
