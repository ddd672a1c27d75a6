"""What rival libraries find, as lessons ask them."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from labutil.course import rivals

installed = importlib.util.find_spec("cleanvision") is not None


@pytest.mark.skipif(not installed, reason="cleanvision is not installed")
@pytest.mark.parametrize("channels", [1, 3])
def test_cleanvision_finds_equal_pictures(channels, capsys):
    images = torch.randint(0, 256, (6, channels, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[4] = images[1]
    assert rivals.cleanvision_pairs(images) == {(1, 4)}
    assert capsys.readouterr().out == ""


def test_a_rival_that_is_not_installed_finds_nothing(monkeypatch):
    monkeypatch.setattr(rivals, "find_spec", lambda name: None)
    assert rivals.cleanvision_pairs(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)) is None
