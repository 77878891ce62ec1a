"""Checks of what is put together: right ones pass, and strange answers end in no traceback."""

from types import SimpleNamespace

import pytest
import students
import torch

from minidit import Diffusion, LongSkip, UViT, check, ddpm, linear, patchify, timestep_embedding
from minidit.check.skips import taken_apart
from minidit.training.presets import without_skips

# --- right, written in other ways than the package's ----------------------------------------------


def by_tables(predict, x, noises, betas):
    a = torch.cat([torch.ones(1), (1 - betas).cumprod(dim=0)])
    for k in range(len(betas) - 1, -1, -1):
        eps = predict(x, torch.tensor([k] * len(x)))
        noise_part = betas[k] / (1 - a[k + 1]).sqrt() * eps
        x = (x - noise_part) / (1 - betas[k]).sqrt()
        x = x + ((1 - a[k]) / (1 - a[k + 1]) * betas[k]).sqrt() * noises[k]
    return x


def by_autograd(x, t, mean, std, alphas_cumprod):
    a, x = alphas_cumprod[t][:, None], x.clone().requires_grad_()
    cloud = torch.distributions.Normal(a.sqrt() * mean, (a * std**2 + 1 - a).sqrt())
    (score,) = torch.autograd.grad(cloud.log_prob(x).sum(), x)
    return score


def by_columns(kind, weight, bias):
    d = len(weight)
    both = torch.zeros(d, 2 * d)
    both[:, :d] = weight if kind == "linear_add" else torch.eye(d)
    if kind != "none":
        both[:, d:] = torch.eye(d) if kind == "add" else weight
    return both, bias if "linear" in kind else torch.zeros(d)


def recursive(net, x, t, y):
    """Everything between the first block and the last is a smaller U."""

    def smaller(x, blocks, skips):
        if len(blocks) == 1:
            return blocks[0](x)
        early = blocks[0](x)
        return blocks[-1](skips[-1](smaller(early, blocks[1:-1], skips[:-1]), early))

    tokens = [] if y is None else [net.label_embed(y).unsqueeze(1)]
    tokens += [timestep_embedding(t, net.d).unsqueeze(1)]
    out = torch.cat([*tokens, net.patch_embed(patchify(x, net.patch_size))], dim=1)
    out = out if net.pos_embed is None else out + net.pos_embed
    out = net.last(net.norm(smaller(out, net.blocks, net.skips)[:, len(tokens) :]))
    h, w = net.grid
    out = out.unflatten(1, (h, w)).unflatten(3, (net.patch_size, net.patch_size, -1))
    out = out.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    return out if net.conv is None else net.conv(out)


def by_definition(error, t, betas):
    kept = (1 - betas).cumprod(dim=0)
    small = (betas[t] * (1 - kept[t - 1]) / (1 - kept[t]))[:, None]
    return 2 * ((small + error) / small).log() / (betas[t][:, None] / small).log() - 1


def of_the_package(output, x0, noise, t, betas, scale):
    process = Diffusion(linear(100), learn_sigma=True, bound_scale=scale)
    return process.loss(lambda x, t, y: output, x0, t, noise)


def by_search(d, depth):
    """The width at which the parameters come nearest."""
    half = depth // 2
    with_skips = half * d * (2 * d + 1) + (2 * half + 1) * 4 * d * (2 * d + 1)
    total = lambda inner: (2 * half + 1) * inner * (2 * d + 1)  # noqa: E731
    return min(range(4 * d, 6 * d), key=lambda inner: abs(total(inner) - with_skips))


def by_presets(d, depth):
    return int(d * without_skips({"hidden_size": d, "depth": depth})["mlp_ratio"])


RIGHT = [
    ("inner_width", by_search),
    ("inner_width", by_presets),
    ("ancestral_sampler", by_tables),
    ("gaussian_score", by_autograd),
    ("as_concat", by_columns),
    ("uvit_forward", recursive),
    ("best_fraction", by_definition),
    ("hybrid_loss", of_the_package),
]

