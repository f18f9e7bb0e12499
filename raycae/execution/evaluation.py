"""Test errors of saved models, and validation errors of PCA baselines.

Nothing is selected on test images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from raycae import data
from raycae.errors import InputError
from raycae.model import weights
from raycae.model.tasks import make_task
from raycae.report.baseline_cache import load_baselines
from raycae.report.picture_sheets import least_classes
from raycae.study import plan
from raycae.study.artifacts import get_model_folder
from raycae.study.finish import StepCounter, count_nothing
from raycae.study.images import load_test_images
from raycae.study.records import parse_recorded_config
from raycae.study.study import Study
from raycae.training.device import choose_device, put_on_device, run_in_parallel
from raycae.training.validation import compute_errors, get_parallel_batch


def evaluate_kept_models(
    study: Study,
    images: data.Images | None = None,
    over: Callable[[], bool] = lambda: False,
    count: StepCounter = count_nothing,
) -> int:
    """Evaluate every saved model that has no test error yet on the test images, once.

    Args:
        study: The study, open for writing.
        images: Its images, if they are loaded already; else the test images are loaded and one line
            with what the source holds is printed.
        over: Whether to stop before the next model.
        count: Shows how many models are done.

    Returns:
        The number of models that were evaluated.

    Raises:
        InputError: The test images cannot be read, or are not those the study began with.
    """
    todo = [n for n in study.kept() if study.records.trials[n]["test_mse"] is None]
    if not todo or over():
        return 0
    device = choose_device()
    configs = (study.records.trials[number]["config"] for number in todo)
    classes = least_classes(map(parse_recorded_config, configs))
    if images is None or (classes and images.labels.test is None):
        loaded = load_test_images(study.folder, plan.read_study(study.folder), classes)
        print(loaded.line)
        study.notes += loaded.notes
        test = put_on_device(loaded.pixels, device, loaded.labels)
    else:
        test = put_on_device(images.test, device, images.labels.test)

    def evaluate(number: int) -> float:
        network, config = weights.load_model(get_model_folder(study.folder, number))
        the_task = make_task(config.task, config.gammas, config.classes)
        batch_size = get_parallel_batch(device)
        return compute_errors(network.to(device), the_task, test, batch_size=batch_size)[0]

    done = 0
    with run_in_parallel(device, len(todo)) as pool:
        tasks = [pool.submit(evaluate, number) for number in todo]
        for place, (number, task) in enumerate(zip(todo, tasks, strict=True)):
            if over() and task.cancel():
                continue  # Those that have begun are finished.
            count("Evaluating saved models", place, len(todo))
            try:
                test_mse = task.result()
            except InputError as error:
                study.notes.append(f"{error}; not evaluated")
                continue
            study.record_test_error(number, test_mse)
            done += 1
    return done


def compute_linear_code_errors(
    task: str, images: data.Images, sizes: Sequence[int], count: StepCounter = count_nothing
) -> list[float]:
    """Compute the error that each latent size has to beat.

    Args:
        task: The name of the task.
        images: The images of the study.
        sizes: Latent sizes, in numbers.
        count: Shows how many baselines are computed.

    Returns:
        For each size the least validation MSE of a baseline that needs at most that many numbers. A
        baseline without a code, such as the mean colour, needs none.
    """
    step = "Computing baselines for each latent size"
    count(step, 0, 1)
    frame = load_baselines(task, images, partial(count, step))
    needed = frame["latent_size"].fillna(0)
    return [float(frame.loc[needed <= size, "val_mse"].min()) for size in sizes]
