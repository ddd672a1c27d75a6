"""Planted slides: what is made of each pixel, and that they do what lesson 01 shows with them."""

import numpy as np
import pytest
import torch

from labutil.cleaning import on_slides, slides


def some(count: int = 600, channels: int = 3, classes: int = 5) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, channels, 8, 9), np.uint8)), rng.integers(0, classes, count)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_slide_has_one_stain_and_one_light(channels):
    """log(new / 255) = log(light) + density * log(old / 255), one light a slide and one density a channel of it."""
    images, labels = some(channels=channels)
    stained, slide = on_slides(images, labels, 6, seed=4)
    again, same = on_slides(images, labels, 6, seed=4)
    assert stained.equal(again) and (slide == same).all() and set(slide) <= {f"slide{s}" for s in range(1, 7)}
    assert stained.dtype == torch.uint8 and not stained.equal(on_slides(images, labels, 6, seed=5)[0])
    found = []
    for name in np.unique(slide):
        lights = []
        for c in range(channels):
            old, new = (x[torch.from_numpy(slide == name), c].flatten().double() for x in (images, stained))
            inside = (old > 20) & (new > 20) & (new < 255)
            x, y = (old[inside] / 255).log().numpy(), (new[inside] / 255).log().numpy()
            density, light = np.polyfit(x, y, 1)
            assert np.abs(y - light - density * x).max() < 0.03  # half a gray level of 20
            lights.append(light)
            found.append(np.log(density))
        assert np.ptp(lights) < 0.01
    assert 0.4 * slides.STAIN < np.std(found) < 2 * slides.STAIN


def test_slides_have_classes_of_their_own():
    images, labels = some(4000)
    _, slide = on_slides(images[:, :, :1], labels, 40)
    counts = np.array([np.bincount(labels[slide == name], minlength=5) for name in np.unique(slide)])
    assert counts.sum() == 4000 and len(counts) > 35
    assert (counts.max(1) / counts.sum(1)).mean() > 0.5  # a fifth, were they alike
    assert len(set(on_slides(images, np.full(4000, -1), 40)[1])) == 40  # without labels


def test_what_cannot_be_dealt_is_refused():
    images, labels = some(10)
    with pytest.raises(ValueError, match=r"labels \(9,\): expected one for each of 10"):
        on_slides(images, labels[:9])
    with pytest.raises(ValueError, match="count"):
        on_slides(images, labels, 0)
    with pytest.raises(ValueError, match="images"):
        on_slides(images.float(), labels)
