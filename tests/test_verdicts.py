"""The rule for verdicts: Student's t, Welch, Holm, and what they say in simulation."""

import math

import pytest
import torch

from minidit import weights
from minidit.lab import verdicts as pictures
from minidit.lab.verdicts import ALPHA, POWER, compare, quantile, table, tails, verdicts

SIMULATIONS = 2000


@pytest.mark.parametrize(
    "t, dof, p",
    [(12.706, 1, 0.05), (4.303, 2, 0.05), (2.228, 10, 0.05), (9.925, 2, 0.01), (1.984, 100, 0.05),
     (0.0, 3, 1.0), (63.657, 1, 0.01)],
)  # fmt: skip
def test_students_tails_are_those_of_the_tables(t, dof, p):
    assert tails(t, dof) == pytest.approx(p, rel=2e-3)
    assert p == 1 or quantile(p, dof) == pytest.approx(t, rel=2e-3)


def test_welch_as_worked_out_by_hand():
    a, b = [1.0, 2.0, 3.0], [5.0, 9.0, 7.0, 11.0]
    one = compare({"b": b, "a": a})["a"]
    error = math.sqrt(1 / 3 + (20 / 3) / 4)
    dof = (1 / 3 + 5 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (5 / 3) ** 2 / 3)
    assert one.difference == -6 and one.seeds == 3 and one.told
    assert one.p == pytest.approx(tails(6 / error, dof))
    least = (quantile(ALPHA, dof) + quantile(0.4, dof)) * error
    assert one.smallest == pytest.approx(least)


def test_holm_multiplies_the_smallest_p_by_all_and_never_falls():
    rows = {"base": [0.0, 0.1, -0.1], "far": [9.0, 9.1, 9.2], "near": [0.2, 0.3, 0.4]}
    rows |= {"same": [0.0, 0.1, -0.1]}
    alone = {k: compare({"base": rows["base"], k: rows[k]})[k].p for k in ("far", "near", "same")}
    found = {k: v.p for k, v in compare(rows).items()}
    expected = {"far": 3 * alone["far"], "near": 2 * alone["near"], "same": 1.0}
    assert found == pytest.approx(expected) and list(found) == ["far", "near", "same"]
    assert compare(rows, {"x": ("base", "far")})["x"].difference == pytest.approx(-9.1)


def draw(rng, seeds, spreads, shifts):
    values = torch.randn(len(spreads), seeds, generator=rng, dtype=torch.float64)
    values = values * torch.tensor(spreads)[:, None] + torch.tensor(shifts)[:, None]
    return {str(k): row for k, row in enumerate(values.tolist())}


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("spreads", [[1.0] * 6, [1.0, 0.02, 0.5, 5.0, 40.0, 1.0]], ids=str)
def test_tables_without_differences_hold_a_false_verdict_in_six_of_a_hundred_at_most(
    seeds, spreads
):
    rng = torch.Generator().manual_seed(0)
    false = 0
    for _ in range(SIMULATIONS):
        false += any(one.told for one in compare(draw(rng, seeds, spreads, [0.0] * 6)).values())
    assert false / SIMULATIONS < 0.06


@pytest.mark.parametrize("seeds, spreads", [(5, [1.0, 1.0]), (10, [1.0, 1.0]), (10, [1.0, 4.0])])
def test_the_smallest_difference_is_found_as_often_as_is_said(seeds, spreads):
    error = math.sqrt(sum(s**2 for s in spreads) / seeds)
    top = sum(s**2 / seeds for s in spreads) ** 2
    dof = top / sum((s**2 / seeds) ** 2 / (seeds - 1) for s in spreads)
    least = (quantile(ALPHA, dof) + quantile(2 * (1 - POWER), dof)) * error
    rng = torch.Generator().manual_seed(1)
    found = [compare(draw(rng, seeds, spreads, [0.0, least]))["1"].told for _ in range(SIMULATIONS)]
    assert sum(found) / SIMULATIONS == pytest.approx(POWER, abs=0.04)


