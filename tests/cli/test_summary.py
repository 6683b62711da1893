from __future__ import annotations

import numpy as np

from seqdomains.cli.summary import as_text
from seqdomains.pipelines.evaluate import summarise


def test_groups_and_controls_have_a_row_each():
    counts = np.array([[8, 2], [1, 9]])
    result = summarise(counts, ("a", "b"), ceiling=None, baseline=None, cross_entropy=0.4, simulated=False, notes=())
    part = {"windows": 12, "accuracy": 0.75, "interval": [0.5, 0.9]}
    blind = {"name": "gaps only", "accuracy": 0.55, "interval": [0.4, 0.7]}
    result |= {"groups": {"autosomes": part}, "controls": [blind, blind | {"accuracy": 0.8, "interval": [0.6, 0.9]}]}
    lines = as_text(result).splitlines()
    assert "autosomes         0.750   0.500 to 0.900, 12 windows" in lines
    assert "gaps only         0.550   control, 0.400 to 0.700: as by chance" in lines
    assert (
        "gaps only         0.800   control, 0.600 to 0.900: ABOVE CHANCE: the classes differ in more than sequence"
        in lines
    )
