"""Every rule id that the code can print has one story, and no story of ours is about a rule that is gone."""

import ast
from collections import Counter, defaultdict
from functools import cache

import pytest

from uenv_builder.app.explaining import story_of
from uenv_builder.core.logs.failures import load_failures
from uenv_builder.core.rules.stories import chapter_names, find_story, load_chapter
from uenv_builder.model.errors import Severity
from uenv_command import ROOT

PACKAGE = ROOT / "builder/uenv_builder"
CHAPTERS = ("form", "building", "machine", "publishing", "importing", "spack")
SEVERITIES = set(Severity.__args__)


def texts(node):
    """The texts that an expression can be: a constant, both sides of a condition, of `or`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    if isinstance(node, ast.BoolOp):
        return set().union(*map(texts, node.values))
    return set()


def called(call):
    """The name of the function or method that is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)


def parameters(node):
    """The names of what a function, or a class when it is made, takes by place."""
    if isinstance(node, ast.ClassDef):
        makers = [child for child in node.body if isinstance(child, ast.FunctionDef) and child.name == "__init__"]
        return parameters(makers[0]) if makers else [child.target.id for child in node.body if is_field(child)]
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def is_field(node):
    """Whether the line of a class is a dataclass's field."""
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


class Module:
    """The rule ids of one module's source, each with the line of one of its places."""

    def __init__(self, source):
        self.tree = ast.parse(source)
        self.ids = {}
        self.open = []
        self.positions = self.rule_parameters()
        self.makers = {"Finding", "replace"} | {
            node.name for node in self.nodes(ast.FunctionDef) if node.returns and ast.unparse(node.returns) == "Finding"
        }
        for node in ast.walk(self.tree):
            self.read(node)

    def nodes(self, *kinds):
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))

    def rule_parameters(self):
        """By the name of a function or class that takes a `rule`: its place in a call."""
        found = {}
        for node in self.nodes(ast.FunctionDef, ast.ClassDef):
            names = parameters(node)
            if "rule" in names:
                found[node.name] = names.index("rule")
        return found

    def add(self, node):
        for text in texts(node):
            self.ids.setdefault(text, node.lineno)

    def read(self, node):
        if isinstance(node, ast.Call):
            self.read_call(node)
        elif isinstance(node, ast.FunctionDef):
            self.read_defaults(node.args)
        elif isinstance(node, ast.Tuple) and len(node.elts) > 1:
            self.read_pair(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            self.read_assignment(node)

    def read_call(self, call):
        for keyword in call.keywords:
            if keyword.arg == "rule":
                self.add(keyword.value)
                self.read_variable(keyword.value)
        place = self.positions.get(called(call))
        if place is not None and place < len(call.args):
            self.add(call.args[place])

    def read_variable(self, value):
        """`rule=rule` comes from a place that is read, too; `rule=self.kind` from `kind: Literal[...]` of a class."""
        if texts(value) or isinstance(value, ast.BoolOp):
            return
        name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")
        if name == "rule" or name.endswith("_RULE"):
            return
        choices = [node.annotation for node in self.nodes(ast.AnnAssign) if getattr(node.target, "id", None) == name]
        for constant in (node for choice in choices for node in ast.walk(choice)):
            self.add(constant)
        if not choices:
            self.open.append(f"{value.lineno}: rule={ast.unparse(value)}")

    def read_defaults(self, arguments):
        named = [*arguments.posonlyargs, *arguments.args][-len(arguments.defaults) :] if arguments.defaults else []
        names = [argument.arg for argument in (*named, *arguments.kwonlyargs)]
        for name, default in zip(names, (*arguments.defaults, *arguments.kw_defaults), strict=True):
            if name == "rule" and default is not None:
                self.add(default)

    def read_pair(self, pair):
        """`("the-rule", Finding(...))` and `("error", "the-rule", message, hint)`."""
        first, second = pair.elts[:2]
        if len(pair.elts) == 2 and isinstance(second, ast.Call) and called(second) in self.makers:
            self.add(first)
        severity = texts(first)
        if len(pair.elts) > 2 and severity and severity <= SEVERITIES and not texts(second) & SEVERITIES:
            self.add(second)

    def read_assignment(self, assignment):
        """`rule = "the-rule"`, `TIMEOUT_RULE = "timeout"` and the keys of `RULES = {...}`."""
        targets = assignment.targets if isinstance(assignment, ast.Assign) else [assignment.target]
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        if assignment.value and any(name == "rule" or name.endswith("_RULE") for name in names):
            self.add(assignment.value)
        if isinstance(assignment.value, ast.Dict) and any(name.endswith("RULES") for name in names):
            for key in assignment.value.keys:
                self.add(key)


@cache
def modules():
    """All modules of the package by their paths."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): Module(path.read_text(encoding="utf-8")) for path in paths}


@cache
def rule_ids():
    """Rule ids with the places that they come from."""
    found = defaultdict(list)
    for path, module in modules().items():
        for rule, line in module.ids.items():
            found[rule].append(f"{path}:{line}")
    return dict(found)


@cache
def stories():
    """Chapters by the rule ids that they tell about."""
    found = defaultdict(list)
    for name in chapter_names():
        for rule in load_chapter(name).stories:
            found[rule].append(name)
    return dict(found)


SOURCE = """
DEFAULT_RULE = "by-name"
RULES: dict[str, object] = {"in-a-table": check, **others.RULES}
class Wrong(UenvError):
    rule: ClassVar[str] = "of-a-class"
    kind: Literal["of-a-choice", "of-another"]
    def keyword(self, *, rule="by-keyword"): raise BuildError(rule=rule)
    def diagnose(self): return Diagnostic(rule=self.kind, message="not-this")
    def fail(self, reason, rule="by-default"): raise BuildError(reason, rule=rule)
    def read(self): raise self.fail("not-this-one", "by-place")
class Refused(Exception):
    def __init__(self, reason, rule, hint): self.rule = rule
@dataclass
class Problem:
    message: str
    rule: str
def refuse(key: str, rule: str): pass
def pair() -> Finding: return Finding(message="not-this-text")
def judge():
    refuse("not-a-rule", "by-place-of-a-function")
    raise Refused("not-this-reason", "by-place-of-a-class", Problem("not-this-problem", "by-place-of-a-field"))
    raise RecipeError("text", rule="yes" if True else "no", hint="not-this-hint")
    yield "of-a-pair", Finding(message="a")
    yield "one" if True else "other", pair()
    found.append(("of-a-list", replace(found, at=())))
    yield ("error", "of-a-row", "message", "hint")
    raise BuildError("text", rule=f"of-{parts}")
    return ("not-a-pair", len("a")), ("error", "warning", "note")
"""


def test_ids_are_found_however_a_rule_is_named():
    expected = {
        "by-name", "in-a-table", "of-a-class", "of-a-choice", "of-another", "by-default", "by-keyword", "by-place",
        "by-place-of-a-function", "by-place-of-a-class", "by-place-of-a-field", "yes", "no", "of-a-pair",
        "one", "other", "of-a-list", "of-a-row",
    }  # fmt: skip
    assert set(Module(SOURCE).ids) == expected
    assert Module(SOURCE).open == ["27: rule=f'of-{parts}'"]


def test_the_source_names_its_rules_in_many_places():
    found = rule_ids()
    for rule in ("internal", "unknown-key", "env-path", "wheel-too-large", "no-wheel", "timeout", "edf-hooks",
                 "edf-relative-path", "cuda-driver", "srun-network", "variable-deprecated"):  # fmt: skip
        assert rule in found, rule
    assert len(found) > 200


def test_no_rule_is_named_in_a_way_that_cannot_be_read():
    assert {path: module.open for path, module in modules().items() if module.open} == {}


def test_every_rule_has_one_story():
    missing = {rule: places for rule, places in rule_ids().items() if rule not in stories()}
    assert missing == {}
    assert {rule: names for rule, names in stories().items() if len(names) > 1} == {}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_story_is_about_a_rule_of_the_code(chapter):
    told = list(load_chapter(chapter).stories)
    assert [rule for rule in told if rule not in rule_ids()] == []
    assert told


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_stories_are_prose(chapter):
    for rule, story in load_chapter(chapter).stories.items():
        assert not story.title.endswith("."), rule
        assert story.why.strip().endswith((".", ")")), rule
        assert story.remedy.strip().endswith((".", ")")), rule
        assert Counter(story.sources).most_common(1)[0][1] == 1, rule


def test_failures_of_jobs_name_rules_that_exist():
    named = {failure.id: failure.rule for failure in load_failures().failures if failure.rule is not None}
    assert {failure: rule for failure, rule in named.items() if find_story(rule) is None} == {}
    assert named


def test_failures_of_jobs_are_explained_by_their_ids_too():
    for failure in load_failures().failures:
        story = story_of(failure.id)
        assert story.remedy
        assert "{" not in story.why.replace("${", "")
