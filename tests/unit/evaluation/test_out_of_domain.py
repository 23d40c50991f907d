"""Distances against naive loops; scores of what was planted far away, and of the training cycles themselves."""

import statistics
from dataclasses import replace

import numpy as np
import pytest

from lungsound.evaluation.out_of_domain import (
    MAX_CYCLES,
    MIN_CYCLES,
    NEIGHBOUR,
    Domain,
    Floats,
    Gate,
    fit_domain,
    fit_gate,
    spectral_features,
)


def drawn(num_cycles: int, seed: int = 0, *, centre: float = 0.0) -> Floats:
    return (centre + np.random.default_rng(seed).normal(0, [1, 5, 0.1], (num_cycles, 3))).astype(np.float32)


def fitted(features: Floats, num_patients: int = 10) -> Domain:
    patients = [f"p{row % num_patients}" for row in range(len(features))]
    domain = fit_domain(features, patients, generator=np.random.default_rng(0))
    assert domain is not None
    return domain


def test_features_are_mean_and_deviation_of_each_band() -> None:
    fbanks = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    features = spectral_features(fbanks)
    for cycle in range(2):
        for band in range(3):
            values = fbanks[cycle, :, band].tolist()
            expected = [statistics.mean(values), statistics.pstdev(values)]
            assert features[cycle, band::3].tolist() == pytest.approx(expected, abs=1e-6)
    of_some = spectral_features(fbanks, [4, None])
    assert of_some[0].tolist() == pytest.approx([*fbanks[0, :4].mean(axis=0), *fbanks[0, :4].std(axis=0)])
    assert np.array_equal(of_some[1], features[1])


def naive_distances(given: Floats, cycles: Floats) -> list[list[float]]:
    return [
        [sum((float(a) - float(b)) ** 2 for a, b in zip(one, two, strict=True)) ** 0.5 for two in cycles]
        for one in given
    ]


def test_scores_equal_a_naive_count() -> None:
    train, given = drawn(40), drawn(15, seed=1) * 2
    domain = fitted(train, num_patients=4)
    scaled = (train - train.mean(axis=0)) / train.std(axis=0)
    own = naive_distances(scaled, scaled)
    reference = [sorted(own[i][j] for j in range(40) if j % 4 != i % 4)[NEIGHBOUR - 1] for i in range(40)]
    distances = [
        sorted(row)[NEIGHBOUR - 1] for row in naive_distances((given - train.mean(axis=0)) / train.std(axis=0), scaled)
    ]
    assert domain.distances == pytest.approx(sorted(reference), abs=0.01)  # of cycles kept in 16 bit
    expected = [sum(each <= distance for each in reference) / 40 for distance in distances]
    assert domain.scores(given) == pytest.approx(expected, abs=1 / 40)


def test_distances_are_those_of_patients_held_out_where_there_are_enough() -> None:
    train, others = drawn(40), drawn(MIN_CYCLES, seed=2)
    patients = [f"p{row % 4}" for row in range(40)]
    domain = fit_domain(train, patients, others, generator=np.random.default_rng(0))
    assert domain is not None
    mean, std = train.mean(axis=0), train.std(axis=0)
    between = naive_distances((others - mean) / std, (train - mean) / std)
    assert domain.distances == pytest.approx(sorted(sorted(row)[NEIGHBOUR - 1] for row in between), abs=0.01)
    assert sorted(domain.scores(others)) == pytest.approx(np.arange(1, MIN_CYCLES + 1) / MIN_CYCLES)
    few = fit_domain(train, patients, others[1:], generator=np.random.default_rng(0))
    assert few is not None
    assert few.distances.tolist() == fitted(train, num_patients=4).distances.tolist()


def test_new_cycles_of_the_same_kind_score_evenly_and_far_ones_highest() -> None:
    domain = fitted(drawn(900), num_patients=300)
    scores = domain.scores(drawn(900, seed=1))
    for share in (0.25, 0.5, 0.75, 0.95):
        assert (scores <= share).mean() == pytest.approx(share, abs=0.06)
    assert (domain.scores(drawn(20, centre=30)) == 1).all()
    assert domain.scores(np.full((1, 3), -1e9, np.float32)).tolist() == [1.0]


