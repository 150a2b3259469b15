import math

import torch

from llm_expo.generation.noise import gumbel, stream

PINNED = [[-0.33934637242178284, 0.0807034109914524], [0.19077578209243123, 1.0312131405885154]]


def test_stream_is_the_same_in_every_process():
    assert stream(42, "advice-001", "search") == stream(42, "advice-001", "search")
    assert stream(42, "advice-001", "search") == -4348334726791716077
    assert stream(42, "a", "b") != stream(43, "a", "b") != stream(43, "b", "a")


def test_noise_is_pinned():
    """A study resumed after an upgrade has to meet the noise that it began with."""
    noise = gumbel(torch.tensor([1, -5]), 3, torch.tensor([[0, 7], [0, 49151]]))
    torch.testing.assert_close(noise, torch.tensor(PINNED, dtype=torch.float64), rtol=1e-12, atol=0)


def test_noise_does_not_depend_on_the_batch_or_on_the_other_tokens():
    streams = torch.tensor([stream(1, name) for name in "abcdef"])
    tokens = torch.arange(1000).repeat(6, 1)
    together = gumbel(streams, 5, tokens)
    alone = gumbel(streams[2:3], 5, tokens[2:3, 10:20])
    assert torch.equal(together[2:3, 10:20], alone)


def test_noise_is_standard_gumbel_and_uncorrelated():
    streams = torch.tensor([stream(0, row) for row in range(64)])
    noise = torch.stack([gumbel(streams, position, torch.arange(500).repeat(64, 1)) for position in range(8)])
    n = noise.numel()
    assert noise.isfinite().all()
    assert abs(float(noise.mean()) - 0.5772156649) < 4 * math.sqrt(math.pi**2 / 6 / n)
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.03
    uniform = (-(-noise).exp()).exp()
    histogram = torch.histc(uniform.float(), bins=50, min=0, max=1) / n * 50
    assert (histogram - 1).abs().max() < 5 * math.sqrt(50 / n)
    for axis in range(3):  # along positions, rows and tokens
        centred = noise - noise.mean()
        neighbours = (centred * centred.roll(1, axis)).mean() / centred.var()
        assert abs(float(neighbours)) < 5 / math.sqrt(n)
