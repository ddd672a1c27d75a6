"""A name or a path -> training, validation and test images."""

from labutil import on_demand

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "load_dataset": "loading",  # (spec, image_size=..., subset=..., data_seed=..., groups=...) -> Dataset
        "load_with_others": "loading",  # (spec, "held_out:0.5", ...) -> a Dataset, and one of classes that it lacks
        "load_source": "loading",  # (sources.parse(spec), image_size, lenient=...) -> its images undivided, with names
        "Dataset": "loading",  # train, val, test, unlabelled; mean, std, classes, fingerprint
        "ImageSet": "loading",  # images uint8 (N, C, H, W), labels int64 (N,), classes
        "DataError": "loading",  # one line: which file, what is wrong, what to do
    },
)
