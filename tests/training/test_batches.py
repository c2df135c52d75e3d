"""Batches: what a step draws depends on (seed, step) alone."""

import torch

from flowrob.training.batches import Batches, batch_indices, mirror, step_generator
from flowrob.units import quantize


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    steps = [batch_indices(40, 10, step, seed=3) for step in range(8)]
    first, second = torch.cat(steps[:4]), torch.cat(steps[4:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(40))
    assert first.tolist() != second.tolist()


def test_randomness_depends_on_seed_and_key_alone():
    def draw(*key):
        return torch.rand(4, generator=step_generator(*key))

    assert torch.equal(draw(0, 1, 5), draw(0, 1, 5))
    different = [draw(0, 1, 5), draw(0, 1, 6), draw(1, 1, 5), draw(0, 2, 5)]
    assert len({tuple(d.tolist()) for d in different}) == 4


def test_a_batch_is_the_images_of_its_indices_mirrored_where_it_says_so(images):
    whole = Batches(images, 100, flips=True, seed=4)
    batch = whole.draw(2)
    assert torch.equal(batch.indices, batch_indices(400, 100, 2, seed=4))
    assert torch.equal(quantize(batch.x), mirror(images[batch.indices], batch.mirrored))
    assert 30 < batch.mirrored.sum() < 70  # four sigma
    again = whole.draw(2)
    assert torch.equal(again.x, batch.x)
    after = [torch.rand(3, generator=one.generator).tolist() for one in (again, batch)]
    assert after[0] == after[1]


def test_without_flips_no_image_is_mirrored(images):
    batch = Batches(images, 100, flips=False, seed=4).draw(0)
    assert not batch.mirrored.any() and torch.equal(quantize(batch.x), images[batch.indices])