test_right_ones_pass = students.right(RIGHT)


# --- what is checked is what the package does -----------------------------------------------------


def test_the_walk_back_is_ddpm_with_the_small_variance():
    schedule = linear(40)
    process = Diffusion(schedule, variance="small")
    predict = lambda x, t, y=None: (x + 0.1 * t.reshape(-1, 1, 1, 1)).sin()  # noqa: E731
    noises = torch.randn(40, 3, 2, 1, 1)
    *_, last = ddpm(predict, process, noises[0], noise=list(noises.flip(0)))
    plain = lambda x, t: predict(x[:, :, None, None], t).flatten(1)  # noqa: E731
    walked = by_tables(plain, noises[0].flatten(1), noises.flatten(2), schedule.betas.float())
    assert torch.allclose(last.x.flatten(1), walked, atol=1e-3)


def test_the_forward_pass_is_the_networks(awaken):
    x, t, y = torch.randn(2, 3, 4, 8), torch.tensor([3, 700]), torch.tensor([1, 0])
    net = awaken(UViT((4, 8), 2, 3, 16, 4, 2, num_classes=2))
    assert torch.allclose(recursive(taken_apart(net), x, t, y), net(x, t, y), atol=1e-5)


def test_a_skip_as_a_concat_is_the_packages(awaken):
    x, early = torch.randn(2, 2, 3, 4)
    for kind in ("add", "add_linear", "linear_add", "none"):
        skip = awaken(LongSkip(kind, 4))
        layer = getattr(skip, "proj", torch.nn.Linear(4, 4))
        concat = LongSkip("concat", 4)
        weight, bias = by_columns(kind, layer.weight, layer.bias)
        concat.proj.weight.data, concat.proj.bias.data = weight, bias
        assert torch.allclose(concat(x, early), skip(x, early), atol=1e-5)


# --- no traceback of ours -------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [None, 1.0, (1, 2), torch.zeros(3), "loss"], ids=repr)
def test_nonsense_is_told_without_a_traceback(answer):
    others = "accumulated_step repaired_loop corrected_average unused_parameters parallel_block"
    for name in (*dict(RIGHT), *others.split()):
        verdict = getattr(check, name)(lambda *arguments: answer)
        assert not verdict and f"✗ {name} is not right yet" in repr(verdict)


def test_what_is_missing_is_told():
    assert "no pair of tensors" in repr(check.as_concat(lambda kind, weight, bias: weight))
    no_bias = check.as_concat(lambda kind, weight, bias: (torch.eye(3, 6), None))
    assert "zeros if there is none" in repr(no_bias)
    number = check.ancestral_sampler(lambda predict, x, noises, betas: predict(x, 3))
    assert "a step for each point" in repr(number)


def test_a_mistyped_name_gets_no_hint():
    verdict = check.as_concat(lambda kind, weight, bias: wieght)  # noqa: F821
    assert "NameError" in repr(verdict) and "likeliest cause" not in repr(verdict)


def test_a_part_that_is_missing_and_called_all_the_same_is_told():
    def always(net, x, t, y):
        image = recursive(SimpleNamespace(**{**vars(net), "conv": None}), x, t, y)
        return net.conv(image)

    assert "conv is called where it is None" in repr(check.uvit_forward(always))


def test_lists_that_a_student_empties_are_whole_for_the_next():
    def emptied(net, x, t, y):
        while net.skips:
            net.skips.pop()
        return recursive(net, x, t, y)

    assert not check.uvit_forward(emptied) and check.uvit_forward(recursive)


def test_a_width_that_is_no_whole_number_or_rounded_down_is_not_right():
    exact = lambda d, depth: 4 * d + (2 * d * d + d) * (depth // 2) / ((depth + 1) * (2 * d + 1))  # noqa: E731
    assert not check.inner_width(exact)
    assert not check.inner_width(lambda d, depth: int(exact(d, depth)))
