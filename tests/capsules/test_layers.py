"""PrimaryCapsules and CapsNet: which numbers make a capsule, what is drawn, and that a small net learns."""

import pytest
import torch
import torch.nn.functional as F

import linkboy as lb


def test_a_capsule_holds_its_channels_at_one_position():
    layer = lb.PrimaryCapsules(3, 4, 5, kernel_size=3, stride=2, padding=1)
    images = torch.randn(2, 3, 9, 7)
    features = F.conv2d(images, layer.convolution.weight, layer.convolution.bias, stride=2, padding=1)  # (2, 20, 5, 4)
    capsules = layer(images)
    assert capsules.shape == (2, 4 * 5 * 4, 5)
    for kind, row, column in ((0, 0, 0), (1, 2, 3), (3, 4, 3)):
        entries = features[:, 5 * kind : 5 * kind + 5, row, column]
        torch.testing.assert_close(capsules[:, kind * 20 + row * 4 + column], lb.squash(entries))


@pytest.mark.parametrize(("spatial_dims", "size"), [(1, (9,)), (2, (9, 9)), (3, (9, 9, 9))])
def test_sequences_images_and_volumes(spatial_dims, size):
    layer = lb.PrimaryCapsules(2, 3, 4, 3, spatial_dims=spatial_dims)
    assert layer(torch.randn(2, 2, *size)).shape == (2, 3 * 7**spatial_dims, 4)
    assert layer.to("meta")(torch.randn(2, 2, *size, device="meta")).shape == (2, 3 * 7**spatial_dims, 4)


def test_primary_capsules_say_what_does_not_fit():
    images = lb.PrimaryCapsules(2, 3, 4, 3, padding=1)
    sequences = lb.PrimaryCapsules(2, 3, 4, 3, spatial_dims=1)
    need = "input must have the shape (B, 2, H, W) with H, W of at least 1, got "
    for call, message in (
        (lambda: lb.PrimaryCapsules(2, 3, 4, 3, spatial_dims=4), "spatial_dims must be one of (1, 2, 3), got 4"),
        (lambda: lb.PrimaryCapsules(2, 0, 4, 3), "num_capsules must be an integer of at least 1, got 0"),
        (lambda: lb.PrimaryCapsules(2, 3, 4, 0), "kernel_size must be an integer of at least 1, got 0"),
        (lambda: lb.PrimaryCapsules(2, 3, 4, 3, padding=-1), "padding must be an integer of at least 0, got -1"),
        (lambda: images(torch.rand(2, 9, 9)), f"{need}f32[2, 9, 9]"),
        (lambda: images(torch.rand(1, 3, 9, 9)), f"{need}f32[1, 3, 9, 9]"),
        (lambda: images([1.0]), f"{need}list"),
        (
            lambda: sequences(torch.rand(1, 2, 2)),
            "input must have the shape (B, 2, T) with T of at least 3, got f32[1, 2, 2]",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == message


def small_net(**options):
    torch.manual_seed(0)
    sizes = {"channels": 16, "primary_capsules": 4, "kernel_size": 3, "stride": 1, "decoder": (32,)} | options
    return lb.CapsNet((1, 8, 8), 4, **sizes)


def test_the_net_of_the_paper_has_its_sizes():
    net = lb.CapsNet((1, 28, 28), 10)
    assert net.routing.weight.shape == (1152, 10, 16, 8)
    assert sum(p.numel() for p in net.parameters()) == 8_215_568  # "8.2M"


def test_lengths_alone_and_on_request_everything():
    net, images, target = small_net(), torch.rand(3, 1, 8, 8), torch.tensor([2, 0, 3])
    lengths, poses, drawn = net(images, reconstruct=True, target=target)
    assert torch.equal(net(images), lengths)
    torch.testing.assert_close(lengths, poses.norm(dim=2))
    assert drawn.shape == images.shape
    assert torch.equal(net(images, reconstruct=True).reconstruction, net.reconstruct(poses, lengths.argmax(1)))


def test_only_the_chosen_capsule_is_drawn():
    net, target = small_net(), torch.tensor([2, 0])
    poses = torch.randn(2, 4, 16)
    others = poses.clone()
    others[0, [0, 1, 3]] = others[1, 1:] = 7.0
    assert torch.equal(net.reconstruct(poses, target), net.reconstruct(others, target))
    assert not torch.equal(net.reconstruct(poses, target), net.reconstruct(poses, torch.tensor([1, 0])))


def test_an_image_does_not_see_its_batch_mates():
    net, images = small_net(), torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(net(images)[:1], net(images[:1]))


@pytest.mark.parametrize("routing_grad", ["last", "full"])
def test_a_small_net_learns(routing_grad):
    """Which quarter of the image is bright? Below 5 % errors after 40 steps, and the drawing shows the quarter."""
    net = small_net(routing_grad=routing_grad)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(1)

    def batch(size):
        target = torch.randint(4, (size,), generator=generator)
        images = 0.5 * torch.rand(size, 1, 8, 8, generator=generator)
        quarter = F.one_hot(target, 4).view(size, 1, 2, 2).float()
        return images + 0.5 * F.interpolate(quarter, scale_factor=4), target

    for _ in range(40):
        images, target = batch(64)
        lengths, _, drawn = net(images, reconstruct=True, target=target)
        loss = lb.margin_loss(lengths, target) + F.mse_loss(drawn, images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, target = batch(200)
    with torch.no_grad():
        lengths, _, drawn = net(images, reconstruct=True)
    assert (lengths.argmax(1) == target).float().mean() > 0.95
    brightest = F.avg_pool2d(drawn, 4).flatten(1).argmax(1)
    assert (brightest == target).float().mean() > 0.9


def test_it_trains_under_autocast_and_compiles():
    net, images, target = small_net(), torch.rand(3, 1, 8, 8), torch.tensor([2, 0, 3])
    with torch.autocast("cpu", torch.bfloat16):
        lengths = net(images)
        loss = lb.margin_loss(lengths, target)
    loss.backward()
    assert lengths.dtype == loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for name, p in net.named_parameters() if not name.startswith("decoder"))
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), net(images))


