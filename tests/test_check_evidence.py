"""Checks of what a student makes of numbers: a permutation test, and a fit of two slopes."""

import itertools
import random
import statistics

import students
import torch

from minidit import check

# --- right, written in other ways than the package's ----------------------------------------------


def all_orders(a, b):
    """Over all orders of the values: every choice comes equally often."""
    orders = list(itertools.permutations([*a, *b]))
    means = [abs(sum(o[: len(a)]) / len(a) - sum(o[len(a) :]) / len(b)) for o in orders]
    return sum(mean >= means[0] - 1e-9 for mean in means) / len(means)


def normal_equations(weights, tokens, fid):
    x = torch.stack([weights, tokens]).double().log()
    y = fid.double().log()
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean()
    return torch.linalg.solve(x @ x.T, x @ y)


RIGHT = [("permutation_share", all_orders), ("scaling_slopes", normal_equations)]

test_right_ones_pass = students.right(RIGHT)

# --- wrong ----------------------------------------------------------------------------------------


def gaps(a, b):
    values = [*a, *b]
    ways = itertools.combinations(range(len(values)), len(a))
    return [
        statistics.mean(values[k] for k in way)
        - statistics.mean(v for k, v in enumerate(values) if k not in way)
        for way in ways
    ]


def shares(counts):
    def share(a, b):
        found = gaps(a, b)
        return statistics.mean(float(counts(gap, found[0])) for gap in found)

    return share


def of_sums(a, b):
    total = sum(a) + sum(b)
    sums = [sum(way) for way in itertools.combinations([*a, *b], len(a))]
    return sum(abs(2 * s - total) >= abs(2 * sum(a) - total) for s in sums) / len(sums)


def in_pairs(a, b):
    differences = torch.tensor([x - y for x, y in zip(a, b)])
    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=len(differences))))
    means = (signs * differences).mean(dim=1).abs()
    return (means >= means[0]).double().mean().item()


def fitted(columns, kept, log=torch.log):
    def slopes(weights, tokens, fid):
        logs = {"1": torch.ones(len(fid)), "w": log(weights.float()), "t": log(tokens.float())}
        A = torch.stack([logs[name] for name in columns], dim=1).double()
        found = torch.linalg.lstsq(A, fid.double().log()).solution
        return torch.stack([found[columns.index(name)] for name in kept])

    return slopes


def without_log_of_fid(weights, tokens, fid):
    A = torch.stack([torch.ones(len(fid)), weights.log(), tokens.log()], dim=1).double()
    return torch.linalg.lstsq(A, fid.double()).solution[1:]


def one_by_one(weights, tokens, fid):
    return torch.cat([fitted("1" + k, k)(weights, tokens, fid) for k in "wt"])


WRONG = {
    "permutation_share": {
        "of the same sign": shares(lambda d, real: d >= real if real > 0 else d <= real),
        ">= and not >": shares(lambda d, real: abs(d) > abs(real)),
        "sums are compared": of_sums,
        "don't come in pairs": in_pairs,
    },
    "scaling_slopes": {
        "the order is": fitted("1wt", "tw"),
        "and c isn't": fitted("1wt", "1w"),
        "a column of ones": fitted("wt", "wt"),
        "logarithm of the FID": without_log_of_fid,
        "logarithms of weights": fitted("1wt", "wt", log=torch.Tensor.double),
        "fitted alone": one_by_one,
    },
}

test_each_mistake_gets_its_hint = students.wrong(WRONG)


def test_ways_drawn_at_random_are_told():
    def drawn(a, b):
        rng, values = random.Random(0), [*a, *b]
        found = []
        for _ in range(200):
            rng.shuffle(values)
            found.append(sum(values[: len(a)]) / len(a) - sum(values[len(a) :]) / len(b))
        real = sum(a) / len(a) - sum(b) / len(b)
        return sum(abs(gap) >= abs(real) for gap in found) / len(found)

    assert "drawn at random" in repr(check.permutation_share(drawn))
    assert "returns a list" in repr(check.scaling_slopes(lambda w, t, f: [-0.25, -0.5]))
