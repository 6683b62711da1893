from __future__ import annotations

import pytest
from pydantic import ValidationError

from seqdomains.backbone import MambaConfig


@pytest.mark.parametrize(("width", "rank"), [(16, 1), (17, 2), (64, 4), (96, 6)])
def test_auto_rank_is_a_sixteenth_rounded_up(width, rank):
    assert MambaConfig(d_model=width, n_layer=1).rank == rank


def test_explicit_rank_is_kept():
    assert MambaConfig(d_model=64, n_layer=1, dt_rank=7).rank == 7


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("d_model", 0),
        ("n_layer", 0),
        ("vocab_size", -1),
        ("d_conv", 1),
        ("d_conv", 5),
        ("dt_rank", 0),
        ("dt_rank", "full"),
        ("dt_min", 0.0),
        ("dt_min", 0.5),  # above dt_max
        ("norm_eps", float("nan")),
        ("width", 3),
    ],
)
def test_values_out_of_range_and_unknown_keys_are_refused(key, value):
    with pytest.raises(ValidationError, match=key):
        MambaConfig(**{"d_model": 32, "n_layer": 2, key: value})


def test_config_is_frozen():
    config = MambaConfig(d_model=32, n_layer=2)
    with pytest.raises(ValidationError, match="frozen"):
        config.d_model = 64
