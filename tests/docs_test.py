"""The code in the documentation runs as it stands."""

import ast
import inspect
import operator
import pathlib
import pkgutil
import re
import textwrap

import pytest
import yaml

import finetune_keras
from finetune_keras import testing

# Examples make few steps.
pytestmark = pytest.mark.usefixtures("op_by_op", "garbage_stays")
ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(
    r"^(?P<above>[^\n]*)\n(?P<indent> *)```(?P<tag>[\w+-]*) *\n"
    r"(?P<code>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)


def blocks(text, to_run=True):
    """Lists `(line, code)` of the fenced python blocks that are to run.

    Or of the others, that need a network, hardware or data of the reader.
    """
    text = "\n" + text
    return [
        (
            text.count("\n", 0, match.start("code")),
            textwrap.dedent(match["code"]),
        )
        for match in FENCE.finditer(text)
        if match["tag"] in ("python", "py")
        and to_run == is_run(match["tag"], match["above"])
    ]


def is_run(tag, above):
    return tag == "python" and "<!-- not run -->" not in above


def run(found, name, folder):
    namespace = {"__name__": "example"}
    for line, code in found:
        # Line numbers of the file, so that a traceback points into it.
        source = compile("\n" * (line - 1) + code, f"{name}:{folder}", "exec")
        exec(source, namespace)


def public_objects():
    """Yields what is exported; of an exported module, what it defines."""
    for module in (finetune_keras, testing):
        for name in module.__all__:
            obj = getattr(module, name)
            yield f"{module.__name__}.{name}", obj
            if inspect.ismodule(obj):
                yield from vars_of(obj)


def vars_of(module):
    for name, obj in vars(module).items():
        if callable(obj) and not name.startswith("_"):
            yield f"{module.__name__}.{name}", obj


def documented():
    """Yields each public object, and each public method that is our own."""
    for name, obj in public_objects():
        yield name, obj
        for key, member in vars(obj).items() if inspect.isclass(obj) else ():
            if not key.startswith("_") and inspect.getdoc(member):
                yield f"{name}.{key}", member


def needs_example(obj):
    exception = inspect.isclass(obj) and issubclass(obj, Exception)
    return callable(obj) and not exception


def doc_of(obj):
    """The docstring of the object itself, not that of a class it extends."""
    return inspect.cleandoc(getattr(obj, "__doc__", None) or "")


WITH_EXAMPLE = [(n, obj) for n, obj in documented() if blocks(doc_of(obj))]


@pytest.mark.backends("blocks.md")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(blocks(page.read_text()), str(page), tmp_path.name)


@pytest.mark.parametrize(
    ("name", "obj"), WITH_EXAMPLE, ids=[name for name, _ in WITH_EXAMPLE]
)
def test_docstring(name, obj, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(blocks(doc_of(obj)), name, tmp_path.name)


def test_every_public_object_has_an_example():
    names = {name for name, _ in WITH_EXAMPLE}
    objects = dict(public_objects())
    lacking = [n for n in objects if needs_example(objects[n])]
    assert sorted(set(lacking) - names) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_between_pages(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert [x for x in links if not (page.parent / x).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_is_not_run_calls_what_there_is(page):
    for _, code in blocks(page.read_text(), to_run=False):
        for node in ast.walk(ast.parse(code)):
            called = isinstance(node, ast.Call) and ast.unparse(node.func)
            if called and re.fullmatch(r"ft(\.\w+)+", called):
                obj = operator.attrgetter(called[3:])(finetune_keras)
                names = {word.arg: None for word in node.keywords}
                inspect.signature(obj).bind_partial(*node.args, **names)


def pages_of(navigation):
    """Yields the files that the navigation of the site names."""
    for entry in navigation:
        for place in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [place] if isinstance(place, str) else pages_of(place)


def test_every_page_is_in_the_navigation_of_the_site():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = {str(x.relative_to(ROOT / "docs")) for x in PAGES[1:]}
    assert set(pages_of(settings["nav"])) == pages


def test_every_public_name_is_in_the_reference():
    text = "".join(
        path.read_text() for path in (ROOT / "docs/reference").glob("*.md")
    )
    public = {
        f"{module.__name__}.{name}"
        for module in (finetune_keras, finetune_keras.plans, testing)
        for name in module.__all__
    } - {"finetune_keras.plans"}
    # The site is made without an import, which alone finds these.
    lazy = {
        f"finetune_keras.{name}": f"{module}.{name}"
        for name, module in finetune_keras._LAZY.items()
    }
    found = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    wanted = {lazy.get(name, name) for name in public}
    assert sorted(wanted - set(found)) == []
    for name in set(found) - wanted:
        assert pkgutil.resolve_name(name), name


def test_blocks_are_found_as_told():
    text = textwrap.dedent(
        """
        ```python
        first = 1
        ```

        <!-- not run -->
        ```python
        raise SystemError
        ```

        ```py
        raise SystemError
        ```

        - in a list

          ```python
          second = first + 1
          ```
        """
    )
    assert [code for _, code in blocks(text)] == [
        "first = 1\n",
        "second = first + 1\n",
    ]


def test_a_broken_block_fails(tmp_path):
    with pytest.raises(NameError, match="missing"):
        run(blocks("```python\nx = missing\n```\n"), "page", tmp_path.name)
