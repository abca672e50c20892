"""The proof: every planted fault is refused at its edge, and no sound edit is."""

import logging

import pytest
import torch
from tests.editing import models
from torch import nn

from linkboy._calls import arguments_of
from linkboy.editing import insert_layer, keep_layers, remove_layer, replace_layer, surgery
from linkboy.editing._recorder import record


class Cut(nn.Module):
    """A Linear that would fail in no fake run, as fake tensors let mixed dtypes pass."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8, dtype=dtype))

    def forward(self, x):
        return x @ self.weight


PLANTED = {
    "shape": (
        lambda m: ("2", nn.Linear(9, 8), {}),
        "2 (Linear, weight f32[8, 9]) got f32[3, 8] from 1: RuntimeError: ",
    ),
    "shape further on": (
        lambda m: ("2", nn.Linear(8, 7), {}),
        "5 (Linear, weight f32[4, 8]) got f32[3, 7] from 4: RuntimeError: ",
    ),
    "dtype": (
        lambda m: ("2", nn.Linear(8, 8).half(), {"like": False}),
        "2 (Linear, weight f16[8, 8]) got f32[3, 8] from 1: it mixes f16[8, 8] and f32[3, 8] in one product",
    ),
    "dtype in a matrix product": (
        lambda m: ("2", Cut(torch.float16), {"like": False}),
        "2 (Cut, weight f16[8, 8]) got f32[3, 8] from 1: it mixes f16[8, 8] and f32[3, 8] in one product",
    ),
    "device": (
        lambda m: ("2", nn.Linear(8, 8, device="meta"), {"like": False}),
        "2 (Linear, weight f32[8, 8]) got f32[3, 8] from 1: ",
    ),
    "signature": (
        lambda m: ("2", nn.Bilinear(8, 8, 8), {}),
        "2 (Bilinear, weight f32[8, 8, 8]) got f32[3, 8] from 1: TypeError: Bilinear.forward() missing 1 required",
    ),
}


@pytest.mark.parametrize("run", ["auto", "shapes", "values"])
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_refused_with_its_edge(fault, run):
    model, example = models.mlp()
    make, edge = PLANTED[fault]
    name, module, options = make(model)
    old = model[2]
    with pytest.raises(RuntimeError) as caught:
        replace_layer(model, name, module, example=example, run=run, **options)
    assert str(caught.value).startswith(f"the edited model does not run: {edge}")
    assert model[2] is old


@pytest.mark.parametrize("run", ["auto", "shapes", "values"])
def test_ids_beyond_the_rows_are_refused(run):
    model, example = models.tagger()
    with pytest.raises(RuntimeError) as caught, surgery(model, example=example, run=run) as s:
        s.resize_embeddings(20)
    assert str(caught.value) == (
        "the edited model does not run: embed (Embedding, weight f32[20, 8]) got i64[2, 10] from the example: "
        "ids from 3 to 22 do not fit its 20 rows"
    )
    assert model.embed.num_embeddings == 64


def test_plain_fake_tensors_see_neither_mixed_dtypes_nor_ids():
    """Why this room checks more than shapes."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert nn.Linear(8, 8, dtype=torch.float16)(torch.ones(3, 8)).dtype == torch.float32
        assert nn.Embedding(4, 2)(torch.tensor([7])).shape == (1, 2)


def test_a_missing_flatten_is_seen():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(RuntimeError) as caught:
        remove_layer(model, "2", example=torch.ones(2, 3, 8, 8))
    assert str(caught.value).startswith(
        "the edited model does not run: 2 (Linear, weight f32[2, 8]) got f32[2, 8, 1, 1] from 1: RuntimeError: "
    )
    assert len(model) == 4


