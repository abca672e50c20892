"""Plots need a package that is optional, and say so."""

import sys

import pytest

from linkboy._plots import new_figure


def test_without_matplotlib_a_plot_says_how_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        new_figure(4, 3)
    assert str(caught.value) == (
        "a plot needs the package matplotlib, which is not installed; run: pip install 'linkboy[plots]'"
    )


def test_a_figure_has_the_size_asked_for():
    figure = new_figure(4, 3)
    assert figure.get_size_inches().tolist() == [4, 3]
