import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize, special
from sklearn.metrics import log_loss

from lungsound.evaluation.calibration import (
    ORDER_KEEPING,
    TEMPERATURE_RANGE,
    Scaling,
    choose_scaling,
    fit_temperature,
    fit_vector,
    negative_log_likelihood,
    softmax,
)

Floats = npt.NDArray[np.float64]


def drawn(
    seed: int, num_cycles: int, *, scale: float | Floats = 1.0, bias: float | Floats = 0.0, num_classes: int = 4
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Probabilities, and labels drawn from softmax(scale * log p + bias)."""
    generator = np.random.default_rng(seed)
    probabilities = softmax(generator.normal(0.0, 1.5, (num_cycles, num_classes)))
    honest = softmax(scale * np.log(probabilities) + bias)
    labels = np.array([generator.choice(num_classes, p=row) for row in honest], dtype=np.int64)
    return probabilities, labels


def test_losses_against_scikit_learn() -> None:
    probabilities, labels = drawn(0, 50)
    expected = log_loss(labels, probabilities, labels=range(4))
    assert negative_log_likelihood(probabilities, labels).mean() == pytest.approx(expected, rel=1e-12)
    certain = negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1]))
    assert certain.tolist() == pytest.approx([-np.log(np.finfo(float).eps)])


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_temperature_against_scipy(scale: float) -> None:
    probabilities, labels = drawn(1, 300, scale=scale)

    def loss(beta: float) -> float:
        logits = beta * np.log(probabilities)
        return float((special.logsumexp(logits, axis=1) - logits[np.arange(300), labels]).mean())

    expected = optimize.minimize_scalar(loss, bounds=(0.05, 20.0), method="bounded", options={"xatol": 1e-10}).x
    ours = fit_temperature(probabilities, labels)
    assert ours.temperature == pytest.approx(1.0 / expected, rel=1e-6)
    assert ours.biases == (0.0,) * 4
    np.testing.assert_array_equal(ours.apply(probabilities).argmax(axis=1), probabilities.argmax(axis=1))


def test_temperature_of_a_closed_form() -> None:
    # All say 0.8; 6 of 10 are right: sigmoid(log(4) / T) = 0.6.
    probabilities = np.tile([0.8, 0.2], (10, 1))
    ours = fit_temperature(probabilities, np.array([0] * 6 + [1] * 4))
    assert ours.temperature == pytest.approx(np.log(4.0) / np.log(1.5), rel=1e-9)
    np.testing.assert_allclose(ours.apply([0.8, 0.2]), [0.6, 0.4], rtol=1e-9)


def test_temperature_stays_in_its_range() -> None:
    probabilities = np.tile([0.8, 0.2], (10, 1))
    assert fit_temperature(probabilities, np.zeros(10, dtype=np.int64)).temperature == pytest.approx(
        TEMPERATURE_RANGE[0], rel=1e-6
    )
    assert fit_temperature(probabilities, np.ones(10, dtype=np.int64)).temperature == pytest.approx(
        TEMPERATURE_RANGE[1], rel=1e-6
    )


@pytest.mark.parametrize(("pull", "num_classes"), [(1.0, 2), (0.05, 4), (1e-4, 7)])
def test_vector_against_scipy(pull: float, num_classes: int) -> None:
    scale, bias = np.linspace(0.4, 1.6, num_classes), np.linspace(-1.0, 1.0, num_classes)
    probabilities, labels = drawn(2, 250, scale=scale, bias=bias, num_classes=num_classes)

    def loss(point: Floats) -> float:
        logits = point[:num_classes] * np.log(probabilities) + point[num_classes:]
        nll = special.logsumexp(logits, axis=1) - logits[np.arange(250), labels]
        distance = ((point[:num_classes] - 1.0) ** 2).sum() + (point[num_classes:] ** 2).sum()
        return float(nll.mean() + pull / 2.0 * distance)

    start = np.concatenate([np.ones(num_classes), np.zeros(num_classes)])
    expected = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-7}).x
    ours = fit_vector(probabilities, labels, pull=pull)
    point = np.array([*ours.scales, *ours.biases])
    assert loss(point) <= loss(expected) + 1e-12
    np.testing.assert_allclose(point, expected, atol=2e-3 if pull < 1e-3 else 1e-4)


def test_vector_with_certain_answers_that_are_wrong() -> None:
    ours = fit_vector(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), np.array([1, 1, 0]), pull=0.1)
    assert np.isfinite(ours.apply([[1.0, 0.0]])).all()
    with pytest.raises(ValueError, match="pull"):
        fit_vector(np.array([[1.0, 0.0]]), np.array([1]), pull=0.0)


def patients_of(num_cycles: int, num_patients: int) -> list[str]:
    return [f"p{cycle % num_patients:03}" for cycle in range(num_cycles)]


def test_the_choice_finds_what_the_labels_need() -> None:
    kinds = {
        "none": drawn(3, 1200),
        "temperature": drawn(3, 1200, scale=0.5),
        "vector": drawn(3, 1200, bias=np.array([1.0, 0.0, -1.0, 0.0])),
    }
    for method, (probabilities, labels) in kinds.items():
        choice = choose_scaling(probabilities, labels, patients_of(1200, 30))
        assert choice.scaling.method == method
        assert set(choice.losses) == {"none", "temperature", "vector"}
    assert choice.scaling.temperature is None


def test_held_out_probabilities_know_nothing_of_their_patient() -> None:
    probabilities, labels = drawn(4, 300, scale=0.4)
    patients = patients_of(300, 10)
    before = choose_scaling(probabilities, labels, patients)
    assert before.scaling.method == "temperature"
    mine = np.array(patients) == "p003"
    # Patients have equally many cycles, so p003 and p008 share a fold: other labels of p003 move all but the two.
    changed = np.where(mine, (labels + 1) % 4, labels)
    after = choose_scaling(probabilities, changed, patients)
    fold = mine | (np.array(patients) == "p008")
    np.testing.assert_array_equal(before.held_out[fold], after.held_out[fold])
    assert (before.held_out[~fold] != after.held_out[~fold]).any(axis=1).all()


def test_few_patients_or_few_of_a_class() -> None:
    probabilities, labels = drawn(5, 200, scale=0.3)
    few = choose_scaling(probabilities, labels, patients_of(200, 5))
    assert few.scaling == Scaling.none(4)
    assert "5 validation patients are fewer than the 6" in few.reason
    one = choose_scaling(probabilities, labels, ["p"] * 200)
    assert one.reason == "1 validation patient is fewer than the 6 that scaling needs"
    np.testing.assert_array_equal(few.held_out, probabilities)
    rare = choose_scaling(probabilities, np.where(labels == 3, 0, labels), patients_of(200, 20))
    assert "vector" not in rare.losses
    assert "vector scaling was not tried" in rare.reason


def test_a_scaling_refuses_other_classes() -> None:
    with pytest.raises(ValueError, match="4 classes"):
        Scaling.none(4).apply([0.5, 0.5])


def test_only_allowed_methods_are_chosen_and_the_answers_stay() -> None:
    probabilities, labels = drawn(3, 1200, bias=np.array([1.0, 0.0, -1.0, 0.0]))
    choice = choose_scaling(probabilities, labels, patients_of(1200, 30), allowed=ORDER_KEEPING)
    assert set(choice.losses) == set(ORDER_KEEPING)
    assert "vector" not in choice.reason
    assert choice.scaling.apply(probabilities).argmax(1).tolist() == probabilities.argmax(1).tolist()