def test_what_functions_did_between_modules_is_named():
    model, example = models.residual()
    with pytest.raises(RuntimeError) as caught:
        replace_layer(model, "blocks.3", nn.Conv2d(8, 4, 3, padding=1), example=example)
    assert str(caught.value).startswith(
        "the edited model does not run: the model (Residual) got f32[2, 3, 8, 8] from the example, "
        "and after blocks gave f32[2, 4, 8, 8]: RuntimeError: The size of tensor a (8) must match the size of tensor b (4)"
    )
    with pytest.raises(RuntimeError) as caught:
        replace_layer(model, "fc", nn.Linear(9, 5), example=example)
    assert " got f32[2, 8] from drop: " in str(caught.value)


def test_mixed_dtypes_under_autocast_are_sound():
    model, example = models.mlp()
    with torch.autocast("cpu", torch.bfloat16):
        report = remove_layer(model, "3", example=example)
    assert report.outputs[0].after == "bf16[3, 4]"


def test_a_forward_that_depends_on_values_is_checked_for_real():
    class Router(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x):
            return self.layers(x) if x.sum() > 0 else x

    model, example = Router(), torch.ones(1, 4)
    with pytest.raises(RuntimeError) as caught:
        remove_layer(model, "layers.1", example=example, run="shapes")
    text = str(caught.value)
    assert text.startswith(
        "the edited model cannot be checked on shapes alone: the model (Router) got f32[1, 4] from the example: "
    )
    assert text.endswith("; run='auto' checks it on values")
    report = remove_layer(model, "layers.1", example=example)
    assert report.checked == "run on values"
    assert report.outputs[0].difference is not None


def test_a_fake_check_computes_nothing():
    class Expensive(nn.Module):
        def forward(self, x):
            assert type(x).__name__ == "FakeTensor"
            return x

    model = nn.Sequential(nn.Linear(4, 4), Expensive(), nn.ReLU())
    report = remove_layer(model, "2", example=torch.ones(1, 4), run="shapes")
    assert report.checked == "run on shapes (with dtypes, devices and ids), not on values"
    assert report.outputs[0].difference is None


def test_a_model_that_did_not_run_before_may_be_cured():
    model, _ = models.mlp()
    gray = torch.ones(3, 5)
    report = replace_layer(model, "0", nn.Linear(5, 8), example=gray)
    assert report.notes[0].startswith(
        "the example did not run before the edit: 0 (Linear, weight f32[8, 8]) got f32[3, 5]"
    )
    assert report.outputs[0].before == "-"
    with pytest.raises(RuntimeError) as caught:
        remove_layer(model, "1", example=torch.ones(3, 7))
    assert str(caught.value).endswith("; it did not run before the edit either, so check the example first")


