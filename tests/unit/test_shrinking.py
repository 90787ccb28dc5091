"""Our script and style sheet without what only readers need: the same program all the same."""

import pytest

from holdfast.report import shrinking


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ("const a = 1; // one\n/* two */ let b = a + +a;\n", "const a=1;let b=a+ +a;\n"),
        ("x - -y;  x --\n", "x- -y;x--\n"),
        ('const a = "// no  comment";\n', 'const a="// no  comment";\n'),
        ("const a = `two\n  lines  ${ a + 1 }`;\n", "const a=`two\n  lines  ${ a + 1 }`;\n"),
        ("return / [/] x/g.test(a) / 2;\n", "return/ [/] x/g.test(a)/2;\n"),
        ("f()\n[1].map(g)\nconst a = 1;\n", "f()\n[1].map(g)\nconst a=1;\n"),
        ("if (a)\n  b();\nelse\n  c();\n", "if(a)\nb();else\nc();\n"),
    ],
)
def test_what_means_something_is_kept(long, short):
    """Texts, templates, regular expressions, and line ends that may stand for a semicolon."""
    assert shrinking.script(long) == short


def test_a_name_that_is_only_a_variable_becomes_short_everywhere():
    """Also in templates; never a property, a key, a method, a global or a keyword."""
    long = (
        "const total = (values, other) => values.reduce((sum, each) => sum + each, other.total);\n"
        "const shown = [3].map((item) => `${item + limit} ${document.title}`);\n"
        "let limit = 2;\nclass Row { shown() { return { limited: limit, item: 1 }; } }\n"
    )
    short = shrinking.script(long)
    for gone in ("values", "other", "each", "limit ", "limit+"):
        assert gone not in short.replace("limited", "")
    for kept in ("total", "reduce", "shown()", "limited:", "item:1", "document.title", "return"):
        assert kept in short
    assert len(set(short)) > 10


def test_no_short_name_is_one_that_is_there_already():
    """It would be another variable."""
    assert shrinking.script("const a=1;const long=a;b(long,c);") == "const a=1;const d=a;b(d,c);\n"


def test_a_style_sheet_loses_only_blanks_that_mean_nothing():
    """A blank between selectors, in a text and in a calculation stays."""
    css = """
    /* head */
    .a .b , a > b:hover { margin : 0 auto; color: red; }
    @media (min-width: 10px) and (max-width: 20px) { p::before { content: " ; { "; } }
    i { width: calc(1px + (2 * 3px)) }
    """
    assert shrinking.style(css) == (
        ".a .b,a>b:hover{margin : 0 auto;color:red}"
        '@media (min-width: 10px) and (max-width: 20px){p::before{content:" ; { "}}'
        "i{width:calc(1px + (2 * 3px))}"
    )


def test_a_variable_of_a_style_sheet_has_one_short_name_and_a_class_keeps_its_own():
    """The most frequent the shortest; `.bar--long` is no variable."""
    css = ":root { --ink: red; --soft-ink: blue } .bar--ink { color: var(--soft-ink, var(--ink)) }"
    css += "i { color: var(--soft-ink) }"
    assert shrinking.style(css) == (
        ":root{--b:red;--a:blue}.bar--ink{color:var(--a,var(--b))}i{color:var(--a)}"
    )
