"""Frozen rows hold under every optimizer, and the module is nn.Embedding in everything else."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linkboy import PretrainedEmbedding

ROWS, DIM = 12, 3
FROZEN = torch.tensor([True, False] * 6)
OPTIMIZERS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
HARDEST = {"weight_decay": 0.1, "momentum": 0.9, "max_iter": 3}


def table(seed: int = 0, **options) -> torch.Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(seed), **options)


def make_optimizer(kind, parameters):
    """With decay and momentum, where the optimizer knows them."""
    accepted = kind.__init__.__code__.co_varnames
    return kind(parameters, lr=0.05, **{name: value for name, value in HARDEST.items() if name in accepted})


def train(embedding, optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(ROWS, (8,), generator=generator)

        def closure(ids=ids):
            optimizer.zero_grad()
            loss = (embedding(ids) - 1).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)


# --- frozen rows ---


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_rows_are_the_same_bits_after_100_steps_and_a_resume(name):
    sparse = name == "SparseAdam"
    embedding = PretrainedEmbedding(table(), freeze=FROZEN, padding_idx=1, sparse=sparse)
    optimizer = make_optimizer(OPTIMIZERS[name], embedding.parameters())
    train(embedding, optimizer, 50)
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(embedding.state_dict())
    resumed = PretrainedEmbedding(torch.zeros(ROWS, DIM), freeze=FROZEN, padding_idx=1, sparse=sparse)
    resumed.load_state_dict(weights)
    other = make_optimizer(OPTIMIZERS[name], resumed.parameters())
    other.load_state_dict(state)
    resumed.requires_grad_(True)
    train(resumed, other, 50, seed=1)
    after = resumed.weight.detach()
    assert torch.equal(after[FROZEN], table()[FROZEN])
    assert after[1].tolist() == [0] * DIM
    trained = ~FROZEN
    trained[1] = False
    assert (after[trained] != table()[trained]).all()


def test_momentum_gathered_before_does_not_move_rows_frozen_later():
    free = PretrainedEmbedding(table(), freeze=False)
    optimizer = torch.optim.Adam(free.parameters(), lr=0.05)
    train(free, optimizer, 20)
    before = free.weight.detach()
    later = PretrainedEmbedding(before, freeze=FROZEN)
    train(later, torch.optim.Adam(later.parameters(), lr=0.05), 20)
    assert torch.equal(later.weight[FROZEN], before[FROZEN])


def test_the_copied_gradient_mask_does_move_frozen_rows():
    """The fault the module is there for; should torch ever mend it, the page must say so."""
    plain = nn.Embedding.from_pretrained(table(), freeze=False)
    plain.weight.register_hook(lambda gradient: gradient * ~FROZEN[:, None])
    train(plain, torch.optim.AdamW(plain.parameters(), lr=0.05, weight_decay=0.1), 5)
    assert not torch.equal(plain.weight[FROZEN], table()[FROZEN])


def test_optimizer_state_is_that_of_the_trainable_rows():
    embedding = PretrainedEmbedding(table(), freeze=FROZEN)
    optimizer = torch.optim.Adam(embedding.parameters())
    train(embedding, optimizer, 1)
    assert [value.shape for value in optimizer.state[embedding.trainable.weight].values() if value.dim()] == [
        (6, DIM)
    ] * 2


def test_all_frozen_has_no_parameter_and_none_frozen_one():
    assert list(PretrainedEmbedding(table()).parameters()) == []
    parameters = list(PretrainedEmbedding(table(), freeze=False).parameters())
    assert [parameter.shape for parameter in parameters] == [(ROWS, DIM)]


# --- nn.Embedding is the oracle ---


@pytest.mark.parametrize("freeze", [True, False, FROZEN], ids=["all", "none", "some"])
@pytest.mark.parametrize("padding", [None, 3, -1])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (4, 5), (2, 3, 4)])
def test_output_and_gradient_are_those_of_nn_embedding(freeze, padding, sparse, shape):
    if sparse and padding is not None and not shape:
        pytest.skip("torch fails in the backward of a single id")
    start = table()
    if padding is not None:
        start[padding] = 0
    plain = nn.Embedding(ROWS, DIM, padding_idx=padding, sparse=sparse)
    plain.load_state_dict({"weight": start})
    ours = PretrainedEmbedding(start, freeze=freeze, padding_idx=padding, sparse=sparse)
    ids = torch.randint(ROWS, shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours(ids), plain(ids))
    assert torch.equal(ours(ids.int()), plain(ids))
    if ours.trainable is None:
        assert not ours(ids).requires_grad
        return
    noise = torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(2))
    for module in (plain, ours):
        (module(ids) * noise).sum().backward()
    gradient = ours.trainable.weight.grad
    assert gradient.is_sparse == sparse
    expected = plain.weight.grad.to_dense()
    trained = torch.ones(ROWS, dtype=torch.bool) if freeze is False else ~freeze
    if padding is not None and freeze is not False:
        trained[padding] = False
    torch.testing.assert_close(gradient.to_dense(), expected[trained])


def test_sparse_updates_touch_the_rows_of_the_batch_alone():
    ours = PretrainedEmbedding(table(), freeze=FROZEN, sparse=True)
    plain = nn.Embedding.from_pretrained(table(), freeze=False, sparse=True)
    for module in (ours, plain):
        train(module, torch.optim.SparseAdam(list(module.parameters()), lr=0.05), 10)
    torch.testing.assert_close(ours.weight[~FROZEN], plain.weight[~FROZEN])


def test_sizes_and_repr_read_as_in_nn_embedding():
    embedding = PretrainedEmbedding(table(), freeze=FROZEN, padding_idx=-1, sparse=True)
    assert (embedding.num_embeddings, embedding.embedding_dim, embedding.padding_idx) == (ROWS, DIM, ROWS - 1)
    assert "12, 3, trainable_rows=5, padding_idx=11, sparse=True\n" in repr(embedding)


def test_sizes_in_place_of_a_table_draw_one():
    torch.manual_seed(0)
    expected = torch.randn(1000, 8, dtype=torch.float64)
    torch.manual_seed(0)
    embedding = PretrainedEmbedding(1000, 8, freeze=False, dtype=torch.float64)
    assert torch.equal(embedding.weight, expected)


def test_the_table_is_copied():
    mine = table()
    embedding = PretrainedEmbedding(mine, freeze=False, padding_idx=0)
    train(embedding, torch.optim.SGD(embedding.parameters(), lr=0.1), 1)
    assert torch.equal(mine, table())


def test_a_tied_output_layer_trains_the_trainable_rows():
    embedding = PretrainedEmbedding(table(), freeze=FROZEN)
    F.linear(torch.ones(2, DIM), embedding.weight).sum().backward()
    assert embedding.trainable.weight.grad.tolist() == [[2.0] * DIM] * 6


# --- state, copies, conversions ---


def test_the_state_dict_is_that_of_nn_embedding_in_both_directions():
    ours = PretrainedEmbedding(table(), freeze=FROZEN)
    assert list(ours.state_dict()) == ["weight"]
    plain = nn.Embedding(ROWS, DIM)
    plain.load_state_dict(ours.state_dict())
    assert torch.equal(plain.weight, table())
    for assign in (False, True):
        other = nn.ModuleDict({"embedding": PretrainedEmbedding(table(1), freeze=FROZEN, padding_idx=0)})
        other.load_state_dict({"embedding.weight": table(2)}, assign=assign)
        expected = table(2)
        expected[0] = 0
        assert torch.equal(other["embedding"].weight, expected)
        assert other["embedding"].trainable.weight.requires_grad


def test_a_state_dict_that_does_not_fit_is_refused_and_nothing_is_taken():
    ours = PretrainedEmbedding(table(), freeze=FROZEN)
    with pytest.raises(RuntimeError, match=r"weight must have the shape \(12, 3\), got f32\[12, 4\]"):
        ours.load_state_dict({"weight": torch.zeros(ROWS, DIM + 1)})
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"weight\""):
        ours.load_state_dict({})
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"other\""):
        ours.load_state_dict({"weight": table(1), "other": table()})
    assert ours.load_state_dict({}, strict=False).missing_keys == ["weight"]


@pytest.mark.parametrize("freeze", [True, False, FROZEN], ids=["all", "none", "some"])
@pytest.mark.parametrize("way", ["assign", "to_empty"])
def test_a_module_made_on_meta_takes_a_state_dict(freeze, way):
    with torch.device("meta"):
        ours = PretrainedEmbedding(ROWS, DIM, freeze=freeze, padding_idx=2)
    with pytest.raises(RuntimeError, match=r"weight cannot be copied to the meta device; pass assign=True"):
        ours.load_state_dict({"weight": table()})
    if way == "to_empty":
        ours.to_empty(device="cpu")
    ours.load_state_dict({"weight": table()}, assign=way == "assign")
    expected = PretrainedEmbedding(table(), freeze=freeze, padding_idx=2)
    assert torch.equal(ours.weight, expected.weight)
    assert torch.equal(ours.is_frozen, expected.is_frozen)
    ids = torch.arange(ROWS)
    assert torch.equal(ours(ids), expected(ids))


@pytest.mark.parametrize("freeze", [True, False, FROZEN], ids=["all", "none", "some"])
def test_to_empty_forgets_values_and_not_which_rows_are_frozen(freeze):
    ours = PretrainedEmbedding(table(), freeze=freeze).to_empty(device="cpu")
    ours.load_state_dict({"weight": table(1)})
    assert torch.equal(ours.weight, table(1))
    assert torch.equal(ours.is_frozen, torch.as_tensor(freeze).expand(ROWS))


def test_vmap_and_the_meta_device_look_rows_up():
    ours = PretrainedEmbedding(table(), freeze=FROZEN)
    ids = torch.arange(ROWS)[:, None].expand(ROWS, 2)
    assert torch.equal(torch.vmap(ours)(ids), table()[ids])
    assert ours.to("meta")(ids.to("meta")).shape == (ROWS, 2, DIM)


def test_the_weight_cannot_be_assigned():
    ours = PretrainedEmbedding(table(), freeze=FROZEN)
    message = (
        "weight is put together from the trainable and the frozen rows and cannot be assigned; "
        "load_state_dict({'weight': table}) takes the rows of another table"
    )
    for value in (table(1), nn.Parameter(table(1))):
        with pytest.raises(AttributeError) as caught:
            ours.weight = value
        assert str(caught.value) == message
    assert torch.equal(ours.weight, table())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], "input must be int64 or int32 ids, got list; pass a tensor"),
        (torch.tensor([1.0]), "input must be int64 or int32 ids, got f32[1]; convert them with .long()"),
        (torch.tensor([True]), "input must be int64 or int32 ids, got bool[1]; convert them with .long()"),
    ],
)
@pytest.mark.parametrize("freeze", [True, False, FROZEN], ids=["all", "none", "some"])
def test_ids_of_another_type_are_refused(freeze, ids, message):
    with pytest.raises(TypeError) as caught:
        PretrainedEmbedding(table(), freeze=freeze)(ids)
    assert str(caught.value) == message


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_equal_and_independent(way):
    ours = PretrainedEmbedding(table(), freeze=FROZEN, padding_idx=2)
    if way == "deepcopy":
        other = copy.deepcopy(ours)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(ours))
    else:
        buffer = io.BytesIO()
        torch.save(ours, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    before = ours.weight.clone()
    train(other, torch.optim.SGD(other.parameters(), lr=0.1), 3)
    assert torch.equal(ours.weight, before)
    assert torch.equal(other.weight[FROZEN], before[FROZEN])
    assert not torch.equal(other.weight, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_change_of_dtype_changes_all_rows(dtype):
    ours = PretrainedEmbedding(table(), freeze=FROZEN).to(dtype)
    ids = torch.arange(ROWS)
    assert torch.equal(ours(ids), table().to(dtype))
    train(ours, torch.optim.SGD(ours.parameters(), lr=0.1), 2)
    assert torch.equal(ours.weight[FROZEN], table().to(dtype)[FROZEN])


def test_it_runs_on_meta():
    with torch.device("meta"):
        ours = PretrainedEmbedding(ROWS, DIM, freeze=False)
        assert ours(torch.zeros(2, 3, dtype=torch.long)).shape == (2, 3, DIM)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("freeze", [True, False, FROZEN], ids=["all", "none", "some"])
def test_compiled_without_a_break_it_gives_the_same(freeze):
    ours = PretrainedEmbedding(table(), freeze=freeze, padding_idx=2)
    compiled = torch.compile(copy.deepcopy(ours), fullgraph=True)
    ids = torch.randint(ROWS, (4, 5), generator=torch.Generator().manual_seed(1))
    assert torch.equal(compiled(ids), ours(ids))
    if ours.trainable is not None:
        for module in (ours, compiled):
            module(ids).square().sum().backward()
        torch.testing.assert_close(compiled.trainable.weight.grad, ours.trainable.weight.grad)


# --- messages ---


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.zeros(3),), {}, ValueError, "weight must have the shape (num_embeddings, embedding_dim), got f32[3]"),
        (
            (torch.zeros(3, 2, dtype=torch.long),), {}, TypeError,
            "weight must be floating point, got i64[3, 2]; convert it with .float()",
        ),
        (
            (torch.zeros(3, 2), 2), {}, ValueError,
            "embedding_dim, device and dtype are those of weight where it is a tensor; leave them out",
        ),
        ((0, 2), {}, ValueError, "num_embeddings must be an integer of at least 1, got 0"),
        ((3,), {}, TypeError, "embedding_dim must be an integer of at least 1, got None of type NoneType"),
        (
            (3, 2), {"freeze": [True]}, ValueError,
            "freeze must have one bool for each of the 3 rows, got bool[1]",
        ),
        (
            (3, 2), {"freeze": torch.zeros(3)}, TypeError,
            "freeze must be True, False or a bool per row, got f32[3]; write mask.bool()",
        ),
        (
            (3, 2), {"freeze": [0, 2]}, TypeError,
            "freeze must be True, False or a bool per row, got i64[2]; to freeze some rows write "
            "mask = torch.zeros(num_embeddings, dtype=torch.bool); mask[rows] = True",
        ),
        (
            (3, 2), {"freeze": [0, 2, 1]}, TypeError,
            "freeze must be True, False or a bool per row, got i64[3]; to freeze some rows write "
            "mask = torch.zeros(num_embeddings, dtype=torch.bool); mask[rows] = True",
        ),
        (
            (3, 2), {"freeze": slice(2)}, TypeError,
            "freeze must be True, False or a bool per row, got slice; to freeze some rows write "
            "mask = torch.zeros(num_embeddings, dtype=torch.bool); mask[rows] = True",
        ),
        (
            (nn.Embedding(2, 3),), {}, TypeError,
            "weight must be a tensor or a number of rows, got Embedding; pass its .weight",
        ),
        (
            ([[1.0, 2.0]],), {}, TypeError,
            "weight must be a tensor or a number of rows, got list; write torch.as_tensor(weight)",
        ),
        (
            (3, 2), {"padding_idx": 3}, ValueError,
            "padding_idx must be an integer of at least -3 and of at most 2, got 3",
        ),
    ],
)  # fmt: skip
def test_messages(arguments, options, error, message):
    with pytest.raises(error) as caught:
        PretrainedEmbedding(*arguments, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("freeze", [True, False, FROZEN], ids=["all", "none", "some"])
@pytest.mark.parametrize("wrong", [-1, ROWS])
def test_an_id_out_of_range_is_refused(freeze, wrong):
    with pytest.raises(IndexError):
        PretrainedEmbedding(table(), freeze=freeze)(torch.tensor([0, wrong]))