LABELS = torch.tensor([0, 1])
MISTAKES = [
    (lambda: lb.CapsNet((1, 8, 8), 10), ValueError,
     "image_size must be at least 17 x 17 pixels for two convolutions of kernel_size=9, got (1, 8, 8); "
     "take a smaller kernel_size"),
    (lambda: lb.CapsNet((28, 28), 10), ValueError, "image_size must be (channels, height, width), got (28, 28)"),
    (lambda: lb.CapsNet(28, 10), ValueError, "image_size must be (channels, height, width), got 28"),
    (lambda: lb.CapsNet((0, 28, 28), 10), ValueError, "image_size[0] must be an integer of at least 1, got 0"),
    (lambda: lb.CapsNet((1, 28, 28), 0), ValueError, "classes must be an integer of at least 1, got 0"),
    (lambda: small_net(decoder=(32, 0)), ValueError, "decoder[1] must be an integer of at least 1, got 0"),
    (lambda: small_net(decoder=32), TypeError,
     "decoder must be the widths of its hidden layers, such as (512, 1024), got 32"),
    (lambda: small_net()(torch.rand(2, 8, 8)), ValueError,
     "input must be images of shape (B, 1, 8, 8), got f32[2, 8, 8]"),
    (lambda: small_net()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)), TypeError,
     "input must be a floating point tensor, got u8[2, 1, 8, 8]; convert it with .float()"),
    (lambda: lb.PrimaryCapsules(2, 3, 4, 3)(torch.zeros(1, 2, 9, 9).long()), TypeError,
     "input must be a floating point tensor, got i64[1, 2, 9, 9]; convert it with .float()"),
    (lambda: small_net()(torch.rand(2, 1, 8, 8), target=LABELS), ValueError,
     "target is the class to draw, got reconstruct=False; pass reconstruct=True or leave target out"),
    (lambda: small_net()(torch.rand(2, 1, 8, 8), reconstruct=True, target=LABELS + 3), ValueError,
     "target must hold labels from 0 to 3, got 4"),
    (lambda: small_net().reconstruct(torch.rand(2, 3, 16), LABELS), ValueError,
     "poses must have the shape (B, 4, 16), got f32[2, 3, 16]"),
    (lambda: small_net().reconstruct(torch.rand(2, 4, 16), LABELS[:1]), ValueError,
     "target must hold one class per example, shape (2,), got i64[1]"),
    (lambda: small_net().reconstruct(torch.rand(2, 4, 16), torch.eye(4)[:2]), ValueError,
     "target must hold one class per example, shape (2,), got f32[2, 4]; zeros and ones give classes by target.argmax(1)"),
    (lambda: small_net().reconstruct(torch.rand(2, 4, 16), LABELS.float()), TypeError,
     "target of shape (N,) must hold class indices, got f32[2]; convert it with .long()"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES)
def test_the_net_says_what_does_not_fit(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*deprecated")
@pytest.mark.parametrize("gradient", ["last", "full"])
def test_a_traced_layer_takes_another_batch_and_can_be_saved(gradient, tmp_path):
    """The batch of the example was a constant of the graph, and the derivative an operator that no file can hold."""
    torch.manual_seed(0)
    layer = lb.CapsuleLinear(3, 4, 2, 5, routing_grad=gradient).eval()
    torch.jit.trace(layer, torch.randn(2, 3, 4)).save(tmp_path / "layer.pt")
    traced = torch.jit.load(tmp_path / "layer.pt")
    for batch in (1, 5):
        x = torch.randn(batch, 3, 4)
        torch.testing.assert_close(traced(x), layer(x))
