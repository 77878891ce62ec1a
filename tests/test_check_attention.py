"""Checks of attention and its blocks: right ones pass, and every hint is given for its mistake."""

import students
import torch

from minidit import blocks
from minidit.attention import Attention
from minidit.check import _mistakes_attention as hints

# --- right, written in other ways than the package's ----------------------------------------------


def head_by_head(q, k, v, heads):
    parts = []
    for queries, keys, values in zip(*(z.chunk(heads, dim=-1) for z in (q, k, v))):
        scores = torch.einsum("bnk,bmk->bnm", queries, keys) / queries.shape[-1] ** 0.5
        parts.append(scores.softmax(-1) @ values)
    return torch.cat(parts, dim=-1)


def layer_of_the_package(q, k, v, heads):
    """`Attention` across, with the identity for its linear layers."""
    d = q.shape[-1]
    layer = Attention(d, heads, cross=True).requires_grad_(False)
    layer.q.weight.copy_(torch.eye(d))
    layer.proj.weight.copy_(torch.eye(d))
    # keys and values come from one context: side by side they need a layer of 2·d
    layer.kv = torch.nn.Identity()
    return layer(q, torch.cat([k, v], dim=-1))


def one_sentence_at_a_time(q, k, there):
    shares = torch.zeros(len(q), q.shape[1], k.shape[1])
    for i, kept in enumerate(there):
        scores = q[i] @ k[i, kept].T / q.shape[-1] ** 0.5
        shares[i][:, kept] = scores.softmax(-1)
    return shares


def in_front(x, cond, block):
    m = cond.shape[1]
    sequence = x.new_empty(len(x), m + x.shape[1], x.shape[2])
    sequence[:, :m], sequence[:, m:] = cond, x
    return block(sequence).split([m, x.shape[1]], dim=1)[1]


