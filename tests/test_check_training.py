"""Checks of a student's own training: right ones pass, and what is strange is told."""

from functools import partial

import students
import torch
from torch import nn

from minidit import check
from minidit.train import step_generator

# --- right, written in other ways than the package's ----------------------------------------------


def summed(net, optimizer, x, y, loss_of, most):
    """The parts' sums, divided at the end; the gradient zeroed after the step."""
    losses = []
    for k in range(0, len(x), most):
        losses.append(loss_of(net, x[k : k + most], y[k : k + most]).sum() / len(x))
        losses[-1].backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return sum(losses).item()


def repaired(
    net,
    average,
    optimizer,
    images,
    labels,
    process,
    steps,
    null=10,
    unit=lambda x: 2 * x - 1,
    times=32,
    share=0.01,
):
    """With `copy_`; the last four, `unit` of pixels in 0 … 1, are what slips change."""
    for step in range(steps):
        rng = step_generator(0, step)
        rows = torch.randint(len(images), (32,), generator=rng)
        y = torch.where(torch.rand(32, generator=rng) < 0.1, null, labels[rows])
        t, x0 = torch.randint(1000, (times,), generator=rng).expand(32), unit(images[rows] / 255)
        loss = process.loss(net, x0, t, torch.randn(x0.shape, generator=rng), y).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for slow, quick in zip(average.parameters(), net.parameters()):
            slow.data.copy_((1 - share) * slow + share * quick)


def as_a_sum(weights, decay):
    """Every average as a weighted mean of all weights so far."""
    n = len(weights)
    age = torch.arange(n)[:, None] - torch.arange(n)
    shares = torch.where(age < 0, 0.0, decay ** age.clamp(min=0).float())
    return shares / shares.sum(dim=1, keepdim=True) @ weights


RIGHT = [
    ("accumulated_step", summed),
    ("repaired_loop", repaired),
    ("corrected_average", as_a_sum),
]

test_right_ones_pass = students.right(RIGHT)


def test_a_batch_that_is_too_large_for_memory_is_told():
    def whole(net, optimizer, x, y, loss_of, most):
        return summed(net, optimizer, x, y, loss_of, len(x))

    assert "12 images at once" in repr(check.accumulated_step(whole))

    def all_graphs(net, optimizer, x, y, loss_of, most):
        parts = zip(x.split(most), y.split(most))
        loss = torch.cat([loss_of(net, *part) for part in parts]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    assert "keeps the graph" in repr(check.accumulated_step(all_graphs))
    assert "return the mean loss" in repr(check.accumulated_step(lambda *a: None))


def test_two_mistakes_are_told_together():
    told = repr(check.repaired_loop(partial(repaired, null=9, unit=lambda x: x - 0.5)))
    assert "two mistakes: pixels lie in -½ … ½" in told and "and 9 is a class" in told
    planted = partial(repaired, null=0, unit=lambda x: x, times=1, share=0.0)
    told = repr(check.repaired_loop(planted))
    assert "four mistakes: pixels lie in 0 … 1" in told and "; and `slow = …` gives" in told
    still = check.repaired_loop(lambda *rest: None)
    assert "no step is taken" in repr(still)
    outside = check.repaired_loop(
        lambda net, *rest: net(rest[2][:1], rest[3][:1], torch.tensor([11]))
    )
    assert "a label outside 0 … 10" in repr(outside)
