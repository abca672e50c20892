"""The sentences of findings and of skipped rows, read from the source, each with its Chinese one."""

import ast
import functools
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from linkboy._language import translate_filled
from linkboy._watch._graph import _STEEP
from linkboy.shapes._mixing import _ADVICE, _ADVICE_FOR

SOURCES = Path(__file__).parents[1] / "src/linkboy"
DOCTOR = (*sorted((SOURCES / "_watch").glob("*.py")), *sorted((SOURCES / "doctor").glob("*.py")))
FIT = SOURCES / "training/_findings.py"
READING = (*sorted((SOURCES / "classify/reading").glob("*.py")), SOURCES / "classify/_given.py")
SENTENCE_AND_FIX = (2, 3)  # the arguments of all of these
MADE = ("finding", "TrainingFinding", "_Repeated")


def json_message(text: str) -> str:
    """Return what Python says of a text that is not JSON."""
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads(text)
    return caught.value.msg


# What a check reads from the record and is a part of a sentence, where it is no name and no number.
PHRASES = {
    "bad.what": ("loss", "gradient"),
    "bad.name": ("the loss", "the gradient", "a tensor", "net.0.weight"),
    "bad.reason": tuple(what for _, what in _STEEP.values()),
    "first.before": ("softmax", "sigmoid"),
    "first.after": ("log-softmax", "softmax", "sigmoid", "sigmoid of the loss"),
    "each.mixing_fix": (*_ADVICE.values(), _ADVICE_FOR["mixing"]),
    "holder": ("net.blocks", "the list net.blocks", "a Linear made inside forward", ""),
    "how": ("equals the target", "is the target times one number plus another"),
    "what@unscaled_input": ("column 7",),
    "what@wrong_backward": (
        "along a random direction backward gives 1.5, finite differences 2.5",
        "Jacobian mismatch for output 0 with respect to input 0, numerical:tensor([[2.]]) analytical:tensor([[1.]])",
    ),
    "_a(optimizer.kind)": ("an Adam", "a Rprop"),
    "error@csv_records": ("',' expected after '\"'",),
    "error.msg": tuple(
        map(json_message, ("", "[1 2]", "[1,]", "{a}", '{"a" 1}', '{"a": 1,}', '"a', '"\1"', '"\\q"', '"\\u1"', "1 2"))
    ),
    "type(value).__name__": ("list",),
    "type(raw).__name__": ("list",),
    "type(wrong).__name__": ("list",),
    "role": ("text", "label"),
    "part": ("valid", "test"),
    "FASTTEXT": ("__label__",),
    "names@unknown_labels": ("'7' of 7 rows, '7' of 1 row; did you mean '7'? and 7 more",),
    "advice@of": (
        ", but the line reads '7' with encoding='7'",
        ", but the line reads '7' with encoding='7' or '7' with encoding='7'",
        ", but the line, unlike most others, reads '7' with encoding='7'",
        ", but the line, unlike most others, reads '7' with encoding='7' or '7' with encoding='7'",
        "",
    ),
}
PAIRS = {"loss": ("the loss",), "gradient": ("the gradient", "a tensor", "net.0.weight")}
# Words of code, of PyTorch and of the libraries that stay in a Chinese sentence.
CODE = re.compile(
    r"[\w.]*\w\(.*?\)+|\w*_\w+(\.\w+)*|\w+(\.\w+)+|\w+=[\w.'7]+|\.\w+|'\w*\.?'|encoding=|\[.*?\]|\b(numpy|argmax|worker|loader"
    r"|DataLoader|backward|forward|softmax|log-softmax|sigmoid|tanh|ReLU|LeakyReLU|GELU|dropout|squeeze|transpose|permute|view"
    r"|logits?|exp|ln|acos|asin|id|eval|step|strict|GradScaler|LambdaLR|detach|Linear|list|JSON|uXXXX|loss|ids|True|False)\b"
)