def normalise(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def look_up(x, cond, attend):
    return torch.add(x, attend(normalise(x), cond))


def modulated(x, branch, shift, scale):
    return x + branch(blocks.modulate(normalise(x), shift, scale))


RIGHT = [
    ("attention", head_by_head),
    ("attention", layer_of_the_package),
    ("key_mask", one_sentence_at_a_time),
    ("in_context_step", in_front),
    ("cross_attention_step", look_up),
    ("adaln_step", modulated),
]

test_right_ones_pass = students.right(RIGHT)


def test_the_steps_are_those_of_the_packages_blocks():
    torch.manual_seed(0)
    x, cond = torch.randn(2, 3, 8), torch.randn(2, 2, 8)
    with torch.no_grad():
        block = blocks.BLOCKS["cross_attention"](8, 2)
        mine = hints.cross_attention_step(x, cond, block.cross)
        theirs = x + block.cross(block.norm_cross(x), cond)
        assert torch.allclose(mine, theirs, atol=1e-6)
        block = blocks.BLOCKS["adaln"](8, 2)
        torch.nn.init.normal_(block.adaln.weight)
        shift1, scale1, shift2, scale2 = block.modulation(cond)
        half = hints.adaln_step(x, block.attn, shift1, scale1)
        mine = hints.adaln_step(half, block.mlp, shift2, scale2)
        assert torch.allclose(mine, block(x, cond), atol=1e-5)


# --- wrong, each with the words that its hint must hold -------------------------------------------


def shares(q, k, divide):
    return (torch.einsum("bnk,bmk->bnm", q, k) / divide).softmax(-1)


def heads_with(divide):
    def attention(q, k, v, heads):
        parts = zip(*(z.chunk(heads, dim=-1) for z in (q, k, v)))
        divisor = divide(q.shape[-1], heads)
        return torch.cat([shares(a, b, divisor) @ c for a, b, c in parts], dim=-1)

    return attention


def over_queries(q, k, v, heads):
    parts = []
    for a, b, c in zip(*(z.chunk(heads, dim=-1) for z in (q, k, v))):
        scores = a @ b.transpose(1, 2) / a.shape[-1] ** 0.5
        parts.append(torch.softmax(scores, dim=1) @ c)
    return torch.cat(parts, dim=-1)


def in_turn(q, k, v, heads):
    out = torch.zeros_like(q)
    for h in range(heads):
        a, b, c = (z[..., h::heads] for z in (q, k, v))
        out[..., h::heads] = shares(a, b, a.shape[-1] ** 0.5) @ c
    return out


def viewed(q, k, v, heads):
    b, n, d = q.shape
    q, k, v = (z.view(b, heads, -1, d // heads) for z in (q, k, v))
    out = (q @ k.mT / (d // heads) ** 0.5).softmax(-1) @ v
    return out.transpose(1, 2).reshape(b, n, d)


def never_merged(q, k, v, heads):
    return head_by_head(q, k, v, heads).unflatten(-1, (heads, -1)).transpose(1, 2)


ATTENTION = {
    "divided by √d;": heads_with(lambda d, heads: d**0.5),
    "not divided at all": heads_with(lambda d, heads: 1),
    "by its root": heads_with(lambda d, heads: d / heads),
    "over the queries": over_queries,
    "there is one head": lambda q, k, v, heads: shares(q, k, q.shape[-1] ** 0.5) @ v,
    "in turn": in_turn,
    "which mixes tokens": viewed,
    "are still apart": never_merged,
}


def scores(q, k):
    return torch.einsum("bnk,bmk->bnm", q, k) / q.shape[-1] ** 0.5


NOWHERE = -float("inf")

KEY_MASK = {
    "no longer sum to one": lambda q, k, there: scores(q, k).softmax(-1) * there.unsqueeze(1),
    "a share like others": lambda q, k, there: torch.where(
        there.unsqueeze(1), scores(q, k), 0.0
    ).softmax(-1),
    "the wrong way round": lambda q, k, there: torch.where(
        there.unsqueeze(1), NOWHERE, scores(q, k)
    ).softmax(-1),
    "hides queries": lambda q, k, there: torch.where(
        there.unsqueeze(2), scores(q, k), NOWHERE
    ).softmax(-1),
    "nothing is masked": lambda q, k, there: scores(q, k).softmax(-1),
    "not divided by √d": lambda q, k, there: torch.where(
        there.unsqueeze(1), q @ k.mT, NOWHERE
    ).softmax(-1),
}

IN_CONTEXT_STEP = {
    "are still there": lambda x, cond, block: block(torch.hstack([cond, x])),
    "the wrong tokens": lambda x, cond, block: block(torch.hstack([cond, x]))[:, : -cond.shape[1]],
    "behind the image": lambda x, cond, block: block(torch.hstack([x, cond]))[:, : -cond.shape[1]],
    "never sees": lambda x, cond, block: block(x),
    "is added to every token": lambda x, cond, block: block(x + cond.sum(1)[:, None]),
}

CROSS_ATTENTION_STEP = {
    "x is not added": lambda x, cond, attend: attend(normalise(x), cond),
    "normalisation is missing": lambda x, cond, attend: x + attend(x, cond),
    "roles are exchanged": lambda x, cond, attend: x + attend(cond, normalise(x)),
    "asks itself": lambda x, cond, attend: x + attend(normalise(x), normalise(x)),
    "is normalised, too": lambda x, cond, attend: x + attend(normalise(x), normalise(cond)),
    "add it to x itself": lambda x, cond, attend: normalise(x) + attend(normalise(x), cond),
}


def film(x, shift, scale):
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


ADALN_STEP = {
    "the factor is 1 + scale": lambda x, branch, shift, scale: (
        x + branch(normalise(x) * scale.unsqueeze(1) + shift.unsqueeze(1))
    ),
    "are exchanged": lambda x, branch, shift, scale: x + branch(film(normalise(x), scale, shift)),
    "x is not added": lambda x, branch, shift, scale: branch(film(normalise(x), shift, scale)),
    "normalisation is missing": lambda x, branch, shift, scale: x + branch(film(x, shift, scale)),
    "after the branch": lambda x, branch, shift, scale: (
        x + film(branch(normalise(x)), shift, scale)
    ),
    "which undoes it": lambda x, branch, shift, scale: x + branch(normalise(film(x, shift, scale))),
}

STUDENTS = {
    "attention": (ATTENTION, hints.ATTENTION),
    "key_mask": (KEY_MASK, hints.KEY_MASK),
    "in_context_step": (IN_CONTEXT_STEP, hints.IN_CONTEXT_STEP),
    "cross_attention_step": (CROSS_ATTENTION_STEP, hints.CROSS_ATTENTION_STEP),
    "adaln_step": (ADALN_STEP, hints.ADALN_STEP),
}

test_each_mistake_gets_its_hint = students.wrong(STUDENTS)
test_every_hint_has_its_student = students.complete(STUDENTS)
test_a_stub_is_still_to_be_written = students.stubs(STUDENTS)
