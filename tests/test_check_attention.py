"""Checks of attention and its blocks: right ones pass, and every hint is given for its mistake."""

import students
import torch

from minidit import blocks, check
from minidit.attention import Attention

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


def test_the_steps_are_those_of_the_packages_blocks():
    torch.manual_seed(0)
    x, cond = torch.randn(2, 3, 8), torch.randn(2, 2, 8)
    with torch.no_grad():
        block = blocks.BLOCKS["cross_attention"](8, 2)
        mine = check.cross_attention_step.right(x, cond, block.cross)
        theirs = x + block.cross(block.norm_cross(x), cond)
        assert torch.allclose(mine, theirs, atol=1e-6)
        block, step = blocks.BLOCKS["adaln"](8, 2), check.adaln_step.right
        torch.nn.init.normal_(block.adaln.weight)
        shift1, scale1, shift2, scale2 = block.modulation(cond)
        mine = step(step(x, block.attn, shift1, scale1), block.mlp, shift2, scale2)
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


test_right_ones_pass = students.right(RIGHT)
test_each_mistake_gets_its_hint, test_every_hint_has_its_student = students.wrong(
    {"attention": ATTENTION}
)
