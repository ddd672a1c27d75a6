"""What is wrong with a set of images: each fault with a score, a report of what was found, and planted faults."""

from labutil import on_demand

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "near_duplicates": "duplicates",  # the same picture twice, most alike first
        "perceptual_hash": "hashing",  # 64 bits that survive small changes
        "outliers": "detectors",  # images that do not belong, worst first
        "image_quality": "detectors",  # dark, bright, blank, blurred
        "copies": "detectors",  # which of the near-duplicates to remove
        "conflicting_labels": "detectors",  # copies whose labels differ
        "label_issues": "detectors",  # doubted labels, worst first
        "label_features": "detectors",
        "out_of_fold_probabilities": "detectors",
        "THRESHOLDS": "detectors",
        "plant": "faults",  # (data, rates, seed) -> the data with planted faults, and the truth about them
        "on_slides": "slides",  # (images, labels) -> the same from slides with stains and classes of their own
        "CleaningReport": "report",  # what was found, row by row; applies it to a data set
        "judged_images": "report",  # of a data set: training and unlabelled images, which a report is about
    },
)
