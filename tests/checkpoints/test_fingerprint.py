import shutil

from llm_expo.checkpoints import Checkpoint, fingerprint
from llm_expo.testing import tiny_pair
from llm_expo.weights import apply


def test_a_copy_has_the_same_and_another_checkpoint_another(tmp_path):
    theta0, theta1 = tiny_pair(tmp_path, dtype="bfloat16", shard_size="3KB")
    shutil.copytree(theta0, tmp_path / "copy")
    apply(theta0, theta1, 0.1, tmp_path / "moved")
    names = {name: fingerprint(Checkpoint.open(tmp_path / name)) for name in ("theta0", "theta1", "copy", "moved")}
    assert names["theta0"] == names["copy"]
    assert len(set(names.values())) == 3
    assert all(len(name) == 16 for name in names.values())