def test_results_are_compared_by_their_logarithms_and_diverged_runs_left_out():
    results = {
        "columns": {"frechet": ".2f"},
        "runs": [
            {"variant": variant, "scale": "cpu", "seed": k, "frechet": value * (1 + k / 100)}
            for variant, value in {"plain": 1.0, "twice": 2.0, "odd": math.inf}.items()
            for k in range(3)
        ],
    }
    found = verdicts(results)
    assert list(found) == ["twice"] and found["twice"].told
    assert math.exp(found["twice"].difference) == pytest.approx(2)
    diverged = results | {"runs": results["runs"][::-1]}  # the first of all: nothing stands in
    assert not verdicts(diverged)
    assert verdicts(results, pairs={"a": ("twice", "plain"), "b": ("odd", "plain")}).keys() == {"a"}
    text = table(found)
    assert "| twice | 3 | ×2.00 | +" in text and "| larger |" in text
    assert text.startswith("| of 1 comparisons |")


def test_the_picture_has_seeds_factors_and_a_colour_for_what_is_told(monkeypatch):
    import matplotlib.pyplot as plt

    seen = []
    monkeypatch.setattr(plt, "show", lambda: seen.append(plt.gcf().axes))
    logs = {"plain": [0.0, 0.01, 0.02], "twice": [0.7, 0.71, 0.72], "same": [0.0, 0.02, 0.04]}
    pictures.draw(found := compare(logs), "loss")
    ((left, right),) = seen
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["twice", "same"]
    assert left.get_xlabel() == "loss" and right.get_xlabel() == "better ← factor"
    dots = [line for line in left.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [3] * 4
    assert list(dots[0].get_xdata()) == pytest.approx([math.exp(z) for z in logs["twice"]])
    factors = [line for line in right.lines if line.get_marker() == "o"]
    for line, one in zip(factors, found.values()):
        assert line.get_xdata()[0] == pytest.approx(math.exp(one.difference))
    told, open_ = (line.get_color() for line in factors)
    assert told != open_ and found["twice"].told and not found["same"].told
    strokes = [line for line in right.lines if line not in factors]
    low, high = strokes[3].get_xdata()  # of two rows, each a grey one and the interval
    assert low < 1 < high, "an interval of what is open holds a factor of 1"


def test_differences_seed_by_seed_are_told_where_seeds_differ_more():
    a, b = [1.0, 5.0, 9.0], [1.5, 5.6, 9.4]
    assert not compare({"a": a, "b": b})["b"].told
    one = compare({"a": a, "b": b}, paired=True)["b"]
    assert one.told and one.difference == pytest.approx(0.5) and one.dof == 2
    assert one.p == pytest.approx(tails(0.5 / (0.1 / 3**0.5), 2))


def test_seeds_that_a_pair_lacks_are_left_out():
    def runs(variant, *seeds):
        return [{"variant": variant, "scale": "cpu", "seed": k, "frechet": k + 1.5} for k in seeds]

    kept = [*runs("a", 0, 1, 2), *runs("b", 0, 1, 2, 3), *runs("stale", 7)]
    results = {"columns": {"frechet": ".2f"}, "runs": kept}
    (one,) = verdicts(results, pairs={"b": ("b", "a")}, paired=True).values()
    assert one.seeds == 3
    assert verdicts(results, scale="gpu", paired=True) == {}


def test_one_run_is_no_verdict():
    with pytest.raises(ValueError, match="'b' has 1 seed; a verdict needs two"):
        compare({"a": [1.0, 2.0], "b": [1.0]})


def test_the_stored_ablation_of_blocks_gets_a_verdict_for_each_variant():
    found = verdicts(weights.results("dit-blocks"))
    assert len(found) == 7 and all(one.seeds >= 3 and one.smallest > 0 for one in found.values())