class Sentences:
    """What the expressions of a function can be as text, each value that is only known at run time as a number."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self.name = function.name
        self.assigned: dict[str, list[tuple[bool, ast.expr]]] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.assigned.setdefault(node.targets[0].id, []).append((False, node.value))
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                self.assigned.setdefault(node.target.id, []).append((True, node.value))

    def of(self, expression: ast.expr) -> set[str]:
        """Return every text that an expression can be, those of its conditions alike that are the same."""
        nodes = (node for each in self._all(expression) for node in ast.walk(each))
        tests = sorted({ast.unparse(node.test) for node in nodes if isinstance(node, ast.IfExp)})
        return {
            text
            for answers in itertools.product((True, False), repeat=len(tests))
            for text in self._of(expression, dict(zip(tests, answers, strict=True)))
        }

    def _all(self, expression: ast.expr, depth: int = 3) -> Iterator[ast.expr]:
        """Yield an expression and what was assigned to the variables in it."""
        yield expression
        for node in ast.walk(expression) if depth else ():
            if isinstance(node, ast.Name):
                for _, value in self.assigned.get(node.id, ()):
                    yield from self._all(value, depth - 1)

    def _of(self, node: ast.expr, answers: dict[str, bool]) -> set[str]:
        source = ast.unparse(node)
        phrases = PHRASES.get(f"{source}@{self.name}", PHRASES.get(source))
        if phrases is not None:
            return set(phrases)
        match node:
            case ast.Constant(value=str(text)):
                return {text}
            case ast.JoinedStr(values=parts):
                return {"".join(each) for each in itertools.product(*(self._of(part, answers) for part in parts))}
            case ast.FormattedValue(value=value, conversion=conversion):
                return (
                    {repr(text) for text in self._of(value, answers)} if conversion == 114 else self._of(value, answers)
                )
            case ast.IfExp(test=test, body=body, orelse=other):
                return self._of(body if answers[ast.unparse(test)] else other, answers)
            case ast.BinOp(left=left, op=ast.Add(), right=right) if not isinstance(right, ast.Constant):
                return {a + b for a, b in itertools.product(self._of(left, answers), self._of(right, answers))}
            case ast.BoolOp(op=ast.Or(), values=values):
                return set().union(*(self._of(value, answers) for value in values))
            case ast.Call(func=ast.Name(id="plural"), args=[count, ast.Constant(value=one), *more]):
                many = more[0].value if more and isinstance(more[0], ast.Constant) else f"{one}s"
                single = answers.get(f"{ast.unparse(count)} == 1")
                return {f"1 {one}", f"7 {many}"} if single is None else {f"1 {one}" if single else f"7 {many}"}
            case ast.Call(func=ast.Name(id="few" | "listed")):
                return {"net.0.weight, a tensor", "net.0.weight and 7 more"}
            case ast.Call(func=ast.Attribute(attr="strip"), args=[]):
                return self._of(node.func.value, answers)
            case ast.Name(id=name) if name in self.assigned:
                return self._variable(name, answers)
        return {"7"}

    def _variable(self, name: str, answers: dict[str, bool]) -> set[str]:
        found: set[str] = set()
        for added, value in self.assigned[name]:
            texts = self._of(value, answers)
            found |= {before + text for before in found for text in texts} if added else texts
        return found


@functools.cache
def functions_of(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]


def calls_in(paths, names) -> Iterator[tuple[ast.FunctionDef, str, ast.Call]]:
    for path in paths:
        for function in functions_of(path):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                    yield function, node.func.id, node


def possible(text: str) -> bool:
    """Return whether the parts that a sentence of `nan` and of a double softmax was put together from go together."""
    seen = re.match(r"the (loss|gradient) is not finite .*\(first seen in (.+?)\)", text)
    if seen and seen[2] not in PAIRS[seen[1]]:
        return False
    leak = re.match(r"column .* (equals|is) the target .*?(; right where|$)", text)
    if leak and (leak[1] == "is") != bool(leak[2]):
        return False
    squashed = re.match(r"a (softmax|sigmoid) stands before a (.+?): .*, and (\w+)", text)
    return not squashed or squashed[2].startswith("log") == (squashed[3] == "every")


def sentences_of_findings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for function, name, call in calls_in((*DOCTOR, FIT), MADE):
        for place in SENTENCE_AND_FIX:
            texts = Sentences(function).of(call.args[place])
            if name == "_Repeated":
                texts = {text.format(count=7, steps=7, kind="Adam") for text in texts}
            if function.name not in ("finding", "ask"):  # which hand on what they are called with
                found.setdefault(function.name, []).extend(filter(possible, sorted(texts)))
    return found


FOUND = sentences_of_findings()


def english_left(text: str) -> list[str]:
    """Return the words of a translated sentence that are English and no code."""
    return re.findall(r"[A-Za-z]{2,}", CODE.sub("", re.sub(r"Adam|Rprop|net\.0\.weight", "", text)))


def test_the_sentences_of_every_check_were_read_from_the_source():
    from linkboy._watch import CHECKS
    from linkboy.doctor import _finish  # noqa: F401 - the checks register themselves

    helpers = {  # the functions that say it for a check
        "double_softmax": ["_squashing"], "double_sigmoid": ["_squashing"], "wrong_dim": ["_over_batch"],
        "ignored_samples": ["_ignored", "_only_the_last"], "unscaled_target": ["_unscaled"],
        "scheduler_pace": ["_too_fast", "_too_slow"], "train_in_eval": ["_measured_with_gradient"],
    }  # fmt: skip
    words = {word.replace("-", "_") for word in CHECKS}
    assert words - set(FOUND) <= set(helpers)
    assert {helper for each in helpers.values() for helper in each} <= set(FOUND)
    assert all(re.search(r"[a-z]{3}", text) for texts in FOUND.values() for text in texts)


@pytest.mark.parametrize("function", FOUND)
def test_what_a_check_says_has_its_chinese(function):
    for text in FOUND[function]:
        said = translate_filled(text, "zh")
        assert said != text, text
        assert english_left(said) == [], (text, said)
        assert said.count("7") == text.count("7"), (text, said)
        assert said.count("net.0.weight") == text.count("net.0.weight"), (text, said)


REASONS = ("cell_problem", "_wrong_count", "not_in", "unknown_labels")  # functions whose result is a sentence


def sentences_of_rows() -> Iterator[str]:
    """Yield why rows are skipped, and what is noted about the rows of parts and the passes of a script."""
    given: list[tuple[ast.FunctionDef, ast.expr]] = []
    for path in (*READING, SOURCES / "doctor/script.py", SOURCES / "doctor/watching.py"):
        for function in functions_of(path):
            for node in ast.walk(function):
                match node:
                    case ast.Call(func=ast.Name(id="bad_row"), args=[_, reason]):
                        given.append((function, reason))
                    case ast.Call(func=ast.Attribute(attr="append", value=notes), args=[note]) if (
                        "notes" in ast.unparse(notes)
                    ):
                        given.append((function, note))
                    case ast.Assign(targets=[ast.Name(id="problem" | "said" | "notes")], value=value):
                        given.append((function, value))
                    case ast.Return(value=ast.Tuple(elts=[ast.Tuple(), reason])):
                        given.append((function, reason))
                    case ast.Return(value=ast.List(elts=[reason]) | (ast.JoinedStr() | ast.IfExp() as reason)) if (
                        function.name in REASONS
                    ):
                        given.append((function, reason))
    for function, expression in given:
        yield from (text for text in sorted(Sentences(function).of(expression)) if " " in text)


def test_why_a_row_was_skipped_has_its_chinese():
    texts = sorted(set(sentences_of_rows()))
    assert len(texts) > 45
    for text in texts:
        said = translate_filled(text, "zh")
        assert said != text, text
        assert english_left(said) == [], (text, said)


def test_the_whole_page_of_a_program_with_faults_is_chinese():
    import torch
    from torch import nn

    import linkboy as lb

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3)
            self.blocks, self.idle = [nn.Linear(16, 16)], nn.Linear(4, 4)

        def forward(self, x):
            hidden = torch.nn.functional.dropout(self.first(x[:, :4].repeat(1, 2)).relu())
            return self.second(self.blocks[0](hidden)).softmax(0).softmax(1)

    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD([*model.first.parameters(), *model.idle.parameters()], lr=1e-9)
    inputs, labels = 1000 * torch.randn(64, 8), torch.arange(64) % 2 + 1
    with lb.watch_training() as watch:
        for start in range(0, 64, 8):
            loss = nn.functional.cross_entropy(model(inputs[start : start + 8]), labels[start : start + 8])
            loss.backward()
            optimizer.step()
    check = watch.report()
    words = {found.word for found in check.findings}
    assert len(words) >= 6, words
    page = check.to_html("zh")
    body = re.sub(
        r"<(style|script|pre|code|title)\b.*?</\1>|<h2>.*?</h2>|<ul class=.words.*?</ul>", "", page, flags=re.DOTALL
    )
    lines = [line for line in re.sub(r"<.*?>", "", body).split("\n") if line.strip() and "docs/zh" not in line]
    left = {line: words for line in lines if (words := english_left(NAMES.sub("", line)))}
    assert left == {}
    assert sum(found.sentence in page for found in check.findings) == 0
    assert all(found.sentence.split(":")[0][:20] in str(check) for found in check.findings)


NAMES = re.compile(r"\b(linkboy|Net|SGD|model|first|second|idle|blocks|nll|weight|bias|x|self|Python)\b")
