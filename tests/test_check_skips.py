"""Checks of long skips: right ones pass, and every hint is given for its mistake."""

import students
import torch

from minidit import LongSkip, UViT, check

# --- right, written in other ways than the package's ----------------------------------------------


def two_matrices(x, early, weight, bias):
    """A matrix for each of the two."""
    d = x.shape[-1]
    return x @ weight[:, :d].T + early @ weight[:, d:].T + bias


def recursive(x, blocks, skips):
    """Everything between the first block and the last is a smaller U."""
    if len(blocks) == 1:
        return blocks[0](x)
    early = blocks[0](x)
    return blocks[-1](skips[-1](recursive(early, blocks[1:-1], skips[:-1]), early))


def by_search(d, depth):
    """The width at which the parameters come nearest."""
    half = depth // 2
    with_skips = half * d * (2 * d + 1) + (2 * half + 1) * 4 * d * (2 * d + 1)
    total = lambda inner: (2 * half + 1) * inner * (2 * d + 1)  # noqa: E731
    return min(range(4 * d, 6 * d), key=lambda inner: abs(total(inner) - with_skips))


RIGHT = [("long_skip", two_matrices), ("u_walk", recursive), ("inner_width", by_search)]


def test_what_is_checked_is_what_the_network_does(awaken):
    skip, (x, early) = awaken(LongSkip("concat", 4)), torch.randn(2, 2, 3, 4)
    assert torch.allclose(
        skip(x, early), check.long_skip.right(x, early, skip.proj.weight, skip.proj.bias)
    )
    net = awaken(UViT(8, 4, 1, 16, 4, 2, conv="none", pos_embed="none"))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    time = net.time_vector(t)[:, None]
    blocks = [lambda z, block=block: block(z, time) for block in net.blocks]
    tokens = check.u_walk.right(torch.cat([time, net.patch_embed(x)], 1), blocks, list(net.skips))
    assert torch.allclose(net._to_image(tokens, time), net(x, t), atol=1e-5)


# --- wrong, each with the words that its hint must hold -------------------------------------------


def straight_on(x, blocks, skips):
    for block in blocks:
        x = block(x)
    return x


def queue(x, blocks, skips):
    half, kept = len(skips), []
    for block in blocks[:half]:
        x = block(x)
        kept.append(x)
    x = blocks[half](x)
    for early, block, skip in zip(kept, blocks[half + 1 :], skips):
        x = block(skip(x, early))
    return x


def before_the_block(x, blocks, skips):
    half, kept = len(skips), []
    for block in blocks[:half]:
        kept.append(x)
        x = block(x)
    x = blocks[half](x)
    for block, skip in zip(blocks[half + 1 :], skips):
        x = block(skip(x, kept.pop()))
    return x


def after_the_block(x, blocks, skips):
    half, kept = len(skips), []
    for block in blocks[:half]:
        x = block(x)
        kept.append(x)
    x = blocks[half](x)
    for block, skip in zip(blocks[half + 1 :], skips):
        x = skip(block(x), kept.pop())
    return x


def middle_kept(x, blocks, skips):
    half, kept = len(skips), []
    for block in blocks[: half + 1]:
        x = block(x)
        kept.append(x)
    for block, skip in zip(blocks[half + 1 :], skips):
        x = block(skip(x, kept.pop()))
    return x


U_WALK = {
    "the first that was kept": queue,
    "what goes into a block": before_the_block,
    "joins after its block": after_the_block,
    "the middle block keeps": middle_kept,
    "are left out": straight_on,
}

test_right_ones_pass = students.right(RIGHT)
test_each_mistake_gets_its_hint, test_every_hint_has_its_student = students.wrong(
    {"u_walk": U_WALK}
)


def test_added_tokens_get_the_hint_of_wrongly_joined_ones():
    verdict = check.long_skip(lambda x, early, w, b: (x + early) @ w.T + b)
    assert "or added" in repr(verdict).partition("likeliest cause")[2], verdict


def test_a_mistyped_name_gets_no_hint():
    verdict = check.long_skip(lambda x, early, w, b: x @ wieght.T)  # noqa: F821
    assert "NameError" in repr(verdict) and "likeliest cause" not in repr(verdict)


def test_lists_that_a_student_empties_are_whole_for_the_next():
    def emptied(x, blocks, skips):
        kept = []
        while len(blocks) > len(skips) + 1:
            x = blocks.pop(0)(x)
            kept.append(x)
        x = blocks.pop(0)(x)
        while blocks:
            x = blocks.pop(0)(skips.pop(0)(x, kept.pop(0)))
        return x

    assert "the first that was kept" in repr(check.u_walk(emptied)).partition("cause")[2]


def test_a_width_that_is_no_whole_number_or_rounded_down_is_not_right():
    exact = lambda d, depth: 4 * d + (2 * d * d + d) * (depth // 2) / ((depth + 1) * (2 * d + 1))  # noqa: E731
    assert not check.inner_width(exact)
    assert not check.inner_width(lambda d, depth: int(exact(d, depth)))
