"""Random Fourier features: the same integers in training and prediction, on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from exact_vectors import fingerprint
from splits import classification, inputs_of

from fedmq.errors import BadConfiguration
from fedmq.exact.draws import normals
from fedmq.exact.fourier import COSINE_BITS
from fedmq.models.exact_outputs import exact_outputs
from fedmq.models.fourier import Fourier, _directions
from fedmq.models.networks import Model
from fedmq.models.trained_model import TrainedModel, load_model

ROWS = inputs_of(200, 6, "fourier")
MEANS, DEVIATIONS = ROWS.mean(axis=0), ROWS.std(axis=0)


def parameters_of(model: Fourier) -> np.ndarray:
    return np.concatenate([MEANS, DEVIATIONS, normals((model.features + 1) * model.outputs, 1, "weights")])


def test_features_are_cosines_of_gaussian_projections() -> None:
    model = Fourier(6, features=300, gamma=0.5)
    directions, phases = _directions(model)
    found = model.integer_features(ROWS, MEANS, DEVIATIONS) * 2.0**-COSINE_BITS
    turns = ((ROWS - MEANS) / DEVIATIONS) @ directions * 2.0**-28 + phases * 2.0**-16
    assert np.abs(found - np.cos(2.0 * np.pi * turns)).max() < 2e-3
    assert directions.std() * 2.0**-28 * 2.0 * np.pi == pytest.approx(np.sqrt(2.0 * 0.5 / 6), rel=0.05)
    kernel = 2.0 * (found @ found.T)[0, :20] / 300
    away = (((ROWS - MEANS) / DEVIATIONS)[:20] - ((ROWS - MEANS) / DEVIATIONS)[0]) ** 2
    assert kernel == pytest.approx(np.exp(-0.5 * away.sum(axis=1) / 6), abs=0.25)


def test_features_are_the_same_bits_on_every_machine() -> None:
    model = Fourier(6, features=64, seed=3)
    assert fingerprint(*_directions(model)) == "3a8eab3ec0c69cb7"
    features = model.integer_features(np.rint(ROWS), np.zeros(6), np.full(6, 7.0))
    assert fingerprint(features) == "0867296af939ce09"
    assert (model.integer_features(np.rint(ROWS)[5:6], np.zeros(6), np.full(6, 7.0)) == features[5:6]).all()


def test_fewer_features_are_the_first_of_more() -> None:
    few, many = (Fourier(6, features=size).integer_features(ROWS, MEANS, DEVIATIONS) for size in (10, 40))
    assert (few == many[:, :10]).all()


def test_forward_and_exact_outputs_agree() -> None:
    model = Fourier(6, 3, features=50, output="softmax")
    parameters = parameters_of(model)
    outputs = model.forward(np.stack([parameters, parameters * 2.0]), ROWS)
    assert outputs.shape == (2, 200, 3)
    assert np.abs(exact_outputs(model, parameters, ROWS).T - outputs[0]).max() < 1e-12
    assert np.isfinite(model.forward(np.zeros((1, model.num_parameters)), ROWS)).all()
    assert model.forward(parameters[None].astype(np.float32), ROWS).dtype == np.float32
    with pytest.raises(ValueError, match="expected a population"):
        model.forward(np.zeros((1, 3)), ROWS)


def test_model_is_saved_and_loaded(tmp_path: Path) -> None:
    task = classification(6, 3, Fourier(6, 3, features=20, output="softmax", gamma=2.0, seed=9))
    assert isinstance(task.model, Fourier)
    trained = TrainedModel(task.model, parameters_of(task.model), task.name)
    (tmp_path / "model.npz").write_bytes(trained.to_bytes())
    loaded = load_model(tmp_path / "model.npz")
    assert loaded.model == task.model
    assert (loaded.predict(ROWS) == trained.predict(ROWS)).all()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(task.model), type=Model) == task.model


@pytest.mark.parametrize(
    "fields",
    [{"features": 0}, {"features": 9000}, {"gamma": 0.0}, {"gamma": 1e5}, {"output": "relu"}, {"seed": -1}],
)
def test_wrong_field_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadConfiguration, match=next(iter(fields))):
        Fourier(**{"inputs": 60_000, **fields})
