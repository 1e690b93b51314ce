"""The model of a run, by its folder, by its name below `runs`, or as a file."""

from pathlib import Path

from fedmq.errors import BadConfiguration
from fedmq.models.trained_model import TrainedModel, load_model
from fedmq.runtime.run_folder import MODEL, folder_of


def model_of(run: str) -> TrainedModel:
    """Return the model of a run, given as its folder, as a name below `runs`, or as a model file.

    Raises:
        BadConfiguration: there is none, or the file is not a model of fedmq.
    """
    path = Path(run) if Path(run).is_file() else folder_of(run) / MODEL
    if not path.exists():
        raise BadConfiguration(f"{run}: expected a run with a model, or a model file, there is none; fedmq runs ls")
    return load_model(path)
