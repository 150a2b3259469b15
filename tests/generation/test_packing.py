"""Products from packed weights are those of the weights, as they were when they were packed."""

import pytest
import torch
from torch import nn

from llm_expo.generation.packing import pack


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_the_parameters(dtype, bias):
    torch.manual_seed(0)
    layer = nn.Linear(48, 80, bias=bias).to(dtype).requires_grad_(False)
    model = nn.Sequential(layer)
    for _ in range(2):
        pack(model)
        for shape in ((1, 48), (2, 3, 48), (300, 48), (0, 48)):
            inputs = torch.randn(shape).to(dtype)
            expected = nn.functional.linear(inputs, layer.weight, layer.bias)
            assert model(inputs).dtype == dtype
            torch.testing.assert_close(model(inputs), expected)
        layer.weight.mul_(-2)


def test_the_parameters_stay():
    model = nn.Sequential(nn.Linear(8, 8), nn.Embedding(4, 8)).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pack(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_layer_of_a_derived_kind_is_let_alone():
    class Doubled(nn.Linear):
        def forward(self, inputs):
            return 2 * super().forward(inputs)

    model = nn.Sequential(Doubled(8, 8)).requires_grad_(False)
    inputs = torch.randn(3, 8)
    before = model(inputs)
    pack(model)
    assert torch.equal(model(inputs), before)
