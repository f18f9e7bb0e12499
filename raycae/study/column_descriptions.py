"""What the columns of a study's tables contain; the documentation shows these texts."""

from __future__ import annotations

TRIALS = {
    "study": "Name of the study.",
    "trial_number": "Number of the trial, from 0.",
    "state": "COMPLETE, PRUNED (stopped early), FAIL or RUNNING.",
    "reason": "Why the trial was stopped, failed or lost its worker.",
    "point": "Name of the space's predefined configuration (point) that the trial runs.",
    "change": "Change of a greedy series that the trial tries.",
    "parent": "Number of the trial that the change was made to.",
    "latent_size": "Number of values of the latent.",
    "latent_channels": "Channels of the latent.",
    "latent_height": "Height of the latent.",
    "latent_width": "Width of the latent.",
    "compression_ratio": "Values of the input image divided by `latent_size`.",
    "n_params": "Number of parameters of the network.",
    "flops": "Floating-point operations of a forward pass over one image.",
    "arch_hash": (
        "Hash of the network; two trials have the same one if and only if they have the same "
        "network."
    ),
    "val_mse": "Validation error of the best epoch.",
    "train_mse": "Training error of the best epoch.",
    "val_psnr_db": "Mean PSNR of the validation images in the best epoch, in dB.",
    "val_ssim": "Mean SSIM of the validation images in the best epoch.",
    "best_epoch": "Epoch with the lowest validation error.",
    "epochs_run": "Number of epochs that are recorded.",
    "on_frontier": "Whether the trial is on the Pareto front of error and cost.",
    "test_mse": "Error on the test images, of saved models only. Nothing is selected on it.",
    "wall_time_s": "Sum of `epoch_time_s` of all epochs.",
    "epoch_time_s": "Mean of `epoch_time_s` of all epochs.",
    "images_per_s": "Training images per second in the last epoch.",
    "n_images": "Number of training images of the study.",
    "seed": "Random seed of the trial's weights and minibatches.",
    "attempt": "Number of the latest attempt, from 1; 0 before the first.",
    "losses": "How often the trial's process died or hung.",
    "micro_batch": "Micro-batch size that was used after the trial ran out of memory.",
    "device": "Device that trained the last epoch.",
    "host": "Host that trained the last epoch.",
    "started_at": "Start of the first attempt, UTC.",
    "ended_at": "End of the trial, UTC.",
    "config": "All settings of the trial, as JSON.",
}
"""The columns of `trials.parquet`. Between `parent` and `latent_size` it also has a column
`params_NAME` for each parameter that the space searches."""
EPOCHS = {
    "trial_number": "Number of the trial.",
    "epoch": "Number of the epoch, from 1.",
    "train_mse": "Mean training error during the epoch.",
    "val_mse": "Validation error after the epoch.",
    "val_psnr_db": "Mean PSNR of the validation images after the epoch, in dB.",
    "epoch_time_s": (
        "Time of the epoch in seconds, training and validation; an equal share of it where several "
        "trials were trained together."
    ),
    "test_mse": "Test error after the epoch; measured by `raycae reproduce` only.",
    "n_images": "Number of images that the epoch trained on.",
}
"""The columns of `epochs.parquet`."""
BASELINES = {
    "data_fingerprint": "Fingerprint of the images.",
    "baseline": (
        "`pca`: PCA of whole images. `pca_4x4`, `pca_8x8`: PCA of blocks. Without a "
        "latent: `mean_colour`, and for colourisation `grey_copy`, `mean_chroma`, `luma_function`."
    ),
    "latent_size": "Number of values that the baseline stores per image; null without a latent.",
    "val_mse": "Error of the baseline on the validation images.",
    "test_mse": "Error of the baseline on the test images.",
}
"""The columns of `baselines.parquet`."""
PICTURES = {
    "trial_number": "Number of the trial.",
    "shows": (
        "`all`: the mean over the measured test images. `pca`: the mean of the best PCA whose "
        "latent is no larger than the trial's. `same`: one image, the same for all trials. `best`, "
        "`worst`: one of the images with the lowest or highest error of the trial."
    ),
    "image": "Number of the image among the test images.",
    "mse": (
        "Mean squared error of the output: RGB if the task is reconstruction, Cb and Cr if it is "
        "colourisation."
    ),
    "psnr_db": "PSNR of the RGB image in dB.",
    "ssim": "SSIM of the RGB image.",
    "delta_e": "Mean colour difference Delta E.",
    "chroma_error": "Mean chroma error in CIE Lab.",
    "hue_error": "Mean hue error in CIE Lab.",
    "colourfulness": "Colourfulness of the output.",
    "original_colourfulness": "Colourfulness of the original.",
}
"""The columns of `pictures.parquet`."""
SPLITS = {
    "split": "`train`, `validation`, `test`, `duplicate` or `unused`.",
    "name": "Name of the image in its source.",
    "checksum": "First 64 bits of BLAKE2b of the image's pixels; none for unused images.",
}
"""The columns of `splits.parquet`."""
