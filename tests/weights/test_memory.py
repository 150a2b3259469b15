"""Tensors and models in memory."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from llm_expo.errors import ExpoError, MismatchError
from llm_expo.testing import tiny_pair
from llm_expo.weights import apply
from llm_expo.weights.memory import extrapolate, extrapolate_model

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def bits(tensor: torch.Tensor) -> list[int]:
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.flatten().view(width).tolist()


def random_pair(dtype: torch.dtype, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    before = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return before.to(dtype), (before + 0.1 * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("alpha", "side"), [(0, 1), (0.0, 1), (-0.0, 1), (-1, 0), (-1.0, 0)])
def test_zero_and_minus_one_copy(dtype: torch.dtype, alpha: float, side: int) -> None:
    odd = torch.tensor([-0.0, 0.0, math.nan, math.inf, -math.inf, 3.0], dtype=dtype)
    pair = (odd, odd.flip(0)) if side == 0 else (odd.flip(0), odd)
    assert bits(extrapolate(*pair, alpha)) == bits(odd)


def test_mixed_dtypes() -> None:
    before, after = torch.tensor([1.0, 0.1], dtype=torch.float32), torch.tensor([2.0, 0.1], dtype=torch.bfloat16)
    result = extrapolate(before, after, 0.3)
    assert result.dtype == torch.bfloat16
    assert bits(result) == bits(extrapolate(before, after.float(), 0.3).bfloat16())
    assert bits(extrapolate(before, after, -1)) == bits(before.bfloat16())
    out = torch.empty(2)
    assert extrapolate(before, after, 0.3, out) is out
    assert bits(out) == bits(extrapolate(before, after.float(), 0.3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_shape_stride_or_size(dtype: torch.dtype) -> None:
    before, after = random_pair(dtype, 70_000)
    whole = bits(extrapolate(before, after, 0.3))
    assert bits(extrapolate(before.view(350, 200).T, after.view(350, 200).T, 0.3).T) == whole
    ones = [extrapolate(b, a, 0.3) for b, a in zip(before[:99], after[:99], strict=True)]
    assert bits(torch.stack(ones)) == whole[:99]
    strided = torch.zeros(140_000, dtype=dtype)[::2]
    extrapolate(before, after, 0.3, strided)
    assert bits(strided) == whole


def test_a_tensor_of_several_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = random_pair(torch.float32, 5000)
    whole = bits(extrapolate(before, after, 0.3))
    monkeypatch.setattr("llm_expo.weights.memory._SPAN", 700)
    assert bits(extrapolate(before, after, 0.3)) == whole
    after[4321] = math.nan
    with pytest.raises(ExpoError, match=r"index 4321 with alpha 0.3: .* nan in theta1"):
        extrapolate(before, after, 0.3)


@pytest.mark.parametrize("alpha", [0, -1, 0.3, 2.0])
@pytest.mark.parametrize("types", [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)])
@pytest.mark.parametrize("side", [0, 1])
def test_out_may_be_either_input(alpha: float, types: tuple[torch.dtype, torch.dtype], side: int) -> None:
    before, after = random_pair(types[0], 100)[0], random_pair(types[1], 100)[1]
    expected = bits(extrapolate(before, after, alpha, torch.empty_like((before, after)[side])))
    out = (before, after)[side]
    assert extrapolate(before, after, alpha, out) is out
    assert bits(out) == expected


def test_parameters_of_a_live_model() -> None:
    parameter = torch.nn.Parameter(torch.tensor([2.0]))
    extrapolate(torch.tensor([1.0]), torch.nn.Parameter(torch.tensor([2.0])), 0.5, parameter)
    assert parameter.tolist() == [2.5]
    assert parameter.requires_grad
    assert parameter.grad_fn is None
    with torch.inference_mode():
        extrapolate(torch.tensor([1.0]), torch.tensor([2.0]), 1.0, parameter)
    assert parameter.tolist() == [3.0]
    assert extrapolate(torch.empty(0), torch.empty(0), 0.3).shape == (0,)
    assert extrapolate(torch.tensor(1.0), torch.tensor(2.0), 1.0).item() == 3.0


def test_wrong_tensors() -> None:
    with pytest.raises(ValueError, match=r"shapes differ: \[1, 2\], \[2\], out \[2\]"):
        extrapolate(torch.zeros(1, 2), torch.zeros(2), 0.3)
    with pytest.raises(ValueError, match=r"cannot be extrapolated: torch.int64"):
        extrapolate(torch.zeros(2), torch.zeros(2).long(), 0.3)
    with pytest.raises(ValueError, match=r"cannot be extrapolated: torch.float8_e4m3fn"):
        extrapolate(torch.zeros(2).to(torch.float8_e4m3fn), torch.zeros(2), 0.3)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_in_memory_equals_the_one_that_is_written(tmp_path, tied: bool) -> None:
    theta0, theta1 = tiny_pair(tmp_path, dtype="bfloat16", tied=tied)
    before, after = (AutoModelForCausalLM.from_pretrained(side, dtype="auto") for side in (theta0, theta1))
    untouched = {name: tensor.clone() for name, tensor in after.state_dict().items()}
    state = extrapolate_model(before, after, 0.5)
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in after.state_dict().items())
    apply(theta0, theta1, 0.5, tmp_path / "out")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    assert state.keys() == written.keys()
    assert all(bits(state[name]) == bits(written[name]) for name in written)
    after.load_state_dict(state)
    from_states = extrapolate_model(before.state_dict(), {**untouched}, 0.5)
    assert all(bits(from_states[name]) == bits(state[name]) for name in state)
    if tied:
        assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()


def test_models_that_do_not_match() -> None:
    with pytest.raises(
        MismatchError, match=r"2 tensors: a: shape \[2\] in theta0, shape \[3\] in theta1; b: absent in"
    ):
        extrapolate_model({"a": torch.zeros(2)}, {"a": torch.zeros(3), "b": torch.zeros(1)}, 0.3)
    with pytest.raises(ExpoError, match=r"a: NaN or infinity at flat index 1"):
        extrapolate_model({"a": torch.zeros(2)}, {"a": torch.tensor([0.0, math.inf])}, 0.3)
