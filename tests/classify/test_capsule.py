"""The capsule classifier: logits are scaled lengths, texts do not see their batch mates, and a two-line file is enough."""

import torch

import linkboy as lb
from linkboy import cli
from linkboy.classify.models._capsule import CapsuleHead, TextCapsuleNet


def test_logits_are_the_scaled_lengths_of_the_routed_capsules():
    head = CapsuleHead(24, 3, capsule_dim=4, pose_dim=5)
    features = torch.randn(7, 24)
    expected = 10 * head.routing(lb.squash(features.view(7, 6, 4))).norm(dim=2)
    torch.testing.assert_close(head(features), expected)


def test_padding_changes_no_logit():
    torch.manual_seed(0)
    model = TextCapsuleNet(50, 4).eval()
    ids = torch.randint(1, 50, (3, 9))
    padded = torch.nn.functional.pad(ids, (0, 20))
    torch.testing.assert_close(model(padded), model(ids), rtol=1e-5, atol=1e-6)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = TextCapsuleNet(50, 4)
    loss = torch.nn.functional.cross_entropy(model(torch.randint(1, 50, (8, 9))), torch.arange(8) % 4)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_file_of_two_lines_trains_and_predicts(tmp_path, capsys):
    file = tmp_path / "two.tsv"
    file.write_text("房间很干净\t好评\ntoo noisy\t差评\n", "utf-8")
    out = tmp_path / "model"
    arguments = [str(file), "--valid", str(file), "--test", str(file), "--epochs", "3", "--out", str(out)]
    assert cli.run(["train", *arguments, "--model", "capsule"]) == 0, capsys.readouterr().err
    classifier = lb.load_classifier(out)
    assert isinstance(classifier.model, TextCapsuleNet)
    assert set(classifier.predict(["房间很干净", "too noisy"]).labels) <= {"好评", "差评"}
