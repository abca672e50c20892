"""The annotated source, as text and as a page."""

import pytest
import torch
from torch import nn

from linkboy import trace_shapes


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(10, 8), nn.Conv1d(8, 16, 9)

    def forward(self, ids):
        h = self.embed(ids).transpose(1, 2)
        h = self.conv(h)
        return h.squeeze()


def steps(x):
    for size in (1, 2, 3, 4, 5):
        x = torch.zeros(2 * size).view(2, size)
    return x


def test_a_module_is_shown_with_shapes_behind_and_hazards_below():
    net = Net()
    with trace_shapes(hazards="collect") as trace:
        net(torch.zeros(1, 9, dtype=torch.long))
    expected = [
        "    def forward(self, ids):",
        "        h = self.embed(ids).transpose(1, 2)                   # [1, 9] -> [1, 9, 8] -> [1, 8, 9]",
        "        h = self.conv(h)                                      # [1, 8, 9] -> [1, 16, 1]",
        "        return h.squeeze()                                    # [1, 16, 1] -> [16]",
        "        ^^^ squeeze() without dim removed dims [0, 2] including dim 0 (batch of one?); name the dim, such as "
        "squeeze(-1)",
    ]
    assert trace.listing(net).splitlines() == expected
    assert trace.listing(Net.forward).splitlines() == expected
    assert set(expected) <= set(trace.listing(Net).splitlines())


def test_without_a_target_every_line_that_made_a_row_is_shown():
    with trace_shapes(hazards="collect") as trace:
        (torch.zeros(5, 1) - torch.zeros(5)).pow(2).mean()
    lines = trace.listing().splitlines()
    assert lines[0] == __file__
    assert lines[1].endswith("# [5, 1] -> [5, 5] -> []")
    assert lines[2].startswith("        ^^^ mutual broadcast: (5, 1) with (5,) -> (5, 5) (5x elements)")
    assert len(lines) == 3


def test_a_line_that_runs_with_many_shapes_shows_the_first():
    with trace_shapes() as trace:
        steps(None)
    assert trace.listing(steps).splitlines()[2].endswith("# [2] -> [2, 1] | [4] -> [2, 2] | [6] -> [2, 3] | ... 2 more")


def test_calls_that_do_not_follow_each_other_are_set_apart():
    a, b = torch.zeros(2, 3), torch.zeros(4)
    with trace_shapes() as trace:
        a.view(6), b.unsqueeze(0)
    assert trace.listing().splitlines()[1].endswith("# [2, 3] -> [6]; [4] -> [1, 4]")


def test_an_empty_trace_lists_nothing():
    with trace_shapes() as trace:
        pass
    assert trace.listing() == ""
    assert trace.listing(steps).splitlines()[0] == "def steps(x):"


def test_the_page_is_the_same_text_with_hazards_in_red(tmp_path):
    import html
    import re

    net, path = Net(), tmp_path / "shapes.html"
    with trace_shapes(hazards="collect") as trace:
        net(torch.zeros(1, 9, dtype=torch.long))
    trace.to_html(path, net)
    page = path.read_text("utf-8")
    body = re.search("<pre>(.*)</pre>", page, re.DOTALL)[1]
    assert html.unescape(re.sub("<[^>]*>", "", body)) == trace.listing(net)
    assert re.findall('<span class="hazard">( *\\^\\^\\^ squeeze)', page) == ["        ^^^ squeeze"]


def test_a_target_without_source_is_refused():
    with trace_shapes() as trace:
        torch.zeros(3).view(1, 3)
    for target in (3, len):
        with pytest.raises(TypeError) as caught:
            trace.listing(target)
        assert str(caught.value) == (
            f"target must be a function, class or nn.Module with source, got {type(target).__name__}; "
            "call listing() without a target to see every line recorded"
        )