class Detector(nn.Module):
    """Takes a list of pictures of any size, as those of torchvision do."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 91)

    def forward(self, images, targets=None):
        return [self.head(self.body(image).mean((1, 2))) for image in images]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_list_that_forward_takes_as_it_is_has_its_place_in_a_tuple(count):
    pictures = [torch.rand(3, 4 + number, 5) for number in range(count)]
    with pytest.raises(RuntimeError) as caught:
        replace_layer(Detector(), "head", nn.Linear(4, 3), example=pictures)
    assert str(caught.value).endswith("check the example first: where forward takes the list itself, pass (example,)")
    report = replace_layer(Detector(), "head", nn.Linear(4, 3), example=(pictures,))
    assert [one.after for one in report.outputs] == ["f32[3]"] * count


def test_a_forward_that_raises_by_design_is_reported_with_its_own_words():
    class Refusing(nn.Module):
        def forward(self, x):
            raise NotImplementedError

    model, example = models.mlp()
    with pytest.raises(RuntimeError) as caught:
        replace_layer(model, "4", Refusing(), example=example)
    assert str(caught.value) == (
        "the edited model does not run: 4 (Refusing) got f32[3, 8] from 3: NotImplementedError: NotImplementedError"
    )


def test_the_run_leaves_the_loggers_of_torch_as_they_were():
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    model, example = models.mlp()
    run = record(nn.Sequential(nn.Linear(9, 9)), arguments_of(example), "fake")
    assert run.failure is not None
    assert not logger.disabled
    assert model(*example).shape == (3, 4)


def test_the_difference_of_the_output_is_the_largest_one():
    model, example = models.mlp()
    model.eval()
    with torch.no_grad():
        before = model(*example)
        report = remove_layer(model, "2", example=example)
        after = model(*example)
    assert report.outputs[0].difference == (after.double() - before.double()).abs().max().item()
    assert remove_layer(model, "2", example=example).outputs[0].difference == 0  # Dropout does nothing in eval


def sound_edits():
    """At least twenty valid edits of different architectures."""
    for name, (build, stacks) in models.STACKS.items():
        for stack in stacks:
            yield f"{name} {stack}", build, lambda s, m, stack=stack: s.keep_layers(stack, [0, 2, 1])
    yield "mlp", models.mlp, lambda s, m: s.remove("3")
    yield "mlp head", models.mlp, lambda s, m: s.resize_head("5", 9)
    yield "named", models.named, lambda s, m: s.replace("norm", nn.LayerNorm(8))
    yield "residual wrap", models.residual, lambda s, m: s.wrap("blocks", lambda old: nn.Sequential(old, nn.ReLU()))
    yield "vit head", models.vit, lambda s, m: s.resize_head("classifier", 7)
    yield "gpt2 words", models.gpt2, lambda s, m: s.resize_embeddings(80)
    yield "lstm", models.tagger, lambda s, m: s.replace("lstm", nn.GRU(8, 8, batch_first=True))


SOUND = list(sound_edits())


@pytest.mark.slow
@pytest.mark.parametrize(("build", "edit"), [case[1:] for case in SOUND], ids=[case[0] for case in SOUND])
@pytest.mark.parametrize("run", ["auto", "shapes"])
def test_no_sound_edit_is_refused_or_complained_about(build, edit, run):
    torch.manual_seed(0)
    model, example = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with surgery(model, example=example, optimizer=optimizer, run=run) as s:
        edit(s, model)
    # the layers' own list in Tagger is meant to be found
    assert [w for w in s.report.notes if "still holds a module" not in w] == []
    assert "as fake tensors did not do" not in s.report.checked


def test_there_are_enough_sound_edits():
    assert len(SOUND) >= 20


def test_an_example_on_another_device_is_refused():
    model, _ = models.mlp()
    with pytest.raises(RuntimeError) as caught:
        insert_layer(model, "0", nn.ReLU(), example=torch.ones(3, 8, device="meta"), run="shapes")
    assert "0 (Linear, weight f32[8, 8]) got f32[3, 8] from the example: " in str(caught.value)


def test_a_layer_that_is_gone_is_named_where_its_owner_stops_calling_its_kin():
    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(4)])

        def forward(self, x):
            for first, second in zip(self.layers[::2], self.layers[1::2]):  # noqa: B905 - the point of the test
                x = second(first(x))
            return x

    model = Pairs()
    report = keep_layers(model, "layers", [0, 1, 2], example=torch.ones(1, 2))
    assert "layers.2 (Linear) was called before the edit and no longer is" in report.notes


def test_a_forward_that_writes_into_its_input_leaves_the_example_alone():
    model, _ = models.mlp()
    model[1] = nn.ReLU(inplace=True)
    first = nn.Sequential(nn.ReLU(inplace=True), model)
    example = -torch.ones(3, 8)
    report = replace_layer(first, "1.3", nn.Identity(), example=example)
    assert torch.equal(example, -torch.ones(3, 8))
    assert report.outputs[0].difference == 0


class Shifted(nn.Module):
    """Looks up ids that it has computed."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(3, 4), nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(self.table((ids - 100).clamp_min(0).view(-1)))


@pytest.mark.parametrize("run", ["auto", "shapes"])
def test_ids_that_the_forward_computes_are_not_taken_for_those_of_the_example(run):
    replace_layer(Shifted(), "head", nn.Linear(4, 3), example=torch.tensor([[100, 102]]), run=run)
