"""Steps as long as a tolerance allows: errors, evaluations, refused steps, batches."""

import pytest
import torch
from test_dpm_solver import START, exact_end, perfect

from minidit import Diffusion, cosine, dpm_adaptive, linear, sample, straight, vp_sde
from minidit.solvers.adaptive import growth

close = torch.testing.assert_close


def run(diffusion, x=START, **how):
    """The end, and where the network was evaluated: (number, x) each."""
    evaluated, model = [], perfect(diffusion)

    def counted(x, t, y):
        evaluated.append((t[0].item(), x.clone()))
        return model(x, t, y)

    return sample(dpm_adaptive(counted, diffusion, x, **how)), evaluated


@pytest.mark.parametrize(
    "make, order, solve",
    [(linear, 2, "x0"), (linear, 2, "eps"), (straight, 3, "x0"), (vp_sde, 3, "eps")],
)
def test_a_smaller_tolerance_gives_a_smaller_error_for_more_evaluations(make, order, solve):
    diffusion, errors, counts = Diffusion(make()), [], []
    for tolerance in (3e-3, 3e-4):
        how = dict(order=order, solve=solve, rtol=tolerance, atol=tolerance, denoise=False)
        end, evaluated = run(diffusion, **how)
        errors.append((end - exact_end(diffusion.schedule, START)).abs().max().item())
        counts.append(len(evaluated))
        assert errors[-1] < 1.5 * tolerance
    assert errors[1] < errors[0] / 4 and counts[1] > 1.4 * counts[0]


def test_a_refused_step_is_tried_again_shorter_and_keeps_its_first_prediction():
    diffusion = Diffusion(vp_sde())
    end, evaluated = run(diffusion, first=8.0, denoise=False)
    numbers = [number for number, _ in evaluated]
    assert len(set(numbers)) == len(numbers)  # nothing is evaluated twice
    assert numbers[3] > numbers[1]  # the second try is nearer
    close(end, exact_end(diffusion.schedule, START), atol=0.05, rtol=0)
    careful, more = run(diffusion, first=0.01, denoise=False)
    assert numbers[0] == 999 and more[0][0] == 999
    close(careful, end, atol=0.05, rtol=0)


def test_accepted_steps_are_yielded_and_fall_to_the_clean_image():
    diffusion = Diffusion(cosine(), "v")
    states = list(dpm_adaptive(perfect(diffusion), diffusion, START))
    assert [s.t for s in states] == sorted({s.t for s in states}, reverse=True)
    assert states[0].t == 999 and states[-1].t == 0
    assert torch.equal(states[-1].x, states[-1].x0)
    without = list(dpm_adaptive(perfect(diffusion), diffusion, START, denoise=False))
    assert len(without) == len(states) - 1
    assert torch.equal(without[-1].x, states[-2].x)


def test_a_repeated_image_changes_nothing_and_the_worst_image_decides():
    diffusion = Diffusion(linear())
    alone, few = run(diffusion, START[:1], rtol=0.0, atol=1e-3)
    twice, same = run(diffusion, START[:1].repeat(5, 1, 1, 1), rtol=0.0, atol=1e-3)
    close(twice, alone.repeat(5, 1, 1, 1), atol=1e-12, rtol=0)
    assert len(same) == len(few)
    calm = diffusion.schedule.alpha[-1] * 0.4 * torch.ones_like(START[:1])  # stays at the mean
    _, fewest = run(diffusion, calm, rtol=0.0, atol=1e-3)
    _, both = run(diffusion, torch.cat([calm, START[:1]]), rtol=0.0, atol=1e-3)
    assert len(fewest) < len(few) == len(both)


def test_growth_of_steps():
    assert growth(1.0, 2) == pytest.approx(0.9)
    assert growth(8.0, 3) == pytest.approx(0.45) and growth(1 / 8, 3) == pytest.approx(1.8)
    assert growth(0.0, 2) < float("inf")


@pytest.mark.parametrize(
    "how, sentence",
    [
        (dict(order=1), "order=1 is unknown"),
        (dict(solve="v"), "solve='v' is unknown"),
        (dict(atol=0.0), "atol, first > 0"),
        (dict(rtol=-1.0), "rtol ≥ 0"),
        (dict(first=0.0), "first=0.0"),
    ],
)
def test_refusals(how, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(Diffusion(linear()), **how)


def test_a_batch_of_nothing_stays_one():
    walk = dpm_adaptive(lambda x, t, y: x, Diffusion(linear()), START[:0], clip=0.9)
    assert sample(walk).shape == START[:0].shape


def test_an_answer_that_is_not_finite_ends_the_walk():
    broken = dpm_adaptive(lambda x, t, y: x * float("nan"), Diffusion(linear()), START)
    with pytest.raises(FloatingPointError, match="from t = 999 is nan: the network's answer"):
        next(broken)


def test_a_first_step_beyond_the_end_is_one_to_the_end():
    _, evaluated = run(Diffusion(linear()), first=1e6, rtol=1e6, atol=1e6, order=2, denoise=False)
    assert len(evaluated) == 2 and 0 < evaluated[1][0] < 999
