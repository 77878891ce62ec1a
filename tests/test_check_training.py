"""Checks of a student's own training: right ones pass, and every hint is given for its mistake."""

import students
import torch
from torch import nn

from minidit import Diffusion, check, linear
from minidit.check import training as hints
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


def repaired(net, average, optimizer, images, labels, process, steps):
    """With `copy_`, and the network's own null label."""
    for step in range(steps):
        rng = step_generator(0, step)
        rows = torch.randint(len(images), (32,), generator=rng)
        x0 = 2 * (images[rows] / 255) - 1
        y = torch.where(torch.rand(32, generator=rng) < 0.1, net.null_label, labels[rows])
        t = torch.randint(1000, (32,), generator=rng)
        loss = process.loss(net, x0, t, torch.randn(x0.shape, generator=rng), y).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for slow, quick in zip(average.parameters(), net.parameters()):
            slow.data.copy_(0.99 * slow + 0.01 * quick)


def as_a_sum(weights, decay):
    """Every average as a weighted mean of all weights so far."""
    n = len(weights)
    age = torch.arange(n)[:, None] - torch.arange(n)
    shares = torch.where(age < 0, 0.0, decay ** age.clamp(min=0).float())
    return shares / shares.sum(dim=1, keepdim=True) @ weights


def by_definition(error, t, betas):
    kept = (1 - betas).cumprod(dim=0)
    small = (betas[t] * (1 - kept[t - 1]) / (1 - kept[t]))[:, None]
    return 2 * ((small + error) / small).log() / (betas[t][:, None] / small).log() - 1


def of_the_package(output, x0, noise, t, betas, scale):
    process = Diffusion(linear(100), learn_sigma=True, bound_scale=scale)
    return process.loss(lambda x, t, y: output, x0, t, noise)


RIGHT = [
    ("accumulated_step", summed),
    ("repaired_loop", repaired),
    ("corrected_average", as_a_sum),
    ("best_fraction", by_definition),
    ("hybrid_loss", of_the_package),
]
STUDENTS = students.of_the_package(
    {name: getattr(hints, name.upper()) for name, _ in RIGHT},
)

test_right_ones_pass = students.right(RIGHT)
test_each_mistake_gets_its_hint = students.wrong(STUDENTS)
test_a_stub_is_still_to_be_written = students.stubs(STUDENTS)


def test_a_batch_that_is_too_large_for_memory_is_told():
    def whole(net, optimizer, x, y, loss_of, most):
        return summed(net, optimizer, x, y, loss_of, len(x))

    assert "saw 12 images at once" in repr(check.accumulated_step(whole))
    assert "return the mean loss" in repr(check.accumulated_step(lambda *a: None))


def test_nonsense_is_told_without_a_traceback():
    for name, _ in RIGHT:
        for answer in (None, 1.0, torch.zeros(3), "loss"):
            assert repr(getattr(check, name)(lambda *a, answer=answer: answer)).startswith("✗")