def test_a_patients_own_cycles_are_no_neighbours() -> None:
    """Each patient's cycles are alike: counted among themselves they would make every new patient seem strange."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(30, 3))
    patients = [f"p{row // 10}" for row in range(300)]
    train = (np.repeat(centres, 10, axis=0) + 0.01 * generator.normal(size=(300, 3))).astype(np.float32)
    domain = fit_domain(train, patients, generator=generator)
    assert domain is not None
    new = (generator.normal(size=(200, 3))).astype(np.float32)
    assert 0.2 < np.median(domain.scores(new)) < 0.8


def test_at_most_so_many_cycles_are_kept_and_too_few_are_none() -> None:
    features = drawn(MAX_CYCLES + 50)
    assert fitted(features).cycles.shape == (MAX_CYCLES, 3)
    generator = np.random.default_rng(0)
    few = drawn(MIN_CYCLES - 1)
    assert fit_domain(few, [f"p{row}" for row in range(len(few))], generator=generator) is None
    assert fit_domain(drawn(100), ["p0"] * 100, generator=generator) is None
    assert fit_domain(drawn(100), ["p0"] * 96 + ["p1"] * 4, generator=generator) is None
    assert fit_domain(drawn(100), ["p0"] * 95 + ["p1"] * 5, generator=generator) is not None


def test_a_feature_that_never_changes_divides_by_nothing() -> None:
    features = drawn(50)
    features[:, 1] = 3
    assert np.isfinite(fitted(features).scores(drawn(5))).all()


def test_the_id_is_that_of_the_values_and_damage_is_refused() -> None:
    domain = fitted(drawn(50))
    assert domain.id == fitted(drawn(50)).id
    assert domain.id != fitted(drawn(50, seed=1)).id
    for damage in ({"mean": domain.mean[:2]}, {"std": 0 * domain.std}, {"distances": domain.distances[::-1]}):
        with pytest.raises(ValueError, match=r"are of 2|not above 0|not in order"):
            replace(domain, **damage)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="too few"):
        replace(domain, distances=domain.distances[:0])


# ---- a gate ----


def test_a_gate_is_a_logistic_regression_with_both_kinds_of_one_weight() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    lungs, others = drawn(90), drawn(30, seed=1, centre=0.8)
    gate = fit_gate(lungs, others, [lungs], inverse_penalty=0.2)
    spreads = (np.concatenate([lungs, others]) - lungs.mean(axis=0)) / lungs.std(axis=0)
    given = np.concatenate([spreads, spreads**2 / 3], axis=1)
    oracle = linear_model.LogisticRegression(C=0.2, class_weight="balanced", tol=1e-8, max_iter=10_000)
    oracle.fit(given, np.repeat([0, 1], [90, 30]))
    assert gate.weights == pytest.approx(oracle.coef_[0], abs=1e-4)
    for one, features in zip(gate.scores(others).tolist(), others, strict=True):
        terms = zip(features, gate.mean, gate.std, gate.weights[:3], gate.weights[3:], strict=True)
        assert one == pytest.approx(
            sum((a - b) / c * d + ((a - b) / c) ** 2 / 3 * e for a, b, c, d, e in terms), abs=1e-4
        )


def test_a_gate_stops_one_of_twenty_held_out_cycles_of_the_farthest_group_and_what_is_other() -> None:
    lungs, held_out, others = drawn(400), drawn(500, seed=2), drawn(200, seed=1, centre=4.0)
    gate = fit_gate(lungs, others, [held_out])
    assert gate.stops(held_out).sum() == 25
    farther = drawn(100, seed=4, centre=0.5)
    of_both = fit_gate(lungs, others, [held_out, farther])
    assert of_both.stops(farther).sum() == 5
    assert of_both.stops(held_out).sum() < 25
    assert gate.id == replace(gate).id != replace(gate, threshold=gate.threshold + 1).id
    assert gate.stops(drawn(200, seed=3, centre=4.0)).mean() > 0.9
    assert gate.stops(np.empty((0, 3), np.float32)).shape == (0,)


def test_a_gate_stops_what_lies_on_either_side_of_lungs_and_far_away() -> None:
    lungs = drawn(400)
    around = np.concatenate([drawn(100, seed=1, centre=4.0), drawn(100, seed=2, centre=-4.0)])
    gate = fit_gate(lungs, around, [drawn(400, seed=3)])
    for centre in (4.0, -4.0, 1e6, -1e6):
        assert gate.stops(drawn(100, seed=4, centre=centre)).mean() > 0.9


def test_a_gate_that_does_not_fit_together_is_refused() -> None:
    gate = fit_gate(drawn(40), drawn(20, centre=3.0), [drawn(40)])
    for change in ({"weights": gate.weights[:2]}, {"std": gate.std * 0}, {"threshold": gate.mean[:0]}):
        with pytest.raises(ValueError, match="mean, std, weights and threshold are of"):
            Gate(**{"mean": gate.mean, "std": gate.std, "weights": gate.weights, "threshold": gate.threshold} | change)
