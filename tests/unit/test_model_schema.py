"""Models with a schema: the file, and predictions from the cells of a table."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedmq.errors import BadConfiguration, BadData
from fedmq.models.networks import MLP, Code, Linear
from fedmq.models.trained_model import TrainedModel, load_model
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import Column, Schema, Target

SCHEMA = Schema(
    columns=(
        Column(name="age"),
        Column(name="color", kind="category", categories=("red", "green", "blue")),
        Column(name="smoker", kind="boolean"),
    ),
    target=Target(name="diagnosis", kind="class", classes=("benign", "malignant")),
)
PREPARATION = Preparation(
    SCHEMA, np.array([50.0, 0.0, 0.25]), np.array([10.0, 1.0, 0.5]), np.array([48.0, 0.0, 0.0])
)  # features: age, color=green, color=blue, color=(missing), smoker
MODEL = TrainedModel(MLP((5, 2), output="softmax"), np.linspace(-1.0, 1.0, 12), "tumor", preparation=PREPARATION)
FILE = MODEL.to_bytes()


def saved(tmp_path: Path, data: bytes) -> Path:
    (path := tmp_path / "model.npz").write_bytes(data)
    return path


def changed(**entries: bytes | None) -> bytes:
    """Return the file of MODEL with other contents of these entries; None leaves one out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(FILE)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = entries.get(name.removesuffix(".npy"), old.read(name))
            if content is not None:
                new.writestr(name, content)
    return buffer.getvalue()


def npy(array: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


def test_model_with_a_schema_is_read_as_it_was_saved(tmp_path: Path) -> None:
    read = load_model(saved(tmp_path, FILE))
    assert read.schema == SCHEMA
    assert read.preparation is not None
    for name in ("shift", "scale", "fill"):
        np.testing.assert_array_equal(getattr(read.preparation, name), getattr(PREPARATION, name))
    assert read.to_bytes() == FILE


def test_model_without_a_schema_keeps_its_digest() -> None:
    model = TrainedModel(Linear(2), np.array([1.5, 0.5, -0.25]), "linear")
    assert hashlib.sha256(model.to_bytes()).hexdigest() == (
        "3e1bc96c377c87fc566bbc0f75bc1b69c4452fa2f55c87a7f6a6ff13a6b5569a"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (changed(column_scale=None), "column_scale"),
        (changed(column_scale=npy([1.0, 1.0])), "expected 3 finite numbers"),
        (changed(column_scale=npy([1.0, 0.0, 1.0])), "above 0"),
        (changed(column_fill=npy([np.nan, 0.0, 0.0])), "expected 3 finite numbers"),
        (changed(column_shift=npy(np.zeros(5000))), "40000 bytes"),
        (changed(column_shift=npy(["a", "b", "c"])), "column_shift of dtype"),
        (changed(column_shift=npy(np.array([{}, 1, 2], dtype=object))), "Object arrays"),
        (changed(column_shift=npy(np.zeros(3, dtype=np.complex128))), "complex128"),
        (changed(genes=npy(np.zeros(11))), "expected 12 parameters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_preparation_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(BadConfiguration, match=reason):
        load_model(saved(tmp_path, data))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (MLP((3, 2)), "5 inputs"),
        (MLP((5, 3)), "2 classes"),
        (MLP((5, 1)), "2 classes"),
        (Linear(5), "softmax model for classes"),
        (Code(12, 5), "no schema"),
    ],
    ids=str,
)
def test_model_that_does_not_fit_the_schema_is_refused(model: MLP | Linear | Code, reason: str) -> None:
    with pytest.raises(BadConfiguration, match=reason):
        TrainedModel(model, np.zeros(model.num_parameters), "tumor", preparation=PREPARATION)


@pytest.mark.parametrize("rows", [[[1.0, 2.0, 3.0, 4.0, 5.0]], np.zeros((2, 5))], ids=["list", "array"])
def test_array_is_refused_by_a_model_with_a_schema(rows: object) -> None:
    with pytest.raises(BadData, match="expected columns by name"):
        MODEL.predict(rows)


def test_description_with_other_characters_is_read_or_refused(tmp_path: Path) -> None:
    """The checksums of the archive are right, so only the checks of the content are left."""
    generator, refused = np.random.default_rng(1), 0
    with zipfile.ZipFile(io.BytesIO(FILE)) as archive:
        text = str(np.load(io.BytesIO(archive.read("description.npy")))[()])
    for _ in range(300):
        place, character = generator.integers(len(text)), chr(generator.integers(32, 127))
        other = f"{text[:place]}{character}{text[place + 1 :]}"
        try:
            load_model(saved(tmp_path, changed(description=npy(other))))
        except BadConfiguration:
            refused += 1
    assert 100 < refused < 300
